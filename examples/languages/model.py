"""The model: symbols in, a label for every position out."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..training.core import Core
from ..training.cores import build_core
from .packing import pack
from .settings import Settings


class Reader(nn.Module):
    """A core of `training.cores` on the symbols of words, one-hot."""

    def __init__(self, core: Core, n_symbols: int) -> None:
        super().__init__()
        self.core, self.n_symbols = core, n_symbols

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, L) int64, mask (B, L) false at padding -> logits (B, L, labels)."""
        if mask is None or not self.core.packs:
            return self._answer(tokens, mask=mask)
        to = pack(mask)
        packed = tokens.new_zeros(to.resets.shape)
        packed[to.rows, to.columns] = tokens[mask]
        answers = self._answer(packed, resets=to.resets)
        logits = answers.new_zeros(*mask.shape, answers.shape[-1])
        logits[mask] = answers[to.rows, to.columns]
        return logits

    def _answer(self, tokens: Tensor, **flags: Tensor | None) -> Tensor:
        inputs = F.one_hot(tokens, self.n_symbols).to(next(self.parameters()).dtype)
        logits, _ = self.core(inputs, **flags, return_states=False)
        return logits


def build_reader(settings: Settings) -> Reader:
    """The model that the settings describe, with fresh weights."""
    task, s = settings.words, settings
    core = build_core(
        s.core,
        len(task.symbols),
        len(task.labels),
        n_layers=s.n_layers,
        n_heads=s.n_heads,
        d_model=s.d_model,
        d_ff=s.d_ff,
        dropout=s.dropout,
        residual=s.residual,
        input_softmax=s.input_softmax or None,
        beta_init=s.beta_init,
        q_scale=s.q_scale,
        input_gain=s.input_gain,
    )
    return Reader(core, len(task.symbols))
