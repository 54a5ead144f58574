"""The CPU backend: allocates, picks the kernels for this processor, and calls them.

Kernels exist for each instruction set, real type and layout. The best set that this processor has is
used; SRWM_INSTRUCTION_SET (baseline, avx2, avx512) asks for one by name. Threads (srwm/_threads.py)
share out the sequences; where there are fewer of those and their heads are large, several threads share the
columns of one, and the last bits of results depend on how many do, though never on timing.

Arrays come in the four dtypes; bfloat16 also as int16, as tensors of it do, which NumPy has no name for.
"""

from __future__ import annotations

import importlib
import os
import threading
from functools import cache, lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from srwm._broadcast import sequences_by_weight, sum_to_shape
from srwm._cy import processor
from srwm._cy.recycled import Recycled
from srwm._threads import default_threads, threads_allowed, threads_described

BFLOAT16_AS_INT16 = True

INSTRUCTION_SETS = ("avx512", "avx2", "baseline")  # best first

# Steps from one kept W to the next. Between them W comes back by undoing updates: 32 costs D M / 32
# entries a step beside the 3 D + M + 8 of the trace, and keeps a W that grows as exact as stored ones.
SEGMENT = 32

# A last segment of this many steps or fewer is replayed: that costs less than the memory of one more
# W, of which single steps of many sequences would need most.
REPLAYED = 4

# Sequences are computed side by side, one in each lane of a vector, where the states of so many have at
# most these bytes, forward alone and where there is a backward pass, which walks through their gradients as
# well; and where there are steps enough to pay for bringing the states into that layout.
SIDE_BY_SIDE_BYTES = {"srwm": (160 << 10, 80 << 10), "delta": (40 << 10, 80 << 10)}
SIDE_BY_SIDE_STEPS = 4

# From this size on what is allocated is recycled: smaller blocks come from memory that is in use anyway.
RECYCLED_BYTES = 64 << 10

# Up to this size a thread's scratch is its own as long as it lives, as single steps ask for it; larger
# scratch is recycled, where all threads together are bounded.
SCRATCH_HELD = 1 << 20

# Below this much work (multiply-adds; 0.2 ms) a second thread costs more than it saves: waking one takes
# milliseconds where the threads have been idle for long.
WORK_PER_THREAD = 1 << 22

# Where sequences are fewer than threads, those that share the columns of one have at least this many
# entries of its state each, so that two begin at D = 147. A step's two products with so many take 2.8 us
# forward in float32 (AVX2, 2.4 GHz), and over twice that backward. Sharing costs a meeting of the threads a
# step, 0.2 us between two, and the softmaxes on every one of them. Two threads of one core gain a third of
# the time at D = 256, hardly any at 128; two cores would gain from fewer entries on, but where other
# programs want the processors too, threads wait for one another at every step, which a small gain is not
# worth.
WORK_PER_MEMBER = 1 << 15

# Chunks of sequences whose gradients of one W are summed before the chunks are. Fixed, so that the
# sums are the same whatever the number of threads.
CHUNKS = 64

_per_thread = threading.local()

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_INT16, _UINT8 = np.dtype(np.int16), np.dtype(np.uint8)


def unusable() -> str | None:
    """Why this backend cannot run here."""
    try:
        kernels(_FLOAT32, "one")
    except ImportError as missing:
        return f"its extension modules are not built ({missing}); reinstall srwm"
    return None


def declines(device: str) -> str | None:
    """Why this backend does not take arrays of `device` ("cpu", "cuda")."""
    return None if device == "cpu" else f"it takes CPU arrays, these are on the {device}"


def configuration() -> dict[str, str]:
    """What this backend computes with, for `show_config`."""
    asked = " (asked for by SRWM_INSTRUCTION_SET)" if os.environ.get("SRWM_INSTRUCTION_SET") else ""
    return {
        "instruction set": instruction_set() + asked,
        "OpenMP": "yes" if processor.has_openmp() else "no, the kernels were built without",
        "threads": threads_described() if processor.has_openmp() else "1, for want of OpenMP",
    }


@cache
def instruction_set() -> str:
    """The instruction set whose kernels are used."""
    asked = os.environ.get("SRWM_INSTRUCTION_SET")
    if not asked:
        return next(name for name in INSTRUCTION_SETS if processor.has(name))
    if asked not in INSTRUCTION_SETS or not processor.has(asked):
        usable = ", ".join(name for name in INSTRUCTION_SETS if processor.has(name))
        raise ValueError(f"SRWM_INSTRUCTION_SET: expected one of {usable} on this processor, got {asked!r}")
    return asked


@cache
def kernels(real: np.dtype, layout: str) -> Any:
    """The kernel module that computes in `real`, sequences in the layout "one" or "many"."""
    real_type = "f64" if real == _FLOAT64 else "f32"
    return importlib.import_module(f"srwm._cy.{instruction_set()}_{real_type}_{layout}")


def _threads(num_threads: int | None, pieces: int, members: int, work: int) -> int:
    """Threads for pieces of `work` multiply-adds altogether, each piece for at most `members` of them."""
    if pieces * members < 2 or work < 2 * WORK_PER_THREAD or not threads_allowed():
        return 1
    wanted = default_threads() if num_threads is None else num_threads
    return max(1, min(wanted, pieces * members, work // WORK_PER_THREAD))


def _scratch(size: int) -> np.ndarray:
    """Working memory of the calling thread, in bytes: not fresh, since page faults take time."""
    if size > SCRATCH_HELD:
        return _new((size,), _UINT8)
    held = getattr(_per_thread, "scratch", None)
    if held is None or held.nbytes < size:
        held = _per_thread.scratch = np.empty(size, np.uint8)
    return held


def real_of(dtype: np.dtype) -> np.dtype:
    """The real type that arrays of a dtype are computed in."""
    return _FLOAT64 if dtype == _FLOAT64 else _FLOAT32


def _stored(a: Any) -> Any:
    """An array of halves or flags, or None, as the kernels take it: bfloat16 as int16, aligned."""
    if a is None:
        return None
    a = a if a.dtype.kind in "fib" else a.view(_INT16)
    return a if a.flags.aligned else a.copy()  # Python's buffers have other names for halves that are not


def _rounded(a: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A sum of the real type in the dtype that was asked for."""
    if dtype != _INT16:
        return a.astype(dtype, copy=False)
    # bfloat16, to nearest, ties to even. Not left to torch, whose conversion hangs in forked children.
    bits = a.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    quiet_nan = bits >> 16 | 0x40
    return np.where(np.isnan(a), quiet_nan, rounded).astype(np.uint16).view(np.int16)


class Gathering(NamedTuple):
    """How the gradients of shared states are summed: in slots of chunks, then the slots of each state."""

    slots: np.ndarray  # (N,) for each position the slot that its gradient is added to
    n_slots: int
    firsts: np.ndarray | None  # (states,) the first slot of each state; None where each has one slot
    each: int | None  # slots of each state, where they are as many for all of them and not one
    many: np.ndarray  # chunks of the positions computed side by side: where each starts, and the end
    one: np.ndarray  # chunks of the others


class Plan(NamedTuple):
    """What a call's shapes and dtype decide. Sequences have positions, those of one state side by side."""

    real: np.dtype  # what is computed in
    is_half: bool  # whether that is not what is stored
    N: int  # sequences
    work: int  # multiply-adds of a product of every step with the state
    side_by_side: int  # how many of the positions, from the first on, are computed side by side
    order: np.ndarray | None  # (N,) the sequence at each position; None: 0, 1, ...
    parts: tuple[tuple[Any, int, int], ...]  # (kernels, first position, positions)
    members: int  # the most threads that gain by sharing one sequence
    entries: int  # kept of each sequence
    segments: int
    forward_bytes: int  # of scratch for each thread
    backward_bytes: int


# A layout of an operator: (entries kept per step and sequence, per segment, scratch forward, backward).
_LAYOUT_OF = {"srwm": "layout", "delta": "delta_layout"}


@lru_cache(maxsize=256)
def _layouts(op: str, real: np.dtype, D: int, Do: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The layouts of one sequence at a time and of many side by side."""
    one, many = (getattr(kernels(real, layout), _LAYOUT_OF[op])(D, Do) for layout in ("one", "many"))
    return one, many


@lru_cache(maxsize=256)
def _plan(
    op: str,
    keep: bool,
    dtype: np.dtype,
    lead: tuple[int, ...],
    state: tuple[int, ...],
    L: int,
    D: int,
    Do: int,
) -> Plan:
    """The plan for sequences of L steps, with a backward pass or not; `state` is the shape of W or S."""
    real, N = real_of(dtype), prod(lead)
    one, many = _layouts(op, real, D, Do)
    lanes = kernels(real, "many").sequences()
    fits = many[1] * lanes * real.itemsize <= SIDE_BY_SIDE_BYTES[op][keep]
    pays = lanes > 1 and L >= SIDE_BY_SIDE_STEPS and N // lanes >= default_threads()
    side_by_side = N // lanes * lanes if fits and pays else 0
    parts = (
        (kernels(real, "many"), 0, side_by_side),
        (kernels(real, "one"), side_by_side, N - side_by_side),
    )
    scratch = many if side_by_side else one
    return Plan(
        real=real,
        is_half=dtype.itemsize == 2,
        N=N,
        work=N * L * state[-2] * state[-1],
        side_by_side=side_by_side,
        order=_order(lead, state[:-2]),
        parts=tuple(part for part in parts if part[2] > 0),
        members=max(1, state[-2] * state[-1] // WORK_PER_MEMBER),
        entries=_entries_kept(op, real, L, D, Do),
        segments=segments(L),
        forward_bytes=real.itemsize * max(one[2], scratch[2]),
        backward_bytes=real.itemsize * max(one[3], scratch[3]),
    )


@lru_cache(maxsize=16)  # these are as long as there are sequences
def _order(lead: tuple[int, ...], state_lead: tuple[int, ...]) -> np.ndarray | None:
    """The sequences, those that share a state together; None where they are together as they are."""
    if prod(state_lead) in (1, prod(lead)):
        return None
    return sequences_by_weight(lead, state_lead).reshape(-1)


def _chunk_starts(first: int, last: int, lanes: int) -> np.ndarray:
    """Where the chunks of positions first ... last - 1 start, and where the last one ends."""
    groups = (last - first) // lanes
    size = lanes * max(1, -(-groups // CHUNKS))
    return np.append(np.arange(first, last, size, dtype=np.int64), np.int64(last))


@lru_cache(maxsize=16)
def _gathering(
    lead: tuple[int, ...], state_lead: tuple[int, ...], side_by_side: int, lanes: int
) -> Gathering:
    N, states = prod(lead), prod(state_lead)
    many, one = _chunk_starts(0, side_by_side, lanes), _chunk_starts(side_by_side, N, 1)
    positions = np.arange(N, dtype=np.int64)
    state = positions * states // max(1, N)
    chunk = np.searchsorted(np.concatenate([many[:-1], one[:-1]]), positions, side="right")
    is_new = np.ones(N, bool)
    is_new[1:] = (state[1:] != state[:-1]) | (chunk[1:] != chunk[:-1])
    slots = np.cumsum(is_new) - 1
    firsts = np.searchsorted(state[is_new], np.arange(states))
    n_slots = int(is_new.sum())
    each = n_slots // max(1, states)
    is_even = each * states == n_slots and np.array_equal(firsts, np.arange(states) * each)
    return Gathering(
        slots=slots,
        n_slots=n_slots,
        firsts=None if n_slots == states else firsts,
        each=each if is_even and each > 1 else None,
        many=many,
        one=one,
    )


def _summed(g: np.ndarray, gathering: Gathering, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of the states, of that shape, from those in the slots, (slots, rows, columns)."""
    if g.shape[0] == 0:
        return np.zeros(shape, g.dtype)
    if gathering.each is not None:
        g = g.reshape(-1, gathering.each, *g.shape[1:]).sum(axis=1)
    elif gathering.firsts is not None:
        g = np.add.reduceat(g, gathering.firsts, axis=0)
    return g.reshape(shape)


def segments(L: int) -> int:
    """Segments of L steps whose last W is kept: all but a last one of at most REPLAYED steps."""
    return (L + SEGMENT - 1 - REPLAYED) // SEGMENT


def _entries_kept(op: str, real: np.dtype, L: int, D: int, Do: int) -> int:
    """Entries kept of a sequence: its trace, then a state per segment; either layout has room in them."""
    one, _ = _layouts(op, real, D, Do)
    return L * one[0] + segments(L) * one[1]


def kept_shape(dtype: np.dtype, lead: tuple[int, ...], L: int, D: int, Do: int) -> tuple[int, ...]:
    """Shape of what forward keeps for backward; what is in it only this backend knows."""
    return (*lead, _entries_kept("srwm", dtype, L, D, Do))


def delta_kept_shape(dtype: np.dtype, lead: tuple[int, ...], L: int, D: int, Do: int) -> tuple[int, ...]:
    """As `kept_shape`, of the delta rule."""
    return (*lead, _entries_kept("delta", dtype, L, D, Do))


def _new(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array, not initialised; large ones on memory that was used before."""
    size = prod(shape) * dtype.itemsize
    if size < RECYCLED_BYTES:
        return np.empty(shape, dtype)
    return np.frombuffer(memoryview(Recycled(size)).cast("B"), np.uint8).view(dtype).reshape(shape)


def _run(
    plan: Plan,
    kernel: str,
    operands: tuple[Any, ...],
    results: tuple[np.ndarray, np.ndarray | None],
    kept: np.ndarray | None,
    num_threads: int | None,
) -> None:
    """Run a forward kernel over all positions."""
    arrays = (*map(_stored, operands), *map(_stored, results)) if plan.is_half else (*operands, *results)
    threads = _threads(num_threads, plan.N, plan.members, 3 * plan.work)
    scratch = _scratch(threads * plan.forward_bytes)
    for module, first, count in plan.parts:
        getattr(module, kernel)(
            *(
                *arrays,
                kept,
                scratch,
                plan.order,
                first,
                count,
                SEGMENT,
                plan.segments,
                threads,
                plan.members,
            )
        )


def _run_backward(
    plan: Plan,
    kernel: str,
    operands: tuple[Any, ...],
    kept: np.ndarray,
    incoming: tuple[np.ndarray, np.ndarray | None],
    gradients: tuple[np.ndarray, ...],
    g_state: np.ndarray,
    gathering: Gathering,
    threads: int,
) -> None:
    """Run a backward kernel over all chunks: the gradients of the sequences, those of states in slots."""
    if plan.is_half:
        operands, incoming = tuple(map(_stored, operands)), (_stored(incoming[0]), _stored(incoming[1]))
        gradients = tuple(map(_stored, gradients))
    scratch = _scratch(threads * plan.backward_bytes)
    for layout, starts in (("many", gathering.many), ("one", gathering.one)):
        if len(starts) > 1:
            getattr(kernels(plan.real, layout), kernel)(
                *(*operands, kept, *incoming, plan.order, gathering.slots, starts),
                *(*gradients, g_state, scratch, SEGMENT, plan.segments, threads, plan.members),
            )


def forward(
    x: np.ndarray,
    W: np.ndarray,
    reset: np.ndarray | None,
    lead: tuple[int, ...],
    *,
    keep: bool,
    return_state: bool = True,
    num_threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """y (*lead, L, Do); W_next (*lead, D, M) and what backward wants, where asked for, or None."""
    L, D = x.shape[-2:]
    M = W.shape[-1]
    Do = M - 2 * D - 4
    plan = _plan("srwm", keep, x.dtype, lead, W.shape, L, D, Do)
    y = _new((*lead, L, Do), x.dtype)
    W_next = _new((*lead, D, M), x.dtype) if return_state else None
    kept = _new((*lead, plan.entries), plan.real) if keep else None
    _run(plan, "forward", (x, W, reset), (y, W_next), kept, num_threads)
    return y, W_next, kept


def backward(
    x: np.ndarray,
    W: np.ndarray,
    reset: np.ndarray | None,
    lead: tuple[int, ...],
    kept: np.ndarray,
    grad_y: np.ndarray,
    grad_W_next: np.ndarray | None,
    *,
    num_threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """gx and gW, of exactly the shapes of x and W."""
    L, D = x.shape[-2:]
    M = W.shape[-1]
    plan = _plan("srwm", True, x.dtype, lead, W.shape, L, D, M - 2 * D - 4)
    gathering = _gathering(lead, W.shape[:-2], plan.side_by_side, kernels(plan.real, "many").sequences())
    whole = (*lead, L, D)
    gx = _new(whole, x.dtype if x.shape == whole else plan.real)
    gW = np.zeros((gathering.n_slots, D, M), plan.real)
    threads = _threads(num_threads, plan.N, plan.members, 7 * plan.work)
    incoming = (grad_y, grad_W_next)
    _run_backward(plan, "backward", (x, W, reset), kept, incoming, (gx,), gW, gathering, threads)
    if x.shape != whole:
        gx = _rounded(sum_to_shape(np, gx, x.shape), x.dtype)
    return gx, _rounded(_summed(gW, gathering, W.shape), W.dtype)


def delta_forward(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    beta: np.ndarray,
    S: np.ndarray,
    reset: np.ndarray | None,
    lead: tuple[int, ...],
    *,
    keep: bool,
    return_state: bool = True,
    num_threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """y (*lead, L, Do); S_next (*lead, D, Do) and what backward wants, where asked for, or None."""
    L, D = q.shape[-2:]
    Do = v.shape[-1]
    plan = _plan("delta", keep, q.dtype, lead, S.shape, L, D, Do)
    y = _new((*lead, L, Do), q.dtype)
    S_next = _new((*lead, D, Do), q.dtype) if return_state else None
    kept = _new((*lead, plan.entries), plan.real) if keep else None
    _run(plan, "delta_forward", (q, k, v, beta, S, reset), (y, S_next), kept, num_threads)
    return y, S_next, kept


def delta_backward(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    beta: np.ndarray,
    S: np.ndarray,
    reset: np.ndarray | None,
    lead: tuple[int, ...],
    kept: np.ndarray,
    grad_y: np.ndarray,
    grad_S_next: np.ndarray | None,
    *,
    num_threads: int | None = None,
) -> tuple[np.ndarray, ...]:
    """gq, gk, gv, gbeta and gS, of exactly the shapes of q, k, v, beta and S."""
    L, D = q.shape[-2:]
    Do = v.shape[-1]
    plan = _plan("delta", True, q.dtype, lead, S.shape, L, D, Do)
    gathering = _gathering(lead, S.shape[:-2], plan.side_by_side, kernels(plan.real, "many").sequences())
    gq, gk, gv = (
        _new((*lead, *a.shape[-2:]), q.dtype if a.shape[:-2] == lead else plan.real) for a in (q, k, v)
    )
    gbeta = _new((*lead, L, 1), plan.real)  # a column, as the kernels see a row of each sequence
    gS = np.zeros((gathering.n_slots, D, Do), plan.real)
    threads = _threads(num_threads, plan.N, plan.members, 6 * plan.work)
    incoming, gradients = (grad_y, grad_S_next), (gq, gk, gv, gbeta)
    _run_backward(
        plan, "delta_backward", (q, k, beta, S, reset), kept, incoming, gradients, gS, gathering, threads
    )
    summed = [
        g if g.dtype == q.dtype and g.shape == a.shape else _rounded(sum_to_shape(np, g, a.shape), q.dtype)
        for g, a in ((gq, q), (gk, k), (gv, v), (gbeta[..., 0], beta))
    ]
    return (*summed, _rounded(_summed(gS, gathering, S.shape), q.dtype))


RUNS_ON_ARRAYS = False
NEEDS_ALIGNMENT = False


def takes(op):
    return False
