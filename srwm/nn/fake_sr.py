"""The ablation of a self-referential weight matrix that never writes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from srwm.nn import _checks
from srwm.nn._mixer import Mixer, Residual, kind_of


class FakeSR(Mixer):
    """The ablation "fake SR": `SRWM` without self-modification, ``y = x W_y`` per head.

    It is a feed-forward layer, with those parameters of an SRWM that give y. What an SRWM can do and this
    layer cannot, the SRWM does by changing its weights. Irie et al., ICML 2022, reinforcement learning.

    Parameters
    ----------
    d_model : int
        Entries of an input vector; a multiple of `n_heads`.
    n_heads : int
        Heads H; each has a weight matrix (D, D).
    residual : {"plain", "norm_skip", "pre_norm", "none"}
        As for the `SRWM` with which it is compared: "plain" in the published reinforcement learning, which
        alone uses this layer; "norm_skip" to compare with the paper's few-shot layer.
    d_out : int, optional
        Entries of an output vector, by default `d_model`; only with ``residual="none"`` may it differ.
    input_softmax : bool
        Whether each head's input goes through a softmax. In the published form it does not, although in the
        SRWM that is compared it does.
    dropout : float
        Probability of dropout on the output of out_linear.
    device, dtype
        As for other torch layers.

    Attributes
    ----------
    W_y : Parameter (H, D, D)

    Notes
    -----
    Nothing passes from one step to the next, so the state is always None and a reset changes nothing.
    ``out, state = layer(h, state, reset, mask)`` runs over segments as with the other layers. Parameters
    have the published names. Published checkpoints also have a layer norm, which was never used; load them
    with ``load_state_dict(..., strict=False)``.

    Raises
    ------
    TypeError
        Sizes that are not integers, options of other types, a dtype other than float16, bfloat16,
        float32, float64.
    ValueError
        `d_model` is not a multiple of `n_heads`, the residual is unknown, `d_out` differs from `d_model`
        without ``residual="none"``, a number is out of range, or torch cannot use the device here. A call
        raises it if it gets a state.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import FakeSR
    >>> out, state = FakeSR(64, n_heads=4)(torch.randn(8, 20, 64))
    >>> out.shape, state
    (torch.Size([8, 20, 64]), None)
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        residual: Residual = "plain",
        d_out: int | None = None,
        input_softmax: bool = False,
        dropout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = type(self).__name__
        factory = _checks.factory(name, device, dtype)
        input_softmax = _checks.boolean(name, "input_softmax", input_softmax)
        super().__init__(d_model, n_heads, residual, d_out, dropout, factory)
        self.input_softmax = input_softmax
        self.W_y = nn.Parameter(torch.empty(self.n_heads, self.d_head, self.d_head, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise all parameters again: W_y from N(0, 1 / D)."""
        super().reset_parameters()
        with torch.no_grad():
            self.W_y.normal_(std=1 / math.sqrt(self.d_head))

    def _kind(self) -> tuple[torch.dtype, torch.device]:
        return kind_of(self.W_y)

    def _mix(
        self,
        x: Tensor,
        state: Tensor | None,
        reset: Tensor | None,
        padding: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, None]:
        del state, reset, padding, return_state
        x = self._by_head(x)
        if self.input_softmax:
            x = x.softmax(-1)
        return torch.einsum("...hld,hde->...hle", x, self.W_y), None

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"input_softmax": self.input_softmax}
