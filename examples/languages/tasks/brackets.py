"""Languages of brackets: at each position, which kinds of brackets are open.

In dyck-2 each bracket closes the last that was opened. In shuffle-2, a shuffle of two Dyck words, brackets
of the two kinds may cross. A word of reset-dyck is a Dyck word that was cut somewhere, the reset "1", and a
Dyck word.

Where the published sets differ: the words published as shuffle-2 are those of dyck-2. Words come from the
grammar S → (S) | SS | nothing, by which some words of a length are more frequent than others. A word of
reset Dyck can be longer than its range allows. Here all words of a length are equally likely. In reset-dyck
this holds for the length of the second part, and for either part given its length.
"""

from functools import lru_cache, partial
from math import comb

import numpy as np
import numpy.typing as npt

from .word import IntArray, Task

_RESET = 2  # the token


def _draw_dyck(rng: np.random.Generator, length: int) -> IntArray:
    """A Dyck word of even length: 0 opens, 1 closes; all are equally likely.

    One closing bracket too many is put in random order with the others. Exactly one rotation of this is a
    Dyck word followed by a closing bracket: it starts after the first minimum of the depth (cycle lemma).
    """
    steps = np.ones(length + 1, np.int64)
    steps[: length // 2 + 1] = -1
    rng.shuffle(steps)
    start = int(np.cumsum(steps).argmin()) + 1
    return (1 - np.concatenate([steps[start:], steps[: start - 1]])) // 2


def _draw_prefix(rng: np.random.Generator, length: int) -> IntArray:
    """A Dyck word that was cut somewhere, written as above; all of the length are equally likely.

    The walk x has as many ups as downs, or one up more. Its minimum so far is m, at most 0. Then x − 2m is
    never negative, and each such walk comes from exactly one x (the bijection behind Pitman's 2M − X).
    """
    steps = np.ones(length, np.int64)
    steps[: length // 2] = -1
    rng.shuffle(steps)
    x = np.cumsum(steps)
    depth = x - 2 * np.minimum(np.minimum.accumulate(x), 0)
    return (1 - np.diff(depth, prepend=0)) // 2


def _compose_reset(rng: np.random.Generator, length: int) -> IntArray:
    """A word that was cut, the reset, a word."""
    second = 2 * int(rng.integers((length - 1) // 2 + 1))
    return np.concatenate([_draw_prefix(rng, length - 1 - second), [_RESET], _draw_dyck(rng, second)])


@lru_cache(maxsize=1024)
def _share_of_lengths(pairs: int) -> npt.NDArray[np.float64]:
    """The share of shuffles whose first word has at most 0, 1, … of the pairs, (pairs + 1,)."""

    def words(n: int) -> int:
        return comb(2 * n, n) // (n + 1)

    shuffles = [comb(2 * pairs, 2 * n) * words(n) * words(pairs - n) for n in range(pairs + 1)]
    total = sum(shuffles)
    return np.cumsum([number / total for number in shuffles])


def _compose_shuffle(rng: np.random.Generator, length: int) -> IntArray:
    """Two words that are interleaved; all shuffles are equally likely."""
    share = _share_of_lengths(length // 2)
    first = 2 * int(np.searchsorted(share[:-1], rng.random(), side="right"))
    of_first = np.zeros(length, np.bool_)
    of_first[:first] = True
    rng.shuffle(of_first)
    tokens = np.empty(length, np.int64)
    tokens[of_first] = _draw_dyck(rng, first)
    tokens[~of_first] = _draw_dyck(rng, length - first) + 2
    return tokens


def _compose_dyck_2(rng: np.random.Generator, length: int) -> IntArray:
    """A word, the kind of each pair being random."""
    word = _draw_dyck(rng, length)
    level = np.cumsum(1 - 2 * word) + word  # a pair has one level, between its brackets and at both
    partners = np.argsort(level, kind="stable")  # in each level, brackets open and close in turn
    kinds = np.empty(length, np.int64)
    kinds[partners] = np.repeat(rng.integers(2, size=length // 2), 2)
    return word + 2 * kinds


def _answer(tokens: IntArray, *, kinds: int = 1) -> IntArray:
    """One binary digit for each kind, the first for the first: whether brackets of the kind are open."""
    labels = np.zeros(len(tokens), np.int64)
    for kind in range(kinds):
        depth = np.cumsum((tokens == 2 * kind).astype(np.int64) - (tokens == 2 * kind + 1))
        if (depth < 0).any():
            raise ValueError(
                "label: the word must open each bracket before it closes it, "
                f"got {tokens} as numbers of symbols"
            )
        labels = 2 * labels + (depth > 0)
    return labels


def _answer_reset(tokens: IntArray) -> IntArray:
    """Of what follows the last reset; at a reset nothing is open."""
    resets = np.flatnonzero(tokens == _RESET)
    return np.concatenate([_answer(part) for part in np.split(tokens, resets)])


_answer_two = partial(_answer, kinds=2)
_TWO_KINDS = ("(", ")", "[", "]")
_TWO_LABELS = ("00", "01", "10", "11")

TASKS = (
    Task("dyck-1", ("(", ")"), ("0", "1"), _draw_dyck, _answer, least=2, step=2),
    Task("reset-dyck", ("(", ")", "1"), ("0", "1"), _compose_reset, _answer_reset),
    Task("shuffle-2", _TWO_KINDS, _TWO_LABELS, _compose_shuffle, _answer_two, least=2, step=2),
    Task("dyck-2", _TWO_KINDS, _TWO_LABELS, _compose_dyck_2, _answer_two, least=2, step=2),
)
