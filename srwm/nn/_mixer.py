"""The base class of the layers with heads: the heads, the residual forms, the last linear map."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from srwm.nn import _checks
from srwm.nn._layer import Layer

Residual = Literal["norm_skip", "plain", "pre_norm", "none"]


class Mixer(Layer):
    """A layer that mixes steps or entries for each head, between a norm and a linear map.

    Attributes
    ----------
    n_heads, d_head : int
        H and D = d_model / H.
    residual : str
        The residual form, see `srwm.nn.SRWM`.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        residual: Residual,
        d_out: int | None,
        dropout: float,
        factory: dict[str, Any],
    ) -> None:
        super().__init__()
        name = type(self).__name__
        d_model, n_heads = _checks.size(name, "d_model", d_model), _checks.size(name, "n_heads", n_heads)
        if d_model % n_heads:
            raise ValueError(
                f"{name}: d_model: expected a multiple of n_heads = {n_heads}, got {d_model}; every head "
                "has d_model / n_heads entries"
            )
        dropout = _checks.number(name, "dropout", dropout, 0, 1)
        given: Any = residual
        if not isinstance(given, str) or given not in get_args(Residual):
            raise ValueError(
                f"{name}: residual: expected one of {', '.join(get_args(Residual))}, got {residual!r}; see "
                "the equations in the class's docstring"
            )
        d_out = d_model if d_out is None else _checks.size(name, "d_out", d_out)
        if d_out != d_model and residual != "none":
            raise ValueError(
                f"{name}: d_out: expected d_model = {d_model} with residual {residual!r}, which adds "
                f"inputs to outputs, got {d_out}; pass residual='none'"
            )
        self.d_model, self.n_heads, self.d_head, self.d_out = d_model, n_heads, d_model // n_heads, d_out
        self.residual = residual
        self.out_linear = nn.Linear(d_model, d_out, bias=False, **factory)
        self.layer_norm = None if residual in ("plain", "none") else nn.LayerNorm(d_model, **factory)
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self) -> None:
        """Initialise all parameters again."""
        self.out_linear.reset_parameters()
        if self.layer_norm is not None:
            self.layer_norm.reset_parameters()

    def _run(
        self,
        h: Tensor,
        state: Tensor | None,
        reset: Tensor | None,
        padding: Tensor | None,
        return_state: bool,
        **more: Any,
    ) -> tuple[Tensor, Tensor | None]:
        normed = h if self.layer_norm is None else self.layer_norm(h)
        x = normed if self.residual == "pre_norm" else h
        if reset is not None:
            reset = reset.unsqueeze(-2)  # the same for all heads
        if padding is not None:
            padding = padding.unsqueeze(-2)
        y, state = self._mix(x, state, reset, padding, return_state, **more)
        added = self.dropout(self.out_linear(y.transpose(-3, -2).flatten(-2)))
        if self.residual == "none":
            return added, state
        return (normed if self.residual == "norm_skip" else h) + added, state

    def _mix(
        self,
        x: Tensor,
        state: Tensor | None,
        reset: Tensor | None,
        padding: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x (..., L, d_model) -> y (..., H, L, D) and the state.

        `reset` and `padding` are (..., 1, L). After a norm, x is no longer zero at padding.
        """
        raise NotImplementedError

    def _by_head(self, x: Tensor) -> Tensor:
        """(..., L, H columns) -> (..., H, L, columns), as a view: the kernels take any strides."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)

    def _options(self) -> dict[str, Any]:
        """The options that `extra_repr` prints."""
        return {"residual": self.residual} | ({} if self.d_out == self.d_model else {"d_out": self.d_out})

    def extra_repr(self) -> str:
        """The options, for torch's repr."""
        options = "".join(f", {name}={value!r}" for name, value in self._options().items())
        return f"{self.d_model}, n_heads={self.n_heads}{options}"


def kind_of(weight: Tensor) -> tuple[torch.dtype, torch.device]:
    """The dtype and the device of a parameter."""
    return weight.dtype, weight.device
