"""The CPU backend: allocates, picks the kernels for this processor, and calls them.

Kernels exist for each instruction set, real type and layout. The best set that this processor has is
used; SRWM_INSTRUCTION_SET (baseline, avx2, avx512) asks for one by name. Threads: the argument
`num_threads`, else SRWM_NUM_THREADS, else OMP_NUM_THREADS, else all processors of this process.

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

INSTRUCTION_SETS = ("avx512", "avx2", "baseline")  # best first

# Steps from one kept W to the next. Between them W comes back by undoing updates: 32 costs D M / 32
# entries a step beside the 3 D + M + 8 of the trace, and keeps a W that grows as exact as stored ones.
SEGMENT = 32

# A last segment of this many steps or fewer is replayed: that costs less than the memory of one more
# W, of which single steps of many sequences would need most.
REPLAYED = 4

# Sequences are computed side by side, one in each lane of a vector, where two matrices of each of them
# stay in the cache that is a core's own, with room for the rest, and where there are steps enough to pay
# for bringing the matrices into that layout.
SIDE_BY_SIDE_BYTES = 160 * 1024
SIDE_BY_SIDE_STEPS = 4

# Below this much work (multiply-adds) a second thread costs more than it saves.
WORK_PER_THREAD = 1 << 20

# Chunks of sequences whose gradients of one W are summed before the chunks are. Fixed, so that the
# sums are the same whatever the number of threads.
CHUNKS = 64

_per_thread = threading.local()

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


def _threads(num_threads: int | None, pieces: int, work: int) -> int:
    """Threads for `pieces` independent pieces of `work` multiply-adds altogether."""
    if pieces < 2 or work < 2 * WORK_PER_THREAD:
        return 1
    wanted = _default_threads() if num_threads is None else num_threads
    return max(1, min(wanted, pieces, work // WORK_PER_THREAD))


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
    """An array, or None, as the kernels read and write it: bfloat16 as int16, unaligned ones copied."""
    if a is None:
        return None
    if a.dtype.itemsize == 2:
        return a if a.dtype.kind in "fi" else a.view(_INT16)
    return a if a.flags.aligned else a.copy()


def _rounded(a: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A sum of the real type in the dtype that was asked for, if NumPy has it."""
    return a if dtype == _INT16 else a.astype(dtype, copy=False)


class Gathering(NamedTuple):
    """How the gradients of shared states are summed: in slots of chunks, then the slots of each state."""

    order: np.ndarray | None  # (N,) the sequence at each position, those of one state together; None: 0, 1, ...
    slots: np.ndarray  # (N,) for each position the slot that its gradient is added to
    count: int  # of the slots
    firsts: np.ndarray | None  # (states,) the first slot of each state; None where each has one slot
    many: np.ndarray  # chunks of the positions computed side by side: where each starts, and the end
    one: np.ndarray  # chunks of the others


class Plan(NamedTuple):
    """What a call's shapes decide."""

    N: int  # sequences
    side_by_side: int  # how many of them, the first in order, are computed side by side
    entries: int  # kept of each sequence
    segments: int
    forward_bytes: int  # of scratch for each thread
    backward_bytes: int
    order: np.ndarray | None  # as Gathering's


# A layout of an operator: (entries kept per step and sequence, per segment, scratch forward, backward).
_LAYOUT_OF = {"srwm": "layout", "delta": "delta_layout"}


@lru_cache(maxsize=256)
def _layouts(op: str, real: np.dtype, D: int, Do: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The layouts of one sequence at a time and of many side by side."""
    one, many = (getattr(kernels(real, layout), _LAYOUT_OF[op])(D, Do) for layout in ("one", "many"))
    return one, many


@lru_cache(maxsize=256)
def _plan(
    op: str, real: np.dtype, lead: tuple[int, ...], state_lead: tuple[int, ...], L: int, D: int, Do: int
) -> Plan:
    one, many = _layouts(op, real, D, Do)
    lanes = kernels(real, "many").sequences()
    N = prod(lead)
    fits = many[1] * lanes * real.itemsize <= SIDE_BY_SIDE_BYTES
    pays = lanes > 1 and L >= SIDE_BY_SIDE_STEPS and N // lanes >= _default_threads()
    side_by_side = N // lanes * lanes if fits and pays else 0
    scratch = many if side_by_side else one
    return Plan(
        N=N,
        side_by_side=side_by_side,
        entries=_entries_kept(op, real, L, D, Do),
        segments=segments(L),
        forward_bytes=real.itemsize * max(one[2], scratch[2]),
        backward_bytes=real.itemsize * max(one[3], scratch[3]),
        order=_order(lead, state_lead),
    )


@lru_cache(maxsize=16)
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
def _gathering(lead: tuple[int, ...], state_lead: tuple[int, ...], side_by_side: int, lanes: int) -> Gathering:
    N, states = prod(lead), prod(state_lead)
    many, one = _chunk_starts(0, side_by_side, lanes), _chunk_starts(side_by_side, N, 1)
    positions = np.arange(N, dtype=np.int64)
    state = positions * states // max(1, N)
    chunk = np.searchsorted(np.concatenate([many[:-1], one[:-1]]), positions, side="right")
    is_new = np.ones(N, bool)
    is_new[1:] = (state[1:] != state[:-1]) | (chunk[1:] != chunk[:-1])
    slots = np.cumsum(is_new) - 1
    firsts = np.searchsorted(state[is_new], np.arange(states))
    count = int(is_new.sum())
    return Gathering(_order(lead, state_lead), slots, count, None if count == states else firsts, many, one)


def _summed(g: np.ndarray, gathering: Gathering, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of the states, of that shape, from those in the slots, (slots, rows, columns)."""
    if g.shape[0] == 0:
        return np.zeros(shape, g.dtype)
    if gathering.firsts is not None:
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


def _new_kept(plan: Plan, lead: tuple[int, ...], real: np.dtype) -> np.ndarray:
    memory = Recycled(plan.N * plan.entries * real.itemsize)
    return np.frombuffer(memory, real).reshape((*lead, plan.entries))


def _parts(plan: Plan) -> tuple[tuple[str, int, int], ...]:
    """(layout, first position, positions) of the parts of a call."""
    if plan.side_by_side == 0:
        return (("one", 0, plan.N),)
    if plan.side_by_side == plan.N:
        return (("many", 0, plan.N),)
    return ("many", 0, plan.side_by_side), ("one", plan.side_by_side, plan.N - plan.side_by_side)


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
    (L, D), M = x.shape[-2:], W.shape[-1]
    Do = M - 2 * D - 4
    real = real_of(x.dtype)
    plan = _plan("srwm", real, lead, W.shape[:-2], L, D, Do)
    y = np.empty((*lead, L, Do), x.dtype)
    W_next = np.empty((*lead, D, M), x.dtype) if return_state else None
    kept = _new_kept(plan, lead, real) if keep else None
    threads = _threads(num_threads, plan.N, 3 * plan.N * L * D * M)
    scratch = _scratch(threads * plan.forward_bytes)
    arrays = (_stored(x), _stored(W), reset, _stored(y), _stored(W_next), kept, scratch, plan.order)
    for layout, first, count in _parts(plan):
        kernels(real, layout).forward(*arrays, first, count, SEGMENT, plan.segments, threads)
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
    (L, D), M = x.shape[-2:], W.shape[-1]
    real = real_of(x.dtype)
    plan = _plan("srwm", real, lead, W.shape[:-2], L, D, M - 2 * D - 4)
    gathering = _gathering(lead, W.shape[:-2], plan.side_by_side, kernels(real, "many").sequences())
    gx_shape = (*lead, L, D)
    gx = np.empty(gx_shape, x.dtype if gx_shape == x.shape else real)
    gW = np.zeros((gathering.count, D, M), real)
    threads = _threads(num_threads, plan.N, 7 * plan.N * L * D * M)
    scratch = _scratch(threads * plan.backward_bytes)
    arrays = (_stored(x), _stored(W), reset, kept, _stored(grad_y), _stored(grad_W_next))
    for layout, starts in (("many", gathering.many), ("one", gathering.one)):
        if len(starts) > 1:
            kernels(real, layout).backward(
                *arrays,
                *(gathering.order, gathering.slots, starts, _stored(gx), gW, scratch),
                *(SEGMENT, plan.segments, threads),
            )
    gx = gx if gx_shape == x.shape else _rounded(sum_to_shape(np, gx, x.shape), x.dtype)
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
    (L, D), Do = q.shape[-2:], v.shape[-1]
    real = real_of(q.dtype)
    plan = _plan("delta", real, lead, S.shape[:-2], L, D, Do)
    y = np.empty((*lead, L, Do), q.dtype)
    S_next = np.empty((*lead, D, Do), q.dtype) if return_state else None
    kept = _new_kept(plan, lead, real) if keep else None
    threads = _threads(num_threads, plan.N, 3 * plan.N * L * D * Do)
    scratch = _scratch(threads * plan.forward_bytes)
    operands = (_stored(q), _stored(k), _stored(v), _stored(beta), _stored(S), reset)
    arrays = (*operands, _stored(y), _stored(S_next), kept, scratch, plan.order)
    for layout, first, count in _parts(plan):
        kernels(real, layout).delta_forward(*arrays, first, count, SEGMENT, plan.segments, threads)
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
    (L, D), Do, dtype = q.shape[-2:], v.shape[-1], q.dtype
    real = real_of(dtype)
    plan = _plan("delta", real, lead, S.shape[:-2], L, D, Do)
    gathering = _gathering(lead, S.shape[:-2], plan.side_by_side, kernels(real, "many").sequences())
    whole = [(*lead, L, D), (*lead, L, D), (*lead, L, Do), (*lead, L)]
    shapes = [a.shape for a in (q, k, v, beta)]
    gradients = [
        np.empty(full, dtype if full == shape and full is not whole[3] else real)
        for full, shape in zip(whole, shapes, strict=True)
    ]
    gS = np.zeros((gathering.count, D, Do), real)
    threads = _threads(num_threads, plan.N, 6 * plan.N * L * D * Do)
    scratch = _scratch(threads * plan.backward_bytes)
    operands = (_stored(q), _stored(k), _stored(beta), _stored(S), reset, kept)
    gq, gk, gv, gbeta = map(_stored, gradients)
    for layout, starts in (("many", gathering.many), ("one", gathering.one)):
        if len(starts) > 1:
            kernels(real, layout).delta_backward(
                *(*operands, _stored(grad_y), _stored(grad_S_next)),
                *(gathering.order, gathering.slots, starts, gq, gk, gv, gbeta[..., None], gS, scratch),
                *(SEGMENT, plan.segments, threads),
            )
    summed = [
        g if g.shape == shape and g.dtype == dtype else _rounded(sum_to_shape(np, g, shape), dtype)
        for g, shape in zip(gradients, shapes, strict=True)
    ]
    return (*summed, _rounded(_summed(gS, gathering, S.shape), dtype))
