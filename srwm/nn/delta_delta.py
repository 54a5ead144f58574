"""The layer of fast weights that are programmed by fast weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from srwm.nn import _checks
from srwm.nn._fast_weights import fast_weights
from srwm.nn._mixer import Residual
from srwm.nn._programmed import Programmed, rates
from srwm.nn.maps import positive


class DeltaDelta(Programmed):
    """Fast weights under the delta rule, programmed by fast weights under the delta rule ("Delta-Delta").

    It is a `DeltaNet` whose queries, keys, values and rates come from another one in the same head::

        q, k, v, b = slow_net(layer_norm(h))          per head D + D + (3 D + 1) + 1 outputs
        q', k', v', b' = delta rule of phi(q), phi(k), v, sigmoid(b)           D + D + D + 1 outputs
        y = delta rule of phi(q'), phi(k'), v', sigmoid(b'); see `srwm.delta.forward`
        phi(a) = (elu(a) + 1) / (sum(elu(a) + 1) + eps)
        out = h + dropout(out_linear(y))              or another residual form, as in `SRWM`

    `SRDelta` has a self-referential matrix in place of slow_net and the first fast weights. Irie, Schlag,
    Csordás, Schmidhuber, NeurIPS 2021.

    Parameters
    ----------
    d_model : int
        Entries of an input vector; a multiple of `n_heads`.
    n_heads : int
        Heads H; each has fast weights (D, 3 D + 1) and (D, D).
    base_weights : bool
        Whether the first fast weights begin with a parameter, W, instead of zeros. In the published code
        it never gets a gradient; here it learns.
    residual : {"pre_norm", "norm_skip", "plain", "none"}
        As for `SRWM`; the published layer has "pre_norm".
    d_out : int, optional
        Entries of an output vector, by default `d_model`; only with ``residual="none"`` may it differ.
    eps : float
        It is added to the sums by which queries and keys are divided, of both delta rules.
    dropout : float
        Probability of dropout on the output of out_linear.
    device, dtype
        As for other torch layers.

    Attributes
    ----------
    slow_net : Linear
        From d_model to H (5 D + 2) entries, without bias. The entries of each head are contiguous, in the
        order q, k, v, b.
    W : Parameter (H, D, 3 D + 1) or None
        With `base_weights`, the first fast weights with which sequences begin; drawn from U[1, 2).

    Notes
    -----
    The state (..., H, D, 4 D + 1) has two parts: the first fast weights of each sequence, 3 D + 1 columns,
    and the second, D columns. With `base_weights` the first part is the shift from W, so that an optimiser
    step between segments has its effect. It is float32 also with halves and under autocast. A reset
    returns to W, or to zeros, and to zeros. Segments with a carried state are one sequence; the published
    code refuses to carry it.

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
    >>> from srwm.nn import DeltaDelta
    >>> layer = DeltaDelta(64, n_heads=4)
    >>> out, state = layer(torch.randn(8, 20, 64))          # 8 sequences of 20 steps
    >>> out, state = layer(torch.randn(8, 20, 64), state)   # the 20 steps after those
    >>> out.shape, state.shape
    (torch.Size([8, 20, 64]), torch.Size([8, 4, 16, 65]))
    """

    W: nn.Parameter | None

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        base_weights: bool = False,
        residual: Residual = "pre_norm",
        d_out: int | None = None,
        eps: float = 0.0,
        dropout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = type(self).__name__
        factory = _checks.factory(name, device, dtype)
        base_weights = _checks.boolean(name, "base_weights", base_weights)
        eps = _checks.number(name, "eps", eps, least=0)
        super().__init__(d_model, n_heads, residual, d_out, dropout, factory)
        self.eps = eps
        if base_weights:
            self.W = nn.Parameter(torch.empty(self.n_heads, self.d_head, 3 * self.d_head + 1, **factory))
            self._draw_base_weights()
        else:
            self.register_parameter("W", None)

    def _columns(self) -> list[int]:
        return [self.d_head, self.d_head, 3 * self.d_head + 1, 1]

    def reset_parameters(self) -> None:
        """Initialise all parameters again: W from U[1, 2)."""
        super().reset_parameters()
        self._draw_base_weights()

    def _draw_base_weights(self) -> None:
        if self.W is not None:
            with torch.no_grad():
                self.W.uniform_(1, 2)

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """(H, D, 3 D + 1 + D), the last axes of a state."""
        return self.n_heads, self.d_head, 4 * self.d_head + 1

    def _mix(
        self,
        x: Tensor,
        state: Tensor | None,
        reset: Tensor | None,
        padding: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        D = self.d_head
        shift, S = (None, None) if state is None else state.split([3 * D + 1, D], -1)
        q, k, v, b = self._programs(x)
        q, k = (positive(a, self.eps) for a in (q, k))
        columns, shift = fast_weights(q, k, v, rates(b, padding), shift, reset, return_state, base=self.W)
        q, k, v, b = columns.split([D, D, D, 1], -1)
        q, k = (positive(a, self.eps) for a in (q, k))
        y, S = fast_weights(q, k, v, rates(b, padding), S, reset, return_state)
        if shift is None or S is None:
            return y, None
        return y, torch.cat([shift, S], -1)

    def _options(self) -> dict[str, Any]:
        base = {} if self.W is None else {"base_weights": True}
        return super()._options() | {"eps": self.eps} | base
