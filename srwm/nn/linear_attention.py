"""The layer of fast weights under the sum rule, which are programmed by a linear map."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from srwm.nn import _checks, maps
from srwm.nn._fast_weights import wide_zeros
from srwm.nn._mixer import Residual
from srwm.nn._programmed import Programmed
from srwm.operators import sum_rule


class LinearAttention(Programmed):
    """Multi-head linear attention: fast weights under the sum rule (Katharopoulos et al., ICML 2020).

    At every step a linear map of the normalised input gives each head a query, a key and a value. The
    products of keys and values are summed in the fast weights S, which the query reads::

        q, k, v = slow_net(layer_norm(h))             per head D + D + D outputs
        S <- S + phi(k)^T v        z <- z + phi(k)
        y = scale phi(q) S         or, with `normalise`,  y = scale phi(q) S / (phi(q) . z + normalise)
        out = h + dropout(out_linear(y))              or another residual form, as in `SRWM`

    It is the simplest fast weight programmer. `DeltaNet` differs in how it writes: it replaces the value
    that a key reads, while here values of one key add up.

    Parameters
    ----------
    d_model : int
        Entries of an input vector; a multiple of `n_heads`.
    n_heads : int
        Heads H; each has fast weights (Dphi, D).
    feature_map : {"elu", "softmax", "dpfp", "favor", "identity", "l2"}
        The map phi of queries and keys, see `srwm.nn.maps.FeatureMap`; by default elu(a) + 1. It has Dphi
        outputs: D, 2 nu D of "dpfp", 2 n_features of "favor".
    nu : int
        Products per entry, of "dpfp" alone.
    n_features : int, optional
        Random projections, of "favor" alone, which needs it.
    normalise : float, optional
        Divide outputs by phi(q) . z and this number, at least 1e-30; published are 1e-6 and, in language
        models, 1e-5. None: they are not divided. Not with "identity" and "l2", whose features may be
        negative.
    sum_norm : bool
        Whether phi is divided by the sum of its entries, as in the published reinforcement learning.
    scale : float, optional
        A factor of all outputs of heads; None is 1. In published language models, D ** -0.5.
    residual : {"pre_norm", "norm_skip", "plain", "none"}
        As for `SRWM`; the published layer has "pre_norm". The published language models add to the
        normalised input instead, which none of these forms does.
    d_out : int, optional
        Entries of an output vector, by default `d_model`; only with ``residual="none"`` may it differ.
    eps : float
        It is added to the sums of `sum_norm`: 1e-5 in the published reinforcement learning.
    dropout : float
        Probability of dropout on the output of out_linear.
    device, dtype
        As for other torch layers.

    Attributes
    ----------
    slow_net : Linear
        From d_model to 3 H D entries, without bias. The entries of each head are contiguous, in the order
        q, k, v.
    feature_map : FeatureMap
        phi; it has no parameters.

    Notes
    -----
    The state (..., H, Dphi, D) is the fast weights S of each sequence, from features of keys to values;
    with `normalise` (..., H, Dphi, D + 1), where the last column is z. It is float32 also with halves and
    under autocast. A reset returns to zeros. Parameters have the published names.

    Raises
    ------
    TypeError
        Sizes that are not integers, options of other types, a dtype other than float16, bfloat16,
        float32, float64.
    ValueError
        `d_model` is not a multiple of `n_heads`, an unknown map or residual, an option of another map,
        `d_out` differs from `d_model` without ``residual="none"``, a number is out of range, or torch
        cannot use the device here.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import LinearAttention
    >>> layer = LinearAttention(64, n_heads=4, normalise=1e-6)
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
        feature_map: maps.Name = "elu",
        nu: int = 1,
        n_features: int | None = None,
        normalise: float | None = None,
        sum_norm: bool = False,
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
        options: dict[str, Any] = {"nu": nu, "n_features": n_features, "sum_norm": sum_norm, "eps": eps}
        _checks.feature_map(name, "feature_map", feature_map, get_args(maps.Name), **options)
        normalise = _checks.normalise(name, normalise, feature_map)
        scale = 1.0 if scale is None else _checks.number(name, "scale", scale)
        super().__init__(d_model, n_heads, residual, d_out, dropout, factory)
        self.normalise, self.scale = normalise, scale
        self.feature_map = maps.FeatureMap(feature_map, self.d_head, **options, **factory)

    def _columns(self) -> list[int]:
        return [self.d_head] * 3

    def reset_parameters(self) -> None:
        """Initialise all parameters again, and draw the projection of "favor"."""
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
        q, k, v = self._programs(x)
        q, k = self.feature_map(q, k)
        if padding is not None:
            k = k.masked_fill(padding.unsqueeze(-1), 0)
        if self.normalise is None:
            start: Any = state
            if state is None and return_state:
                start = wide_zeros(k, k.shape[-1], v.shape[-1])
        elif state is not None:
            start = state[..., :-1], state[..., -1]
        else:
            S, z = wide_zeros(k, k.shape[-1], v.shape[-1]), wide_zeros(k, k.shape[-1])
            start = None if S is None or not return_state else (S, z)
        options: dict[str, Any] = {"reset": reset, "normalise": self.normalise, "scale": self.scale}
        if not return_state:
            return sum_rule.forward(q, k, v, None, None, start, **options), None
        y, last = sum_rule.forward(q, k, v, None, None, start, return_state=True, **options)
        if self.normalise is None:
            return y, last
        S, z = last
        return y, torch.cat([S, z.unsqueeze(-1)], -1)

    def _options(self) -> dict[str, Any]:
        changed = {} if self.normalise is None else {"normalise": self.normalise}
        return super()._options() | changed | ({} if self.scale == 1 else {"scale": self.scale})
