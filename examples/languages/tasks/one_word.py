"""Languages with one word of each length that they have: (aa)*, (abab)*, and the counters aⁿbⁿ and aⁿbⁿcⁿ.

The labels of (aa)* and (abab)* say at each position whether the word so far is in the language. Those of
the counters say which letter comes next. At the a's it may be "a" or "b", for which the label is the letter
after the alphabet, "c" or "d". At the end it is "T".

Where the published sets differ: their ranges bound a counter's n; here they bound the length.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from .word import IntArray, Task

# The tokens or the labels of the word of a length.
_OfLength = Callable[[int], IntArray]


def _compose(rng: np.random.Generator, length: int, *, word: _OfLength) -> IntArray:
    return word(length)


def _answer(tokens: IntArray, *, word: _OfLength, labels: _OfLength) -> IntArray:
    expected = word(len(tokens))
    if not np.array_equal(tokens, expected):
        raise ValueError(
            f"label: the word of {len(tokens)} symbols must be {expected} in numbers, got {tokens}"
        )
    return labels(len(tokens))


def _in_turn(length: int, *, letters: int) -> IntArray:
    return np.arange(length) % letters


def _at_multiples(length: int, *, period: int) -> IntArray:
    return (np.arange(1, length + 1) % period == 0).astype(np.int64)


def _in_blocks(length: int, *, letters: int) -> IntArray:
    return np.repeat(np.arange(letters), length // letters)


def _next_letters(length: int, *, letters: int) -> IntArray:
    n = length // letters  # after the last a another may come, but after the last b none
    return np.repeat(np.arange(letters + 1), [n, n - 1, *[n] * (letters - 2), 1])


def _task(name: str, symbols: str, names: str, step: int, word: _OfLength, labels: _OfLength) -> Task:
    compose, answer = partial(_compose, word=word), partial(_answer, word=word, labels=labels)
    return Task(name, tuple(symbols), tuple(names), compose, answer, least=step, step=step)


def _repeated(name: str, symbols: str) -> Task:
    word, labels = partial(_in_turn, letters=len(symbols)), partial(_at_multiples, period=len(name))
    return _task(name, symbols, "01", len(name), word, labels)


def _counter(symbols: str, names: str) -> Task:
    letters = len(symbols)
    word, labels = partial(_in_blocks, letters=letters), partial(_next_letters, letters=letters)
    return _task(f"counter-{letters}", symbols, names, letters, word, labels)


TASKS = (_repeated("aa", "a"), _repeated("abab", "ab"), _counter("ab", "cbT"), _counter("abc", "dbcT"))
