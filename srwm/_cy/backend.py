"""The CPU backend: allocates, picks the kernels for this processor, and calls them.

Kernels exist for each instruction set and real type. The best set that this processor has is used;
SRWM_INSTRUCTION_SET (baseline, avx2, avx512) asks for one by name. Threads: the argument
`num_threads`, else SRWM_NUM_THREADS, else OMP_NUM_THREADS, else all processors of this process.
"""

from __future__ import annotations

import importlib
import os
import threading
from functools import cache
from math import prod
from typing import Any

import numpy as np

from srwm._broadcast import sequences_by_weight, sum_to_shape
from srwm._cy import processor

INSTRUCTION_SETS = ("avx512", "avx2", "baseline")  # best first

# Steps from one kept W to the next. Between them W comes back by undoing updates: 32 costs D M / 32
# entries a step beside the 3 D + M + 8 of the trace, and keeps a W that grows as exact as stored ones.
SEGMENT = 32

# A last segment of this many steps or fewer is replayed: that costs less than the memory of one more
# W, of which single steps of many sequences would need most.
REPLAYED = 4

# Below this much work (multiply-adds) a second thread costs more than it saves.
WORK_PER_THREAD = 1 << 20

# Chunks of sequences whose gradients of one W are summed before the chunks are. Fixed, so that the
# sums are the same whatever the number of threads.
CHUNKS = 64

_per_thread = threading.local()


def unusable() -> str | None:
    """Why this backend cannot run here."""
    try:
        kernels(np.dtype(np.float32))
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
def kernels(dtype: np.dtype) -> Any:
    """The kernel module that computes arrays of `dtype`."""
    real_type = "f64" if dtype == np.float64 else "f32"
    return importlib.import_module(f"srwm._cy.{instruction_set()}_{real_type}")


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


@cache
def _layout(dtype: np.dtype, D: int, Do: int) -> tuple[Any, int, int, int, int]:
    """The kernels for these sizes, entries kept per step and per segment, of scratch per thread."""
    module = kernels(dtype)
    return module, *module.layout(D, Do)


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


def _wide(a: Any) -> Any:
    """`a` in the type it is computed in; arrays whose entries are not aligned are copied."""
    if a is None:
        return None
    if a.dtype.itemsize == 2:
        return a.astype(np.float32)
    return a if a.flags.aligned else a.copy()


def _chunks_by_weight(lead: tuple[int, ...], W_lead: tuple[int, ...]) -> np.ndarray:
    """The sequences that share each weight, in chunks: (weights, chunks, run), a short run ending in -1."""
    order = sequences_by_weight(lead, W_lead)
    weights, sharing = order.shape
    chunks = min(sharing, -(-CHUNKS // max(1, weights)))
    run = -(-sharing // max(1, chunks))
    order = np.pad(order, ((0, 0), (0, chunks * run - sharing)), constant_values=-1)
    return order.reshape(weights, chunks, run)


def _sum_of_chunks(g: np.ndarray) -> np.ndarray:
    """The gradient of each weight from those of its chunks, (weights, chunks, ...)."""
    return g[:, 0] if g.shape[1] == 1 else g.sum(axis=1)


def segments(L: int) -> int:
    """Segments of L steps whose last W is kept: all but a last one of at most REPLAYED steps."""
    return (L + SEGMENT - 1 - REPLAYED) // SEGMENT


def kept_shape(dtype: np.dtype, lead: tuple[int, ...], L: int, D: int, Do: int) -> tuple[int, ...]:
    """Shape of what forward keeps for backward: for each sequence its trace, then a W per segment."""
    _, row, matrix, _, _ = _layout(dtype, D, Do)
    return (*lead, L * row + segments(L) * matrix)


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
    dtype = x.dtype
    x, W = _wide(x), _wide(W)
    (L, D), M = x.shape[-2:], W.shape[-1]
    Do = M - 2 * D - 4
    y = np.empty((*lead, L, Do), x.dtype)
    W_next = np.empty((*lead, D, M), x.dtype) if return_state else None
    kept = np.empty(kept_shape(x.dtype, lead, L, D, Do), x.dtype) if keep else None
    N = prod(lead)
    threads = _threads(num_threads, N, 3 * N * L * D * M)
    module, _, _, entries, _ = _layout(x.dtype, D, Do)
    scratch = _scratch(x.dtype.itemsize * threads * entries)
    module.forward(x, W, reset, y, W_next, kept, scratch, SEGMENT, segments(L), threads)
    if y.dtype != dtype:
        y, W_next = y.astype(dtype), None if W_next is None else W_next.astype(dtype)
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
    dtype, x_shape, W_shape = x.dtype, x.shape, W.shape
    x, W, grad_y, grad_W_next = _wide(x), _wide(W), _wide(grad_y), _wide(grad_W_next)
    (L, D), M = x_shape[-2:], W_shape[-1]
    Do = M - 2 * D - 4
    N = prod(lead)
    order = _chunks_by_weight(lead, W_shape[:-2])
    pieces = order.shape[0] * order.shape[1]
    gx = np.empty((*lead, L, D), x.dtype)
    gW = np.empty((*order.shape[:2], D, M), x.dtype)
    threads = _threads(num_threads, pieces, 7 * N * L * D * M)
    module, _, _, _, entries = _layout(x.dtype, D, Do)
    scratch = _scratch(x.dtype.itemsize * threads * entries)
    order = order.reshape(pieces, order.shape[2])
    module.backward(
        x, W, reset, kept, grad_y, grad_W_next, order, gx, gW, scratch, SEGMENT, segments(L), threads
    )
    gx, gW = sum_to_shape(np, gx, x_shape), _sum_of_chunks(gW).reshape(W_shape)
    return gx.astype(dtype, copy=False), gW.astype(dtype, copy=False)


@cache
def _delta_layout(dtype: np.dtype, D: int, Do: int) -> tuple[Any, int, int, int, int]:
    """As `_layout`, for the delta rule."""
    module = kernels(dtype)
    return module, *module.delta_layout(D, Do)


def delta_kept_shape(dtype: np.dtype, lead: tuple[int, ...], L: int, D: int, Do: int) -> tuple[int, ...]:
    """Shape of what forward keeps for backward: for each sequence every Delta, then an S per segment."""
    _, row, matrix, _, _ = _delta_layout(dtype, D, Do)
    return (*lead, L * row + segments(L) * matrix)


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
    dtype = q.dtype
    q, k, v, beta, S = _wide(q), _wide(k), _wide(v), _wide(beta), _wide(S)
    (L, D), Do, N = q.shape[-2:], v.shape[-1], prod(lead)
    y = np.empty((*lead, L, Do), q.dtype)
    S_next = np.empty((*lead, D, Do), q.dtype) if return_state else None
    kept = np.empty(delta_kept_shape(q.dtype, lead, L, D, Do), q.dtype) if keep else None
    threads = _threads(num_threads, N, 3 * N * L * D * Do)
    module, _, _, entries, _ = _delta_layout(q.dtype, D, Do)
    scratch = _scratch(q.dtype.itemsize * threads * entries)
    module.delta_forward(q, k, v, beta, S, reset, y, S_next, kept, scratch, SEGMENT, segments(L), threads)
    if y.dtype != dtype:
        y, S_next = y.astype(dtype), None if S_next is None else S_next.astype(dtype)
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
    dtype, shapes = q.dtype, [a.shape for a in (q, k, v, beta)]
    q, k, beta, S = _wide(q), _wide(k), _wide(beta), _wide(S)
    grad_y, grad_S_next = _wide(grad_y), _wide(grad_S_next)
    (L, D), Do = q.shape[-2:], v.shape[-1]
    order = _chunks_by_weight(lead, S.shape[:-2])
    gq, gk = np.empty((*lead, L, D), q.dtype), np.empty((*lead, L, D), q.dtype)
    gv, gbeta = np.empty((*lead, L, Do), q.dtype), np.empty((*lead, L), q.dtype)
    gS = np.empty((*order.shape[:2], D, Do), q.dtype)
    pieces = order.shape[0] * order.shape[1]
    threads = _threads(num_threads, pieces, 6 * prod(lead) * L * D * Do)
    module, _, _, _, entries = _delta_layout(q.dtype, D, Do)
    scratch = _scratch(q.dtype.itemsize * threads * entries)
    order = order.reshape(pieces, order.shape[2])
    arrays = (q, k, beta, S, reset, kept, grad_y, grad_S_next, order, gq, gk, gv, gbeta, gS, scratch)
    module.delta_backward(*arrays, SEGMENT, segments(L), threads)
    gradients = [sum_to_shape(np, g, shape) for g, shape in zip((gq, gk, gv, gbeta), shapes, strict=True)]
    gradients.append(_sum_of_chunks(gS).reshape(S.shape))
    return tuple(g.astype(dtype, copy=False) for g in gradients)
