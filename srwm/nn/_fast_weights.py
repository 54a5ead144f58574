"""Runs of operators from states of layers, which are float32 beside halves."""

from __future__ import annotations

from torch import Tensor

from srwm.nn import _checks
from srwm.operators import delta


def fast_weights(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    shift: Tensor | None,
    reset: Tensor | None,
    return_state: bool,
    base: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run the delta rule from fast weights base + shift, or from `base`. A reset returns to `base`, too.

    `base` (..., D, Do) is zero if it is None. The next shift is computed and returned in the precision of
    states.
    """
    start = shift
    if base is not None:
        wide = base.to(_checks.state_dtype(base.dtype))
        if shift is not None:
            start = wide + shift
        elif return_state and wide.dtype != base.dtype:
            start = wide  # so that the fast weights are returned in this dtype
    elif shift is None and return_state:
        start = wide_zeros(q, q.shape[-1], v.shape[-1])
    if not return_state:
        return delta.forward(q, k, v, beta, base, start, reset=reset), None
    y, S = delta.forward(q, k, v, beta, base, start, reset=reset, return_state=True)
    return y, S if base is None else S - wide


def wide_zeros(like: Tensor, *shape: int) -> Tensor | None:
    """Zeros in the precision of states beside halves, so that operators return states in it; else None."""
    dtype = _checks.state_dtype(like.dtype)
    return None if dtype == like.dtype else like.new_zeros(shape, dtype=dtype)
