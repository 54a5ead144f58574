"""Leading axes: how those of x, W and reset broadcast, and how gradients are summed back over them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from srwm import _checks


def leading_shape(op: str, x: Any, W: Any, reset: Any) -> tuple[int, ...]:
    """The broadcast of the leading axes of x (..., L, D), W (..., D, M) and reset (..., L) or None."""
    lead = tuple(x.shape[:-2])
    others = [tuple(W.shape[:-2])] + ([] if reset is None else [tuple(reset.shape[:-1])])
    for other in others:
        if other not in (lead, ()):
            try:
                lead = np.broadcast_shapes(lead, other)
            except ValueError:
                raise _checks.no_broadcast(op, x, W, reset) from None
    return lead


def sum_to_shape(xp: Any, g: Any, shape: tuple[int, ...]) -> Any:
    """The gradient of an array of `shape` from that of its broadcast, g: sums over the new axes."""
    if tuple(g.shape) == tuple(shape):
        return g
    added = len(g.shape) - len(shape)
    axes = (*range(added), *(added + i for i, n in enumerate(shape) if n == 1 != g.shape[added + i]))
    return xp.reshape(xp.sum(g, axis=axes), shape)


def sequences_by_weight(lead: tuple[int, ...], W_lead: tuple[int, ...]) -> np.ndarray:
    """Which of the N sequences of `lead` share each weight of `W_lead`: (weights, N / weights) int64.

    Row i holds, in ascending order, the flat indices of the sequences that read weight i.
    """
    own = (1,) * (len(lead) - len(W_lead)) + W_lead
    kept = [axis for axis, n in enumerate(own) if n != 1]
    shared = [axis for axis, n in enumerate(own) if n == 1]
    index = np.arange(prod(lead), dtype=np.int64).reshape(lead)
    weights = prod(W_lead)
    return index.transpose(*kept, *shared).reshape(weights, -1 if weights else 0)
