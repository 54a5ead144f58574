"""A core that is a Transformer."""

import torch
from torch import Tensor, nn

from .core import Core, Flags, Sizes, States, one_axis, out_layer


class TransformerCore(Core):
    """A small causal Transformer, pre-norm, with sinusoidal positions: it reads sequences whole.

    It carries nothing: called with states or resets it raises ValueError. Padding is no position.
    """

    packs = False

    def __init__(self, s: Sizes) -> None:
        super().__init__(s.n_inputs, s.n_outputs or s.d_model)
        if s.d_model % s.n_heads:
            raise ValueError(
                f"build_core: d_model must be a multiple of n_heads = {s.n_heads}, got {s.d_model}; every "
                "head has d_model / n_heads entries"
            )
        self.input_proj = nn.Linear(s.n_inputs, s.d_model)
        sizes = s.d_model, s.n_heads, s.d_ff, s.dropout
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(*sizes, batch_first=True, norm_first=True) for _ in range(s.n_layers)
        )
        self.norm = nn.LayerNorm(s.d_model)
        self.out_layer = out_layer(s)
        with torch.no_grad():
            self.input_proj.weight.mul_(s.input_gain)

    def _run(
        self, inputs: Tensor, states: States | None, resets: Flags, mask: Flags, return_states: bool
    ) -> tuple[Tensor, States]:
        if states is not None or resets is not None:
            raise ValueError(
                "core: a transformer carries nothing from one segment to the next: expected states and "
                "resets None; pass each sequence whole, in a row of its own"
            )
        *lead, L, _ = inputs.shape
        h = one_axis(self.input_proj(inputs), lead, 2)
        order = None
        if mask is not None:
            # The steps of each sequence first, its padding behind them, which causal attention never sees.
            order = (~one_axis(mask, lead, 1)).argsort(dim=-1, stable=True).unsqueeze(-1)
            h = h.gather(1, order.expand_as(h))
        h = h + sinusoidal_positions(L, h.shape[-1], h.device).to(h.dtype)
        causal = nn.Transformer.generate_square_subsequent_mask(L, h.device, h.dtype)
        for layer in self.layers:
            h = layer(h, src_mask=causal, is_causal=True)
        if order is not None:
            h = h.gather(1, order.argsort(dim=1).expand_as(h))
        return self.out_layer(self.norm(h.reshape(*lead, *h.shape[-2:]))), []


def sinusoidal_positions(L: int, D: int, device: torch.device | None = None) -> Tensor:
    """(L, D): sines, then cosines, of the step by frequencies from 1 down to 1 / 10,000."""
    half = (D + 1) // 2
    frequencies = 10_000 ** (-torch.arange(half, device=device) / half)
    angles = torch.arange(L, device=device).unsqueeze(-1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :D]
