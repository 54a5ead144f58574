"""The CPU backend: allocates, picks the kernels for this processor, and calls them.

Kernels exist for each instruction set, real type and layout. The best set that this processor has is
used; SRWM_INSTRUCTION_SET (baseline, avx2, avx512) asks for one by name. Threads: the argument
`num_threads`, else SRWM_NUM_THREADS, else OMP_NUM_THREADS, else all processors of this process. They
share out the sequences; where there are fewer of those and their heads are large, several threads share the
columns of one, and the last bits of results depend on how many do, though never on timing.

Arrays come in the four dtypes; bfloat16 also as int16, as tensors of it do, which NumPy has no name for.
Of those, gradients that are sums are returned in float32, for the caller to round.
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


class _OpenMP:
    """Whether it has threads in this process, or has lost them.

    A forked child has none of its parent's, and GNU's OpenMP would wait for them forever.
    """

    has_threads = False
    has_lost_them = False

    @classmethod
    def after_fork(cls) -> None:
        cls.has_lost_them = cls.has_lost_them or cls.has_threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_OpenMP.after_fork)

_FLOAT32, _FLOAT64, _INT16 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int16)


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


@cache
def instruction_set() -> str:
    """The instruction set whose kernels are used."""
    asked = os.environ.get("SRWM_INSTRUCTION_SET")
    if asked is None:
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


@cache
def _default_threads() -> int:
    for name in ("SRWM_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name)
        if value is not None:
            if not value.isdecimal() or int(value) < 1:
                raise ValueError(f"{name}: expected an integer >= 1, got {value!r}")
            return int(value)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads(num_threads: int | None, pieces: int, members: int, work: int) -> int:
    """Threads for pieces of `work` multiply-adds altogether, each piece for at most `members` of them."""
    if pieces * members < 2 or work < 2 * WORK_PER_THREAD or _OpenMP.has_lost_them:
        return 1
    wanted = _default_threads() if num_threads is None else num_threads
    threads = max(1, min(wanted, pieces * members, work // WORK_PER_THREAD))
    if threads > 1:
        _OpenMP.has_threads = True
    return threads


def _scratch(size: int) -> np.ndarray:
    """Working memory of the calling thread, in bytes: kept, since fresh pages are dear."""
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
    """A sum of the real type in the dtype that was asked for, if NumPy has it."""
    return a if dtype == _INT16 else a.astype(dtype, copy=False)


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
    lanes: int  # how many sequences are computed side by side, where any are
    fits: bool  # whether they are, where there are enough of them for all threads
    order: np.ndarray | None  # (N,) the sequence at each position; None: 0, 1, ...
    members: int  # the most threads that gain by sharing one sequence
    entries: int  # kept of each sequence
    segments: int
    forward_bytes: int  # of scratch for each thread
    backward_bytes: int


# A layout of an operator: entries kept of a sequence for each step, for each segment but a short last one,
# for each segment; entries of scratch forward, backward.
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
    initial: tuple[int, ...],
    L: int,
    D: int,
    Do: int,
) -> Plan:
    """The plan for sequences of L steps, with a backward pass or not; `initial` is the shape of W or S."""
    real, N = real_of(dtype), prod(lead)
    one, many = _layouts(op, real, D, Do)
    lanes = kernels(real, "many").sequences()
    entries = initial[-2] * initial[-1]
    return Plan(
        real=real,
        is_half=dtype.itemsize == 2,
        N=N,
        work=N * L * entries,
        lanes=lanes,
        fits=lanes > 1
        and L >= SIDE_BY_SIDE_STEPS
        and many[1] * lanes * real.itemsize <= SIDE_BY_SIDE_BYTES[op][keep],
        order=_order(lead, initial[:-2]),
        members=max(1, entries // WORK_PER_MEMBER),
        entries=_entries_kept(op, real, L, D, Do),
        segments=segments(L),
        forward_bytes=real.itemsize * max(one[3], many[3]),
        backward_bytes=real.itemsize * max(one[4], many[4]),
    )


def _side_by_side(plan: Plan, threads: int) -> int:
    """How many of the positions, from the first on, that many threads compute side by side."""
    groups = plan.N // plan.lanes
    return groups * plan.lanes if plan.fits and groups >= threads else 0


def _kept_side_by_side(op: str, plan: Plan, lead: tuple[int, ...], kept: np.ndarray) -> int:
    """As `_side_by_side`, of what forward kept, which says so itself; raises where it does not."""
    if kept.shape == (*lead, plan.entries) and kept.dtype == plan.real:
        flat, most = kept.reshape(plan.N, plan.entries), plan.N // plan.lanes * plan.lanes
        groups = flat[:most].reshape(-1, plan.lanes * plan.entries)[:, -plan.lanes :]
        many = most if most > 0 and groups[0, -1] == plan.lanes else 0
        if (many == 0 or (groups == plan.lanes).all()) and (flat[many:, -1] == 1).all():
            return many
    raise ValueError(
        f"{op}: expected what forward saved for backward, {plan.real} {(*lead, plan.entries)}, got "
        f"{kept.dtype} {kept.shape} of other content; pass what forward of the same operands returned"
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
    lead: tuple[int, ...],
    initial_lead: tuple[int, ...],
    own_lead: tuple[int, ...],
    side_by_side: int,
    lanes: int,
) -> Gathering:
    """That of matrices with the leading axes `own_lead`, of sequences in the order of `initial_lead`."""
    N, states, order = prod(lead), prod(own_lead), _order(lead, initial_lead)
    many, one = _chunk_starts(0, side_by_side, lanes), _chunk_starts(side_by_side, N, 1)
    starts = np.concatenate([many[:-1], one[:-1]])
    state = np.broadcast_to(np.arange(states).reshape(own_lead), lead).reshape(-1)
    chunk = np.searchsorted(starts, np.arange(N), side="right")
    of_slot, slots = np.unique(
        (state if order is None else state[order]) * (len(starts) + 1) + chunk, return_inverse=True
    )
    n_slots = len(of_slot)
    firsts = np.searchsorted(of_slot // (len(starts) + 1), np.arange(states))
    each = n_slots // max(1, states)
    is_even = each * states == n_slots and np.array_equal(firsts, np.arange(states) * each)
    return Gathering(
        slots=slots.astype(np.int64, copy=False),
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
    """Entries kept of a sequence, whole cache lines: there is room for either layout, and to say which."""
    one, _ = _layouts(op, real, D, Do)
    line = 64 // real.itemsize
    entries = L * one[0] + segments(L) * one[1] + -(-L // SEGMENT) * one[2] + 1
    return -(-entries // line) * line


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
    side_by_side = _side_by_side(plan, threads)
    scratch = _scratch(threads * plan.forward_bytes)
    for layout, first, count in (("many", 0, side_by_side), ("one", side_by_side, plan.N - side_by_side)):
        if count > 0:
            getattr(kernels(plan.real, layout), kernel)(
                *(*arrays, kept, scratch, plan.order, first, count),
                *(SEGMENT, plan.segments, threads, plan.members),
            )


def _run_backward(
    plan: Plan,
    kernel: str,
    operands: tuple[Any, ...],
    kept: np.ndarray,
    incoming: tuple[np.ndarray, np.ndarray | None],
    gradients: tuple[np.ndarray, ...],
    initial: Any,
    state: Any,
    lead: tuple[int, ...],
    threads: int,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Run a backward kernel over all chunks: it fills `gradients`; those of `initial`, `state` return."""
    side_by_side = _kept_side_by_side(f"srwm.{kernel}", plan, lead, kept)
    initial_lead = () if initial is None else initial.shape[:-2]
    gathering = _gathering(lead, initial_lead, initial_lead, side_by_side, plan.lanes)
    sums: list[Any] = [None, None]
    slots: list[Any] = [None, None]
    for i, a in enumerate((initial, state)):
        if a is not None:
            own = (
                gathering
                if i == 0
                else _gathering(lead, initial_lead, a.shape[:-2], side_by_side, plan.lanes)
            )
            sums[i], slots[i] = (np.zeros((own.n_slots, *a.shape[-2:]), plan.real), own), own.slots
    if plan.is_half:
        operands, incoming = tuple(map(_stored, operands)), (_stored(incoming[0]), _stored(incoming[1]))
        gradients = tuple(map(_stored, gradients))
    scratch = _scratch(threads * plan.backward_bytes)
    for layout, starts in (("many", gathering.many), ("one", gathering.one)):
        if len(starts) > 1:
            getattr(kernels(plan.real, layout), kernel)(
                *(*operands, kept, *incoming, plan.order, *slots, starts, *gradients),
                *(None if of is None else of[0] for of in sums),
                *(scratch, SEGMENT, plan.segments, threads, plan.members),
            )
    g_initial, g_state = (
        None if of is None else _rounded(_summed(of[0], of[1], a.shape), a.dtype)
        for of, a in zip(sums, (initial, state), strict=True)
    )
    return g_initial, g_state


def _state_dtype(first: np.ndarray, state: np.ndarray | None) -> np.dtype:
    """The dtype of the returned state: that of the one given, else of the first operand."""
    return first.dtype if state is None else state.dtype


def _shape_of_initial(initial: np.ndarray | None, rows: int, columns: int) -> tuple[int, ...]:
    return (rows, columns) if initial is None else initial.shape


def forward(
    x: np.ndarray,
    W: np.ndarray,
    reset: np.ndarray | None,
    lead: tuple[int, ...],
    *,
    keep: bool,
    state: np.ndarray | None = None,
    return_state: bool = True,
    num_threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """y (*lead, L, Do); W_next (*lead, D, M) and what backward wants, where asked for, or None."""
    L, D = x.shape[-2:]
    M = W.shape[-1]
    Do = M - 2 * D - 4
    plan = _plan("srwm", keep, x.dtype, lead, W.shape, L, D, Do)
    y = _new((*lead, L, Do), x.dtype)
    W_next = _new((*lead, D, M), _state_dtype(x, state)) if return_state else None
    kept = _new((*lead, plan.entries), plan.real) if keep else None
    _run(plan, "forward", (x, W, state, reset), (y, W_next), kept, num_threads)
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
    state: np.ndarray | None = None,
    num_threads: int | None = None,
) -> tuple[np.ndarray | None, ...]:
    """gx, gW, and gstate if there is a state: of exactly the shapes and dtypes of x, W and state."""
    L, D = x.shape[-2:]
    M = W.shape[-1]
    plan = _plan("srwm", True, x.dtype, lead, W.shape, L, D, M - 2 * D - 4)
    whole = (*lead, L, D)
    gx = _new(whole, x.dtype if x.shape == whole else plan.real)
    threads = _threads(num_threads, plan.N, plan.members, 7 * plan.work)
    incoming, operands = (grad_y, grad_W_next), (x, W, state, reset)
    gW, gstate = _run_backward(plan, "backward", operands, kept, incoming, (gx,), W, state, lead, threads)
    if x.shape != whole:
        gx = _rounded(sum_to_shape(np, gx, x.shape), x.dtype)
    return (gx, gW) if state is None else (gx, gW, gstate)


def delta_forward(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    beta: np.ndarray,
    S: np.ndarray | None,
    reset: np.ndarray | None,
    lead: tuple[int, ...],
    *,
    keep: bool,
    state: np.ndarray | None = None,
    return_state: bool = True,
    num_threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """y (*lead, L, Do); S_next (*lead, D, Do) and what backward wants, where asked for, or None."""
    L, D = q.shape[-2:]
    Do = v.shape[-1]
    plan = _plan("delta", keep, q.dtype, lead, _shape_of_initial(S, D, Do), L, D, Do)
    y = _new((*lead, L, Do), q.dtype)
    S_next = _new((*lead, D, Do), _state_dtype(q, state)) if return_state else None
    kept = _new((*lead, plan.entries), plan.real) if keep else None
    operands = (q, k, v, beta, S, state, reset)
    _run(plan, "delta_forward", operands, (y, S_next), kept, num_threads)
    return y, S_next, kept


def delta_backward(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    beta: np.ndarray,
    S: np.ndarray | None,
    reset: np.ndarray | None,
    lead: tuple[int, ...],
    kept: np.ndarray,
    grad_y: np.ndarray,
    grad_S_next: np.ndarray | None,
    *,
    state: np.ndarray | None = None,
    num_threads: int | None = None,
) -> tuple[np.ndarray | None, ...]:
    """gq, gk, gv, gbeta, gS (None for no S), and gstate if there is a state: of their shapes and dtypes."""
    L, D = q.shape[-2:]
    Do = v.shape[-1]
    plan = _plan("delta", True, q.dtype, lead, _shape_of_initial(S, D, Do), L, D, Do)
    gq, gk, gv = (
        _new((*lead, *a.shape[-2:]), q.dtype if a.shape[:-2] == lead else plan.real) for a in (q, k, v)
    )
    gbeta = _new((*lead, L, 1), plan.real)  # a column, as the kernels see a row of each sequence
    threads = _threads(num_threads, plan.N, plan.members, 6 * plan.work)
    incoming, gradients = (grad_y, grad_S_next), (gq, gk, gv, gbeta)
    operands = (q, k, beta, S, state, reset)
    of_states = _run_backward(
        plan, "delta_backward", operands, kept, incoming, gradients, S, state, lead, threads
    )
    summed = [
        g if g.dtype == q.dtype and g.shape == a.shape else _rounded(sum_to_shape(np, g, a.shape), q.dtype)
        for g, a in ((gq, q), (gk, k), (gv, v), (gbeta[..., 0], beta))
    ]
    return (*summed, *of_states[: 1 if state is None else 2])
