"""The base class of the layers whose fast weights are programmed by a linear map of each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from srwm.nn._mixer import Mixer, Residual, kind_of


class Programmed(Mixer):
    """A layer with a linear map that gives each head what its operators read at a step.

    Attributes
    ----------
    slow_net : Linear
        From d_model to H times the sum of `_columns` entries, without bias. The entries of each head are
        contiguous.
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
        super().__init__(d_model, n_heads, residual, d_out, dropout, factory)
        self.slow_net = nn.Linear(self.d_model, self.n_heads * sum(self._columns()), bias=False, **factory)

    def _columns(self) -> list[int]:
        """The sizes of what `_programs` returns, in its order."""
        raise NotImplementedError  # each layer says

    def reset_parameters(self) -> None:
        """Initialise all parameters again, as torch's linear maps and layer norms do."""
        super().reset_parameters()
        self.slow_net.reset_parameters()

    def _kind(self) -> tuple[torch.dtype, torch.device]:
        weight = self.slow_net.weight
        if isinstance(weight, Tensor):
            return kind_of(weight)
        return torch.float32, torch.device("cpu")  # quantised: then weight is a method

    def _programs(self, x: Tensor) -> tuple[Tensor, ...]:
        """x (..., L, d_model) -> the outputs of slow_net for each head, each (..., H, L, its columns).

        They have the precision of the parameters, under autocast too.
        """
        return self._by_head(self.slow_net(x)).to(self._kind()[0]).split(self._columns(), -1)


def rates(b: Tensor, padding: Tensor | None, most: float = 1) -> Tensor:
    """b (..., L, 1) -> rates (..., L) from 0 to `most`; 0 at padding, where the delta rule then skips."""
    beta = b.squeeze(-1).sigmoid()
    if most != 1:
        beta = most * beta
    return beta if padding is None else beta.masked_fill(padding, 0)
