"""The layer of fast weights that are programmed by a linear map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from srwm.nn import _checks
from srwm.nn._fast_weights import fast_weights
from srwm.nn._mixer import Mixer, Residual, kind_of
from srwm.nn.maps import positive


class DeltaNet(Mixer):
    """Multi-head fast weights under the delta rule, pre-norm (Schlag, Irie, Schmidhuber, ICML 2021).

    At every step a linear map of the normalised input gives each head a query, key, value and rate. These
    write and read the fast weights, which start at zero and are all that one step passes on to the next::

        q, k, v, b = slow_net(layer_norm(h))          per head D + D + D + 1 outputs
        phi(a) = (elu(a) + 1) / (sum(elu(a) + 1) + eps)
        y = delta rule of phi(q), phi(k), v, sigmoid(b); see `srwm.delta.forward`
        out = h + dropout(out_linear(y))              or another residual form, as in `SRWM`

    It is the predecessor of the self-referential weight matrix, and is compared with it in Irie et al.,
    ICML 2022: here slow_net does not change after training, while `SRWM` continues to change its own map.

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
    eps : float
        It is added to the sums by which queries and keys are divided: 0 in the paper's few-shot models,
        1e-5 in its reinforcement learning. With 0, too, nothing is divided by zero.
    dropout : float
        Probability of dropout on the output of out_linear.
    device, dtype
        As for other torch layers.

    Attributes
    ----------
    slow_net : Linear
        From d_model to H (3 D + 1) entries, without bias. The entries of each head are contiguous, in the
        order q, k, v, b.

    Notes
    -----
    The state (..., H, D, D) is the fast weights of each sequence, from keys to values. It is float32 also
    with halves and under autocast. A reset returns to zeros. Unlike in the published code, gradients flow
    through the state from one segment to the previous one. Parameters have the published names.

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
    >>> from srwm.nn import DeltaNet
    >>> layer = DeltaNet(64, n_heads=4)
    >>> out, state = layer(torch.randn(8, 20, 64))          # 8 sequences of 20 steps
    >>> out, state = layer(torch.randn(8, 20, 64), state)   # the 20 steps after those
    >>> out.shape, state.shape
    (torch.Size([8, 20, 64]), torch.Size([8, 4, 16, 16]))
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        residual: Residual = "pre_norm",
        d_out: int | None = None,
        eps: float = 0.0,
        dropout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = type(self).__name__
        factory = _checks.factory(name, device, dtype)
        eps = _checks.number(name, "eps", eps, least=0)
        super().__init__(d_model, n_heads, residual, d_out, dropout, factory)
        self.eps = eps
        self.slow_net = nn.Linear(self.d_model, self.n_heads * (3 * self.d_head + 1), bias=False, **factory)

    def reset_parameters(self) -> None:
        """Initialise all parameters again, as torch's linear maps and layer norms do."""
        super().reset_parameters()
        self.slow_net.reset_parameters()

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """(H, D, D), the last axes of a state."""
        return self.n_heads, self.d_head, self.d_head

    def _kind(self) -> tuple[torch.dtype, torch.device]:
        weight = self.slow_net.weight
        if isinstance(weight, Tensor):
            return kind_of(weight)
        return torch.float32, torch.device("cpu")  # quantised: then weight is a method

    def _mix(
        self,
        x: Tensor,
        state: Tensor | None,
        reset: Tensor | None,
        padding: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        D = self.d_head
        # Queries, keys and values have the precision of the parameters, under autocast too.
        columns = self._by_head(self.slow_net(x)).to(self._kind()[0])
        q, k, v, b = columns.split([D, D, D, 1], -1)
        beta = b.squeeze(-1).sigmoid()
        if padding is not None:
            beta = beta.masked_fill(padding, 0)
        q, k = (positive(a, self.eps) for a in (q, k))
        return fast_weights(q, k, v, beta, state, reset, return_state)

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"eps": self.eps}
