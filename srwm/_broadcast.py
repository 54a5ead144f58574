"""Leading axes: how those of the operands broadcast, and how gradients are summed back over them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np


def broadcast_pair(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """numpy.broadcast_shapes of two, or None; also for torch's symbolic sizes, and in a microsecond."""
    length = max(len(a), len(b))
    a, b = (1,) * (length - len(a)) + a, (1,) * (length - len(b)) + b
    if any(m != n and m != 1 and n != 1 for m, n in zip(a, b, strict=True)):
        return None
    return tuple(n if m == 1 else m for m, n in zip(a, b, strict=True))


def sum_to_shape(xp: Any, g: Any, shape: tuple[int, ...]) -> Any:
    """The gradient of an array of `shape` from that of its broadcast, g: sums over the new axes."""
    if tuple(g.shape) == tuple(shape):
        return g
    added = len(g.shape) - len(shape)
    axes = (
        *range(added),
        *(added + i for i, n in enumerate(shape) if n == 1 != g.shape[added + i]),
    )
    return xp.reshape(xp.sum(g, axis=axes), shape)


def sequences_by_weight(lead: tuple[int, ...], W_lead: tuple[int, ...]) -> np.ndarray:
    """Which of the N sequences of `lead` share each weight of `W_lead`: (weights, N / weights) int64.

    Row i holds, in ascending order, the flat indices of the sequences that read weight i.
    """
    own = (1,) * (len(lead) - len(W_lead)) + W_lead
    kept = [axis for axis, n in enumerate(own) if n != 1]
    shared = [axis for axis, n in enumerate(own) if n == 1]
    weights, sharing = prod(own[axis] for axis in kept), prod(lead[axis] for axis in shared)
    index = np.arange(prod(lead), dtype=np.int64).reshape(lead)
    return index.transpose(*kept, *shared).reshape(weights, sharing)
