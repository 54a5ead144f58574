"""The layer of the Recurrent Delta Net."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from srwm.nn import _checks
from srwm.nn._fast_weights import wide_zeros
from srwm.nn._mixer import Residual
from srwm.nn._programmed import Programmed
from srwm.operators import recurrent_delta


class RecurrentDeltaNet(Programmed):
    """Multi-head Recurrent Delta Net (Irie, Schlag, Csordás, Schmidhuber, NeurIPS 2021).

    It is a `DeltaNet` in which each head's query, key, value and rate also depend on its output of the
    step before::

        q, k, v, b = slow_net(layer_norm(h))          per head D + D + D + 1 outputs
        r = tanh(the head's last y)
        y = delta rule of softmax(q + r R_q), softmax(k + r R_k), v + r R_v, sigmoid(b + r . r_b);
            see `srwm.recurrent_delta.forward`
        out = h + dropout(out_linear(y))              or another residual form, as in `SRWM`

    Parameters
    ----------
    d_model : int
        Entries of an input vector; a multiple of `n_heads`.
    n_heads : int
        Heads H; each has fast weights (D, D).
    residual : {"pre_norm", "norm_skip", "plain", "none"}
        As for `SRWM`; the published layer has "pre_norm".
    d_out : int, optional
        Entries of an output vector, by default `d_model`; only with ``residual="none"`` may it differ.
    dropout : float
        Probability of dropout on the output of out_linear.
    device, dtype
        As for other torch layers.

    Attributes
    ----------
    slow_net : Linear
        From d_model to H (3 D + 1) entries, without bias. The entries of each head are contiguous, in the
        order q, k, v, b.
    R_q, R_k, R_v : Parameter (H, D, D)
        Recurrent weights, from the last output to queries, keys and values; drawn from N(0, 1 / D).
    r_b : Parameter (H, D)
        Recurrent weights to the rate; drawn from N(0, 1 / D).

    Notes
    -----
    The state (..., H, D, D + 1) has two parts: the fast weights of each sequence, from keys to values, and
    in the last column the last y, before the tanh. It is float32 also with halves and under autocast. A
    reset returns both to zeros. Unlike in the published code, gradients flow through the state from one
    segment to the previous one.

    ``load_state_dict`` also takes the published shapes: R_q, R_k, R_v (1, H, D, D) and r_b (1, H, 1, D).

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
    >>> from srwm.nn import RecurrentDeltaNet
    >>> layer = RecurrentDeltaNet(64, n_heads=4)
    >>> out, state = layer(torch.randn(8, 20, 64))          # 8 sequences of 20 steps
    >>> out, state = layer(torch.randn(8, 20, 64), state)   # the 20 steps after those
    >>> out.shape, state.shape
    (torch.Size([8, 20, 64]), torch.Size([8, 4, 16, 17]))
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        residual: Residual = "pre_norm",
        d_out: int | None = None,
        dropout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory = _checks.factory(type(self).__name__, device, dtype)
        super().__init__(d_model, n_heads, residual, d_out, dropout, factory)
        H, D = self.n_heads, self.d_head
        self.R_q = nn.Parameter(torch.empty(H, D, D, **factory))
        self.R_k = nn.Parameter(torch.empty(H, D, D, **factory))
        self.R_v = nn.Parameter(torch.empty(H, D, D, **factory))
        self.r_b = nn.Parameter(torch.empty(H, D, **factory))
        self._draw_recurrent_weights()

    def _columns(self) -> list[int]:
        return [self.d_head] * 3 + [1]

    def reset_parameters(self) -> None:
        """Initialise all parameters again: the recurrent weights from N(0, 1 / D)."""
        super().reset_parameters()
        self._draw_recurrent_weights()

    def _draw_recurrent_weights(self) -> None:
        with torch.no_grad():
            for weights in (self.R_q, self.R_k, self.R_v, self.r_b):
                weights.normal_(std=1 / math.sqrt(self.d_head))

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """(H, D, D + 1), the last axes of a state."""
        return self.n_heads, self.d_head, self.d_head + 1

    def _mix(
        self,
        x: Tensor,
        state: Tensor | None,
        reset: Tensor | None,
        padding: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        q, k, v, b = self._programs(x)
        start: tuple[Tensor | None, Tensor | None] | None = None
        if state is not None:
            start = state[..., :-1], state[..., -1]
        elif return_state and (last := wide_zeros(q, self.d_head)) is not None:
            start = wide_zeros(q, self.d_head, self.d_head), last
        operands = q, k, v, b.squeeze(-1), self.R_q, self.R_k, self.R_v, self.r_b, None, None, start
        mask = None if padding is None else ~padding
        if not return_state:
            return recurrent_delta.forward(*operands, reset=reset, mask=mask), None
        y, (S, last) = recurrent_delta.forward(*operands, reset=reset, mask=mask, return_state=True)
        return y, torch.cat([S, last.unsqueeze(-1)], -1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Also takes recurrent weights with the axes of the published code."""
        for name in ("R_q", "R_k", "R_v", "r_b"):
            given, own = state_dict.get(prefix + name), getattr(self, name)
            published = (1, *own.shape[:-1], 1, own.shape[-1]) if name == "r_b" else (1, *own.shape)
            if isinstance(given, Tensor) and tuple(given.shape) == published:
                state_dict[prefix + name] = given.reshape(own.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)
