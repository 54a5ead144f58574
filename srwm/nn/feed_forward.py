"""The feed-forward block that follows a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from srwm.nn import _checks
from srwm.nn._layer import Layer
from srwm.nn._mixer import kind_of


class FeedForward(Layer):
    """Pre-norm feed-forward block: ``h + FF(layer_norm(h))``. FF is two linear maps with a ReLU in between.

    It has the same call as the other layers, ``out, state = block(h)``, so that it can replace them and be
    in a `Stack`. Nothing passes from one step to the next: the state is always None, and a reset changes
    nothing.

    Parameters
    ----------
    d_model, d_ff : int
        Entries of an input vector, and of the hidden layer.
    dropout : float
        Probability of dropout after the ReLU and after the second map.
    device, dtype
        As for other torch layers.

    Raises
    ------
    TypeError
        Sizes that are not integers, options of other types, a dtype other than float16, bfloat16,
        float32, float64.
    ValueError
        Sizes below 1, a dropout out of range, or a device that torch cannot use here. A call raises it if
        it gets a state.

    Notes
    -----
    The block of Vaswani et al., NeurIPS 2017, with the norm first. In Irie et al., ICML 2022, such a block
    follows every layer.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import FeedForward
    >>> out, state = FeedForward(64, 256)(torch.randn(8, 20, 64))
    >>> out.shape, state
    (torch.Size([8, 20, 64]), None)
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        dropout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        factory = _checks.factory(name, device, dtype)
        dropout = _checks.number(name, "dropout", dropout, 0, 1)
        d_model, d_ff = _checks.size(name, "d_model", d_model), _checks.size(name, "d_ff", d_ff)
        self.d_model = self.d_out = d_model
        self.layer_norm = nn.LayerNorm(d_model, **factory)
        self.ff_layers = nn.Sequential(
            nn.Linear(d_model, d_ff, **factory),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(d_ff, d_model, **factory),
            nn.Dropout(dropout),
        )

    def reset_parameters(self) -> None:
        """Initialise all parameters again, as torch's linear maps and layer norms do."""
        self.layer_norm.reset_parameters()
        for layer in self.ff_layers:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()

    def _kind(self) -> tuple[torch.dtype, torch.device]:
        return kind_of(self.layer_norm.weight)

    def _run(
        self,
        h: Tensor,
        state: Any,
        reset: Tensor | None,
        padding: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, None]:
        del state, reset, padding, return_state
        return h + self.ff_layers(self.layer_norm(h)), None
