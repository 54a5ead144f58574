"""How the kernels see strided arrays: a few leading axes, merged where they follow each other in memory."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

LEADING = 8  # leading axes that a kernel walks, at the most; as in arrays.cuh

# `View` and `Axes` of arrays.cuh.
_VIEW = np.dtype([("lead", np.int64, (LEADING,)), ("row", np.int64), ("entry", np.int64)])
_AXES = np.dtype([("count", np.int64), ("sizes", np.int64, (LEADING,))])

ITEM_BYTES = {"bool": 1, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


class Strides(NamedTuple):
    """Of one array, in entries: along the leading axes of a call, along its rows, along a row's entries."""

    lead: tuple[int, ...]
    row: int = 0
    entry: int = 0


def sizes_dtype(counts: Sequence[str], views: Sequence[str]) -> np.dtype:
    """A kernel's last argument: `counts`, then the leading axes, then a View for each array."""
    numbers = [(name, np.int64) for name in counts]
    return np.dtype([*numbers, ("lead", _AXES), *((name, _VIEW) for name in views)])


def is_aligned(layout: Any) -> bool:
    """Whether the entries of an array are whole numbers of entries apart."""
    return not any(stride % ITEM_BYTES[layout.dtype] for stride in layout.strides)


def strides_of(layout: Any, lead: tuple[int, ...], core: int) -> Strides:
    """Of an array whose last `core` axes are its own: 0 along the axes where it is broadcast to `lead`."""
    if layout is None:
        return Strides((0,) * len(lead))
    own = len(layout.shape) - core
    entries = [stride // ITEM_BYTES[layout.dtype] for stride in layout.strides]
    along = [0 if n == 1 else stride for n, stride in zip(layout.shape[:own], entries[:own], strict=True)]
    return Strides((0,) * (len(lead) - own) + tuple(along), *entries[own:])


def order_by_sharing(lead: tuple[int, ...], own: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """The axes of `lead`, those along which an array of leading axes `own` has entries of its own first.

    And how many sequences share each of its entries: in this order they follow each other.
    """
    padded = (1,) * (len(lead) - len(own)) + tuple(own)
    separate = [axis for axis, n in enumerate(padded) if n != 1]
    shared = [axis for axis, n in enumerate(padded) if n == 1]
    return (*separate, *shared), prod(lead[axis] for axis in shared)


def contiguous_along(lead: tuple[int, ...], order: Sequence[int], size: int) -> tuple[int, ...]:
    """Strides along `lead` of an array of `size` entries a sequence, its leading axes in that order."""
    strides = [0] * len(lead)
    for axis in reversed(order):
        strides[axis] = size
        size *= lead[axis]
    return tuple(strides)


def sizes(
    op: str,
    dtype: np.dtype,
    lead: tuple[int, ...],
    order: Sequence[int],
    counts: Sequence[int],
    views: Sequence[Strides],
) -> np.ndarray:
    """A kernel's last argument, for sequences in the order of the axes of `lead`: the bytes of `dtype`.

    As bytes, since CuPy asks NumPy for the description of an argument's dtype at every launch, and that
    of the fields takes ten times as long as the launch. Raises ValueError where the arrays have more
    leading axes than a kernel walks.
    """
    merged: list[int] = []
    along: list[list[int]] = [[] for _ in views]
    for axis in order:
        if lead[axis] == 1:
            continue
        steps = [view.lead[axis] for view in views]
        if merged and all(a[-1] == lead[axis] * step for a, step in zip(along, steps, strict=True)):
            merged[-1] *= lead[axis]
            for a, step in zip(along, steps, strict=True):
                a[-1] = step
        else:
            merged.append(lead[axis])
            for a, step in zip(along, steps, strict=True):
                a.append(step)
    if len(merged) > LEADING:
        raise ValueError(
            f"{op}: expected at most {LEADING} leading axes after merging those that follow each other in "
            f"memory, got {len(merged)} of {lead}; reshape the arrays, or make them contiguous"
        )
    result = np.zeros((), dtype)
    names = dtype.names or ()
    for name, count in zip(names, counts, strict=False):
        result[name] = count
    result["lead"]["count"] = len(merged)
    result["lead"]["sizes"][: len(merged)] = merged
    for name, view, a in zip(names[len(counts) + 1 :], views, along, strict=True):
        result[name]["lead"][: len(a)] = a
        result[name]["row"], result[name]["entry"] = view.row, view.entry
    result.flags.writeable = False
    return result.view(f"V{dtype.itemsize}")
