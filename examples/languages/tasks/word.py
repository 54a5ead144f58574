"""A task, and a word that is drawn from it.

Letters in the shapes: L tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


class Word(NamedTuple):
    """A word, and what is asked at each of its positions."""

    tokens: IntArray  # (L,) numbers of symbols
    labels: IntArray  # (L,) numbers of labels; 0, which means nothing, where the position does not count
    scored: npt.NDArray[np.bool_]  # (L,) which positions count


@dataclass(frozen=True)
class Task:
    """A language, and a label for each position of its words.

    The papers train and test on finite sets of distinct words. Here words are drawn without end, and one
    may come again. A word is a function of the generator and the range. All lengths that the language has
    in the range are equally likely, so a range of long words is covered evenly.
    """

    name: str  # what the task is called in `TASKS`
    symbols: tuple[str, ...]  # the alphabet; token i is ``symbols[i]``
    labels: tuple[str, ...]  # what a position can be labelled with; class i is ``labels[i]``
    # Draws a word of exactly this length, as tokens, (L,) int64.
    compose: Callable[[np.random.Generator, int], IntArray]
    # The label of each position, (L,) int64, or ValueError if the tokens are no word that has labels.
    answer: Callable[[IntArray], IntArray]
    # The language has words of the lengths least, least + step, least + 2 step and so on.
    least: int = 1
    step: int = 1
    unit: str = "symbols"  # what a length counts, or "statements"
    last_only: bool = False  # whether the last position alone counts; otherwise all do

    def lengths(self, low: int, high: int) -> range:
        """The lengths from low to high, both included, of which there are words, in `unit`."""
        skipped = max(0, -((self.least - low) // self.step))
        return range(self.least + skipped * self.step, high + 1, self.step)

    def draw(self, rng: np.random.Generator, low: int, high: int) -> Word:
        """A random word whose length is from low to high, both included, in `unit`."""
        lengths = self.lengths(low, high)
        if not lengths:
            few = ", ".join(str(self.least + i * self.step) for i in range(3))
            raise ValueError(
                f"draw: low to high must include a length of {self.name}, which are {few}, … {self.unit}, "
                f"got {low} to {high}; widen the range"
            )
        return self._ask(self.compose(rng, lengths[rng.integers(len(lengths))]))

    def label(self, text: str) -> list[str]:
        """The labels of a word's positions that count, for a word written by hand.

        Blanks must stand between the symbols if some symbol has several characters.
        """
        spaced = any(len(symbol) > 1 for symbol in self.symbols)
        parts = text.split() if spaced else [part for part in text if not part.isspace()]
        if not parts or not set(parts) <= set(self.symbols):
            raise ValueError(
                f"label: text must be a word of {self.name}, made of {' '.join(self.symbols)}"
                f"{' with blanks between' * spaced}, got {text!r}"
            )
        word = self._ask(np.array([self.symbols.index(part) for part in parts]))
        return [self.labels[number] for number in word.labels[word.scored]]

    def _ask(self, tokens: IntArray) -> Word:
        scored = np.full(len(tokens), not self.last_only)
        scored[-1] = True
        return Word(tokens, self.answer(tokens), scored)
