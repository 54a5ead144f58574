"""What the passes of both operators share on a GPU: dtypes, launches, room for gradients and their sums.

A platform is what they run on, CuPy's devices or the tests' stand-in for one:

    limits() -> launch.Limits             of the device at hand
    empty(shape, dtype) -> array          on that device
    launch(plan, blocks, args, dynamic)   in the caller's stream, waiting for nothing; so many bytes of
                                          dynamic shared memory
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from srwm._cy import launch
from srwm._raw_kernels.views import contiguous_along, order_by_sharing

# Pieces in which the gradient of a shared array is summed: as many as keep a large device busy, but no
# more than fit into these bytes. Fixed, so that the sums are the same on every device.
MOST_PIECES = 1024
PIECES_BYTES = 1 << 26


def storage_of(dtype: Any) -> str:
    """The kernels' name of a dtype. CuPy has no bfloat16: it comes here as int16."""
    return "bfloat16" if dtype.name == "int16" else dtype.name


def real_of(dtype: Any) -> np.dtype:
    """The dtype of the sums, and of what is kept."""
    return np.dtype(np.float64 if dtype.name == "float64" else np.float32)


def whole(a: Any) -> Any:
    """`a`, or a copy where its entries are not a whole number of entries apart."""
    return a if a is None or not any(stride % a.dtype.itemsize for stride in a.strides) else a.copy()


def cached_bytes(plan: launch.Plan, initial: Any, state: Any, lead: tuple[int, ...]) -> int:
    """Shared memory for the matrix with which all sequences begin, so that a block reads it once, or 0."""
    begins_all = state is None and initial is not None and prod(lead) > prod(initial.shape[:-2]) == 1
    return plan.cached_bytes if begins_all else 0


def run(
    platform: Any, plan: launch.Plan, cached: int, real: np.dtype, items: int, numbers: Any, *arrays: Any
) -> None:
    """One launch over `items` pieces of work; the kernel's working memory is added to its arguments."""
    if items == 0:
        return
    blocks = launch.grid(plan, items, platform.limits().multiprocessors)
    rest = platform.empty((blocks * plan.teams * plan.rest,), real) if plan.rest else None
    platform.launch(plan, blocks, (*arrays, rest, numbers), plan.dynamic_bytes + cached)


class Gradient(NamedTuple):
    """The gradient of an array, in the making: a kernel fills `pieces`, `total_of` sums them."""

    pieces: Any  # (outer, parts, inner), or the gradient itself where there is nothing to sum or narrow
    along: tuple[int, ...]  # strides of pieces along the leading axes
    shape: tuple[int, ...]
    dtype: Any
    outer: int
    parts: int  # of each entry, to be summed


def needs_sums(shape: tuple[int, ...], lead: tuple[int, ...], core: int) -> bool:
    """Whether several sequences share an entry of an array of this shape."""
    own = shape[: len(shape) - core]
    return prod(own) != prod(lead)


def of_each_sequence(
    platform: Any, shape: tuple[int, ...], dtype: Any, lead: tuple[int, ...], core: int, wide: bool
) -> Gradient:
    """Room for the gradient of an array from each sequence; `wide`: in the dtype of the sums."""
    own, size = shape[: len(shape) - core], prod(shape[len(shape) - core :])
    order, sharing = order_by_sharing(lead, own)
    along = contiguous_along(lead, order, size)
    if not wide:
        return Gradient(platform.empty(shape, dtype), along, shape, dtype, prod(own), 1)
    pieces = platform.empty((prod(own), sharing, size), real_of(dtype))
    return Gradient(pieces, along, shape, dtype, prod(own), sharing)


def of_each_chunk(platform: Any, shape: tuple[int, ...], dtype: Any, sharing: int) -> tuple[Gradient, int]:
    """Room for the gradient of an initial matrix (D, M) from each chunk of the sequences that share it.

    And the sequences of a chunk.
    """
    real, own, size = real_of(dtype), prod(shape[:-2]), prod(shape[-2:])
    most = max(1, min(MOST_PIECES, PIECES_BYTES // (size * real.itemsize)) // max(1, own))
    run = max(1, -(-sharing // most))
    chunks = -(-sharing // run)
    if chunks == 1 and real == dtype:
        return Gradient(platform.empty(shape, dtype), (), shape, dtype, own, 1), run
    return Gradient(platform.empty((own, chunks, size), real), (), shape, dtype, own, chunks), run


def total_of(platform: Any, gradient: Gradient) -> Any:
    """The gradient, summed over its pieces in their order."""
    shape, dtype = gradient.shape, gradient.dtype
    if gradient.pieces.shape == shape and gradient.pieces.dtype == dtype:
        return gradient.pieces
    total = platform.empty(shape, dtype)
    entries = prod(shape)
    if entries > 0:
        plan = launch.sum_pieces(storage_of(dtype))
        blocks = launch.grid(plan, -(-entries // plan.threads), platform.limits().multiprocessors)
        inner = entries // gradient.outer
        args = (gradient.pieces, total, gradient.outer, gradient.parts, inner)
        platform.launch(plan, blocks, args, plan.dynamic_bytes)
    return total
