"""Fast weights under the delta rule, for `DeltaNet` and `SRDelta`."""

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
    """Run the delta rule from fast weights S, or from zeros. A reset returns to zeros, too.

    The fast weights are returned in the precision of states.
    """
    if not return_state:
        return delta.forward(q, k, v, beta, None, S, reset=reset), None
    dtype = _checks.state_dtype(q.dtype)
    if S is None and dtype != q.dtype:  # so that the fast weights are returned in this dtype
        S = q.new_zeros(q.shape[-1], v.shape[-1], dtype=dtype)
    return delta.forward(q, k, v, beta, None, S, reset=reset, return_state=True)
