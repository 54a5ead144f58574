"""Fast weights under the delta rule, as `DeltaNet` and `SRDelta` use them."""

from __future__ import annotations

from torch import Tensor

from srwm.nn import _checks
from srwm.operators import delta


def fast_weights(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    S: Tensor | None,
    reset: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """The delta rule from fast weights S, or from zeros, where a reset leads too.

    The fast weights come back in the precision of states.
    """
    if not return_state:
        return delta.forward(q, k, v, beta, None, S, reset=reset), None
    dtype = _checks.state_dtype(q.dtype)
    if S is None and dtype != q.dtype:  # so that the fast weights come back in their precision
        S = q.new_zeros(q.shape[-1], v.shape[-1], dtype=dtype)
    return delta.forward(q, k, v, beta, None, S, reset=reset, return_state=True)
