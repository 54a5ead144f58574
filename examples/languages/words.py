"""Batches of words: each word is a function of the seed, of what it is for, and of its number.

Letters in the shapes: B words, L positions of the longest one.
"""

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import torch

from ..training.objective import Batch
from .tasks import Task, Word

Use = Literal["training", "validation", "test"]
_USES: tuple[Use, ...] = ("training", "validation", "test")

NOT_SCORED = -100  # as torch's cross-entropy leaves out


def draw_word(task: Task, seed: int, use: Use, number: int, low: int, high: int) -> Word:
    """The word of this number, of `low` to `high` symbols."""
    where = (seed, _USES.index(use), number)
    return task.draw(np.random.Generator(np.random.PCG64(np.random.SeedSequence(where))), low, high)


def batch_of(words: Iterable[Word]) -> Batch:
    """Words as tensors: "tokens" and "labels" (B, L) int64, `NOT_SCORED` where no label counts, and "mask"
    (B, L), false at the padding behind a word."""
    words = list(words)
    longest = max(len(word.tokens) for word in words)
    tokens = np.zeros((len(words), longest), np.int64)
    labels = np.full((len(words), longest), NOT_SCORED, np.int64)
    mask = np.zeros((len(words), longest), bool)
    for i, word in enumerate(words):
        length = len(word.tokens)
        tokens[i, :length], mask[i, :length] = word.tokens, True
        labels[i, :length] = np.where(word.scored, word.labels, NOT_SCORED)
    arrays = {"tokens": tokens, "labels": labels, "mask": mask}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class TrainingWords:
    """Training words of a run, by their number, which decides the longest there may be."""

    def __init__(self, task: Task, seed: int, low: int, longest: Callable[[int], int]) -> None:
        self.task, self.seed, self.low, self.longest = task, seed, low, longest

    def __call__(self, first: int, size: int) -> Batch:
        """The words from this number on, so many."""
        return batch_of(
            draw_word(self.task, self.seed, "training", number, self.low, self.longest(number))
            for number in range(first, first + size)
        )
