"""The layer of fast weights that are programmed by self-referential weight matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from srwm.nn import _checks
from srwm.nn._fast_weights import fast_weights
from srwm.nn._mixer import Residual
from srwm.nn._programmed import rates
from srwm.nn._self_referential import SelfReferential


class SRDelta(SelfReferential):
    """Fast weights under the delta rule, programmed by a matrix that updates itself ("SR-Delta").

    At every step a self-referential matrix gives each head the query, key, value and rate with which the
    fast weights are written and read. In `DeltaNet` a linear map does this, which does not change after
    training::

        q, k, v, b = op(x)                            per head D + D + D + 1 outputs; x, op as in `SRWM`
        y = delta rule of softmax(q), softmax(k), v, sigmoid(b); see `srwm.delta.forward`
        out = h + dropout(out_linear(y))              or another residual form, as in `SRWM`

    Irie et al., ICML 2022, reinforcement learning.

    Parameters
    ----------
    d_model : int
        Entries of an input vector; a multiple of `n_heads`.
    n_heads : int
        Heads H; each has a matrix (D, 5 D + 5) and fast weights (D, D).
    residual : {"plain", "norm_skip", "pre_norm", "none"}
        As for `SRWM`; the published layer has "plain".
    d_out : int, optional
        Entries of an output vector, by default `d_model`; only with ``residual="none"`` may it differ.
    input_softmax : bool
        Whether each head's input goes through a softmax, as in the published layer.
    beta_init, q_scale : float
        As for `SRWM`: for the rates and queries with which the self-referential matrix updates itself.
    dropout : float
        Probability of dropout on the output of out_linear.
    device, dtype
        As for other torch layers.

    Attributes
    ----------
    W : Parameter (H, D, 5 D + 5)
        Packed initial matrices; see `srwm.pack`. The first 3 D + 1 columns give q, k, v, b in this order.

    Notes
    -----
    The state (..., H, D, 6 D + 5) has two parts: the shift of each sequence's matrices from the parameter
    W, as in `SRWM`, and in the last D columns the fast weights from keys to values, as in `DeltaNet`. It is
    float32 also with halves. A reset returns to W and to zeros. ``load_state_dict`` also takes the
    published names, as `SRWM`.

    Raises
    ------
    TypeError
        Sizes that are not integers, options of other types, a dtype other than float16, bfloat16,
        float32, float64.
    ValueError
        `d_model` is not a multiple of `n_heads`, the residual is unknown, `d_out` differs from `d_model`
        without ``residual="none"``, a number is out of range, or torch cannot use the device here.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import SRDelta
    >>> layer = SRDelta(64, n_heads=4)
    >>> out, state = layer(torch.randn(8, 20, 64))          # 8 sequences of 20 steps
    >>> out, state = layer(torch.randn(8, 20, 64), state)   # the 20 steps after those
    >>> out.shape, state.shape
    (torch.Size([8, 20, 64]), torch.Size([8, 4, 16, 101]))
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        residual: Residual = "plain",
        d_out: int | None = None,
        input_softmax: bool = True,
        beta_init: float = 0.0,
        q_scale: float = 1.0,
        dropout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory = _checks.factory(type(self).__name__, device, dtype)
        super().__init__(
            d_model, n_heads, residual, d_out, input_softmax, beta_init, q_scale, dropout, factory
        )
        self.reset_parameters()

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """(H, D, 5 D + 5 + D), the last axes of a state."""
        return self.n_heads, self.d_head, 6 * self.d_head + 5

    def _outputs_per_head(self) -> int:
        return 3 * self.d_head + 1

    def _mix(
        self,
        x: Tensor,
        state: Tensor | None,
        reset: Tensor | None,
        padding: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        D = self.d_head
        shift, S = (None, None) if state is None else state.split([5 * D + 5, D], -1)
        columns, next_shift = self._rewrite(x, shift, reset, padding, return_state)
        q, k, v, b = columns.split([D, D, D, 1], -1)
        y, S_next = fast_weights(
            *(q.softmax(-1), k.softmax(-1), v, rates(b, padding)), S, reset, return_state
        )
        if next_shift is None or S_next is None:
            return y, None
        return y, torch.cat([next_shift, S_next], -1)
