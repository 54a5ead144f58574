"""The layer of fast weights under the delta rule that are programmed by a linear map."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from srwm.nn import _checks, maps
from srwm.nn._fast_weights import fast_weights
from srwm.nn._mixer import Residual
from srwm.nn._programmed import Programmed, rates
from srwm.operators import sum_rule


class DeltaNet(Programmed):
    """Multi-head fast weights under the delta rule, pre-norm (Schlag, Irie, Schmidhuber, ICML 2021).

    At every step a linear map of the normalised input gives each head a query, key, value and rate. These
    write and read the fast weights, which start at zero and are all that one step passes on to the next::

        q, k, v, b = slow_net(layer_norm(h))          per head D + D + D + 1 outputs
        phi(a) = (elu(a) + 1) / (sum(elu(a) + 1) + eps)             or another `feature_map`
        y = delta rule of phi(q), phi(k), v, beta_range sigmoid(b); see `srwm.delta.forward`
        out = h + dropout(out_linear(scale y))        or another residual form, as in `SRWM`

    With `normalise`, written N here, each head also sums its keys, and divides by what keys and queries
    read from the sum::

        m = z . phi(k)     1 in place of m where z is still zero           z <- z + phi(k)
        y = delta rule of phi(q), phi(k) / (m + N), v, m beta_range sigmoid(b), divided by phi(q) . z + N

    It is the predecessor of the self-referential weight matrix, and is compared with it in Irie et al.,
    ICML 2022: here slow_net does not change after training, while `SRWM` continues to change its own map.

    Parameters
    ----------
    d_model : int
        Entries of an input vector; a multiple of `n_heads`.
    n_heads : int
        Heads H; each has fast weights (Dphi, D).
    feature_map : {"elu", "softmax", "dpfp", "favor", "identity", "l2"}
        The map phi of queries and keys, see `srwm.nn.maps.FeatureMap`. It has Dphi outputs: D, 2 nu D of
        "dpfp", 2 n_features of "favor". Longer keys than sqrt(2), with `beta_range` 2 longer than 1, let
        the fast weights grow without bound: "identity" may give such, and a map without `sum_norm`.
    nu : int
        Products per entry, of "dpfp" alone.
    n_features : int, optional
        Random projections, of "favor" alone, which needs it.
    sum_norm : bool, optional
        Whether phi is divided by the sum of its entries. None: where that does something and can be done,
        with "elu", "dpfp" and "favor", as published.
    beta_range : {1, 2}
        The greatest rate. With 2, and keys of length 1 ("l2"), a step multiplies what a key reads by a
        number from -1 to 1 instead of 0 to 1 (Grazzi et al., ICLR 2025): some tasks of tracking a state,
        such as parity, need this.
    normalise : float, optional
        N in the second block of equations, at least 1e-30; in published language models 1e-5. None: the
        first block. Not with "identity" and "l2", whose features may be negative.
    scale : float, optional
        A factor of all outputs of heads; None is 1. In published language models, D ** -0.5.
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
    feature_map : FeatureMap
        phi; it has no parameters.

    Notes
    -----
    The state (..., H, Dphi, D) is the fast weights of each sequence, from features of keys to values; with
    `normalise` (..., H, Dphi, D + 1), where the last column is z. It is float32 also with halves and under
    autocast. A reset returns to zeros. Unlike in the published code, gradients flow through the state from
    one segment to the previous one. Parameters have the published names.

    Raises
    ------
    TypeError
        Sizes that are not integers, options of other types, a dtype other than float16, bfloat16,
        float32, float64.
    ValueError
        `d_model` is not a multiple of `n_heads`, an unknown map, range or residual, an option of another
        map, `d_out` differs from `d_model` without ``residual="none"``, a number is out of range, or torch
        cannot use the device here.

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
        feature_map: maps.Name = "elu",
        nu: int = 1,
        n_features: int | None = None,
        sum_norm: bool | None = None,
        beta_range: Literal[1, 2] = 1,
        normalise: float | None = None,
        scale: float | None = None,
        residual: Residual = "pre_norm",
        d_out: int | None = None,
        eps: float = 0.0,
        dropout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = type(self).__name__
        factory = _checks.factory(name, device, dtype)
        if sum_norm is None:
            given: Any = feature_map
            sum_norm = isinstance(given, str) and given in ("elu", "dpfp", "favor")
        options: dict[str, Any] = {"nu": nu, "n_features": n_features, "sum_norm": sum_norm, "eps": eps}
        _checks.feature_map(name, "feature_map", feature_map, get_args(maps.Name), **options)
        beta_range = _checks.choice(name, "beta_range", beta_range, (1, 2))
        normalise = _checks.normalise(name, normalise, feature_map)
        scale = 1.0 if scale is None else _checks.number(name, "scale", scale)
        super().__init__(d_model, n_heads, residual, d_out, dropout, factory)
        self.eps, self.beta_range, self.normalise, self.scale = float(eps), beta_range, normalise, scale
        self.feature_map = maps.FeatureMap(feature_map, self.d_head, **options, **factory)

    def _columns(self) -> list[int]:
        return [self.d_head] * 3 + [1]

    def reset_parameters(self) -> None:
        """Initialise all parameters again, as torch does, and draw the projection of "favor"."""
        super().reset_parameters()
        self.feature_map.reset_parameters()

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """(H, Dphi, D), with `normalise` (H, Dphi, D + 1): the last axes of a state."""
        return self.n_heads, self.feature_map.d_out, self.d_head + (self.normalise is not None)

    def _mix(
        self,
        x: Tensor,
        state: Tensor | None,
        reset: Tensor | None,
        padding: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        q, k, v, b = self._programs(x)
        q, k = self.feature_map(q, k)
        beta = rates(b, padding, self.beta_range)
        if self.normalise is None:
            y, S = fast_weights(q, k, v, beta, state, reset, return_state)
            return (y if self.scale == 1 else self.scale * y), S
        S, z = (None, None) if state is None else (state[..., :-1], state[..., -1])
        before, after, last = _sums(k, z, reset, padding)
        m = (before * k).sum(-1)
        m = m.masked_fill((before == 0).all(-1), 1)
        k = (k / (m + self.normalise).unsqueeze(-1)).to(v.dtype)
        y, S = fast_weights(q, k, v, (m * beta).to(v.dtype), S, reset, return_state)
        read = (after * q).sum(-1, keepdim=True) + self.normalise
        y = (self.scale * y / read).to(v.dtype)
        return y, None if S is None else torch.cat([S, last.unsqueeze(-1)], -1)

    def _options(self) -> dict[str, Any]:
        defaults = {"beta_range": 1, "normalise": None, "scale": 1}
        changed = {name: getattr(self, name) for name, a in defaults.items() if getattr(self, name) != a}
        return super()._options() | {"eps": self.eps} | changed


def _sums(
    k: Tensor, z: Tensor | None, reset: Tensor | None, padding: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of the keys k (..., L, D) before and after each step (..., L, D), and the last (..., D).

    They start from `z`, or from zero, where a reset leads. They have the precision of states. This is the
    sum rule with keys of one entry, 1, or 0 at padding, whose values are the keys summed here.
    """
    wide = k.to(_checks.state_dtype(k.dtype))
    ones = wide.new_ones(k.shape[-2], 1)
    written = ones if padding is None else (~padding).unsqueeze(-1).to(wide.dtype)
    start = wide.new_zeros(1, k.shape[-1]) if z is None else z.unsqueeze(-2)
    after, last = sum_rule.forward(ones, written, wide, state=start, reset=reset, return_state=True)
    first = start.expand(*wide.shape[:-2], 1, k.shape[-1])
    before = torch.cat([first, after], -2)[..., :-1, :]
    if reset is not None:
        before = before.masked_fill(reset.unsqueeze(-1), 0)
    return before, after, last.squeeze(-2)
