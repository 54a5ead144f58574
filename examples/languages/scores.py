"""How much of the words of a bin a model has right.

Letters in the shapes: N words, L positions of the longest one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .tasks import Task
from .words import NOT_SCORED, Use, batch_of, draw_word

_POSITIONS = 16_384  # of a batch: as many words as have these


@dataclass(frozen=True)
class Scores:
    """Of the words of a bin."""

    lengths: np.ndarray  # (N,) of the words
    right: np.ndarray  # (N, L) bool, where the answer is the label, or none counts
    scored: np.ndarray  # (N, L) bool, where one counts

    @property
    def whole(self) -> Any:
        """(N,) bool, words without an error."""
        return np.all(self.right, axis=-1)

    @property
    def words(self) -> float:
        """Share of the words without an error."""
        return float(self.whole.mean())

    @property
    def positions(self) -> float:
        """Share of the positions that count and are right."""
        return float(self.right[self.scored].mean())

    def prefix(self, share: float) -> int:
        """The longest prefix that at least this share of the words, of those so long, has no error in."""
        length = np.arange(1, self.right.shape[1] + 1)
        are_so_long = self.lengths[:, None] >= length
        faultless = np.logical_and.accumulate(self.right, axis=1) & are_so_long
        enough = faultless.sum(0) >= share * np.maximum(are_so_long.sum(0), 1)
        return int(np.argmin([*enough, False]))


@torch.no_grad()
def score(model: nn.Module, task: Task, *, seed: int, use: Use, count: int, low: int, high: int) -> Scores:
    """Score the words of numbers 0 to `count`, of `low` to `high` symbols, of a model (tokens, mask) ->
    logits; it is in evaluation mode afterwards."""
    model.eval()
    device = next(model.parameters()).device
    words = [draw_word(task, seed, use, number, low, high) for number in range(count)]
    lengths = np.array([len(word.tokens) for word in words])
    right = np.ones((count, lengths.max()), bool)
    scored = np.zeros_like(right)
    for chosen in _batches(lengths):
        batch = batch_of(words[i] for i in chosen)
        found = model(batch["tokens"].to(device), batch["mask"].to(device)).argmax(-1).cpu()
        labels = batch["labels"]
        width = labels.shape[1]
        scored[chosen, :width] = (labels != NOT_SCORED).numpy()
        right[chosen, :width] = ((found == labels) | (labels == NOT_SCORED)).numpy()
    return Scores(lengths, right, scored)


def _batches(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Words of about the same length together: padding costs as much as symbols do."""
    rest = np.argsort(lengths, kind="stable")[::-1]
    while len(rest):
        count = max(1, _POSITIONS // int(lengths[rest[0]]))
        yield rest[:count]
        rest = rest[count:]
