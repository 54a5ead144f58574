"""A task, and a word that is drawn from it.

Letters in the shapes: L tokens.
"""

from __future__ import annotations

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

    Parameters
    ----------
    name : what the task is called in `TASKS`.
    symbols : the alphabet; token i is ``symbols[i]``.
    labels : what a position can be labelled with; class i is ``labels[i]``.
    compose : ``compose(rng, length)`` draws a word of exactly this length, as tokens, (L,) int64.
    answer : ``answer(tokens)`` returns the label of each position, (L,) int64. It raises ValueError if the
        tokens are no word that has labels.
    least, step : the language has words of the lengths least, least + step, least + 2 step and so on.
    unit : what a length counts, "symbols" or "statements".
    last_only : whether the last position alone counts; otherwise all do.
    """

    name: str
    symbols: tuple[str, ...]
    labels: tuple[str, ...]
    compose: Callable[[np.random.Generator, int], IntArray]
    answer: Callable[[IntArray], IntArray]
    least: int = 1
    step: int = 1
    unit: str = "symbols"
    last_only: bool = False

    def lengths(self, low: int, high: int) -> range:
        """The lengths from low to high, both included, of which there are words, in `unit`."""
        skipped = max(0, -((self.least - low) // self.step))
        return range(self.least + skipped * self.step, high + 1, self.step)

    def draw(self, rng: np.random.Generator, low: int, high: int) -> Word:
        """A random word whose length is from low to high, both included, in `unit`.

        Raises
        ------
        ValueError : if no word has a length in the range.
        """
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

        Raises
        ------
        ValueError : for a symbol that is not in the alphabet, or for what is no word that can be labelled.
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
