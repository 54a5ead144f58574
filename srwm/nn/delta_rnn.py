"""The layer of the Delta RNN."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from srwm.nn import _checks, maps
from srwm.nn._fast_weights import fast_weights, wide_zeros
from srwm.nn._mixer import Residual
from srwm.nn._programmed import Programmed, rates
from srwm.operators import delta_rnn


class DeltaRNN(Programmed):
    """Multi-head Delta RNN (Irie, Schlag, Csordás, Schmidhuber, NeurIPS 2021).

    Each head is a small recurrent network, whose two weight matrices are fast weights under the delta
    rule: one reads the input, the other, R, the last output::

        q, k, v, k', v', b, b' = slow_net(layer_norm(h))        per head 5 D + 2 outputs
        z = delta rule of phi(q), phi(k), v, sigmoid(b); see `srwm.delta.forward`
        R <- delta rule of softmax(k'), v', sigmoid(b')
        version 2:  y = z + softmax(last y) R                   see `srwm.delta_rnn.forward`
        version 1:  y = softmax(z + (last y) R)
        out = h + dropout(out_linear(y))                        or another residual form, as in `SRWM`

    Parameters
    ----------
    d_model : int
        Entries of an input vector; a multiple of `n_heads`.
    n_heads : int
        Heads H; each has two matrices of fast weights (D, D).
    version : {2, 1}
        Where the softmax is: on what reads R (2), or on the output (1), as in the published language
        models.
    feature_map : {"elu", "softmax"}
        The map phi of q and k: elu(a) + 1, divided by its sum, as in the published algorithmic tasks and
        in language models of version 2; or softmax, as in reinforcement learning and in version 1.
    residual : {"pre_norm", "norm_skip", "plain", "none"}
        As for `SRWM`; the published layer has "pre_norm".
    d_out : int, optional
        Entries of an output vector, by default `d_model`; only with ``residual="none"`` may it differ.
    eps : float
        It is added to the sums by which queries and keys are divided, with "elu" alone.
    dropout : float
        Probability of dropout on the output of out_linear.
    device, dtype
        As for other torch layers.

    Attributes
    ----------
    slow_net : Linear
        From d_model to H (5 D + 2) entries, without bias. The entries of each head are contiguous, in the
        order q, k, v, k', v', b, b'.
    feature_map : FeatureMap
        phi; it has no parameters.

    Notes
    -----
    The state (..., H, D, 2 D + 1) has three parts: the fast weights that read the input, D columns; R, D
    columns; and in the last column the last y. It is float32 also with halves and under autocast. A reset
    returns all to zeros. Unlike in the published code, gradients flow through the state from one segment
    to the previous one. Parameters have the published names.

    Raises
    ------
    TypeError
        Sizes that are not integers, options of other types, a dtype other than float16, bfloat16,
        float32, float64.
    ValueError
        `d_model` is not a multiple of `n_heads`, an unknown version, map or residual, `d_out` differs from
        `d_model` without ``residual="none"``, a number is out of range, or torch cannot use the device
        here.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import DeltaRNN
    >>> layer = DeltaRNN(64, n_heads=4)
    >>> out, state = layer(torch.randn(8, 20, 64))          # 8 sequences of 20 steps
    >>> out, state = layer(torch.randn(8, 20, 64), state)   # the 20 steps after those
    >>> out.shape, state.shape
    (torch.Size([8, 20, 64]), torch.Size([8, 4, 16, 33]))
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        version: Literal[2, 1] = 2,
        feature_map: Literal["elu", "softmax"] = "elu",
        residual: Residual = "pre_norm",
        d_out: int | None = None,
        eps: float = 0.0,
        dropout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = type(self).__name__
        factory = _checks.factory(name, device, dtype)
        version = _checks.choice(name, "version", version, (1, 2))
        sum_norm = feature_map == "elu"
        _checks.feature_map(name, "feature_map", feature_map, ("elu", "softmax"), 1, None, sum_norm, eps)
        super().__init__(d_model, n_heads, residual, d_out, dropout, factory)
        self.version = version
        self.feature_map = maps.FeatureMap(feature_map, self.d_head, sum_norm=sum_norm, eps=eps, **factory)

    def _columns(self) -> list[int]:
        return [self.d_head] * 5 + [1, 1]

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """(H, D, 2 D + 1), the last axes of a state."""
        return self.n_heads, self.d_head, 2 * self.d_head + 1

    def _mix(
        self,
        x: Tensor,
        state: Tensor | None,
        reset: Tensor | None,
        padding: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        D = self.d_head
        q, k, v, recurrent_k, recurrent_v, b, recurrent_b = self._programs(x)
        S = start = None
        if state is not None:
            S, R, h = state.split([D, D, 1], -1)
            start = R, h.squeeze(-1)
        elif return_state and (R := wide_zeros(q, D, D)) is not None:
            start = R, R.new_zeros(D)
        q, k = self.feature_map(q, k)
        z, S = fast_weights(q, k, v, rates(b, padding), S, reset, return_state)
        operands = z, recurrent_k.softmax(-1), recurrent_v, rates(recurrent_b, None), None, None, start
        options: dict[str, Any] = {
            "version": self.version,
            "reset": reset,
            "mask": None if padding is None else ~padding,
        }
        if S is None:
            return delta_rnn.forward(*operands, **options), None
        y, (R, h) = delta_rnn.forward(*operands, return_state=True, **options)
        return y, torch.cat([S, R, h.unsqueeze(-1)], -1)

    def _options(self) -> dict[str, Any]:
        return super()._options() | ({} if self.version == 2 else {"version": self.version})
