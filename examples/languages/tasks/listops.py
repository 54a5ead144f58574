"""ListOps: lists in lists of digits, of which the smallest, the largest or the first element is the value.

The label stands at the last "]", the only position that is scored; elsewhere it is 0 and means nothing.

The published rules: the word is a list. A list has two to five elements, each number being equally likely.
Each element is a list with probability 1/4, or else a digit. Operators and digits are uniform. A published
set has one depth: 10 means that the deepest digits lie in 10 lists.

Where the published sets differ: their lengths are what the rules give, on average 98 tokens at depth 10 and
188 at depth 15. Here all lengths of the range are equally likely. Among the words of a length and of the
depths that the task has, the published rules decide. No word is deeper than 19; the published rules get
there too, by digits for certain in the 19th list.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from operator import itemgetter
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .word import IntArray, Task

_LIST: Final = 0.25
_ELEMENTS: Final = range(2, 6)
_DEEPEST: Final = 19
_OPERATORS: dict[str, Callable[[list[int]], int]] = {"[MIN": min, "[MAX": max, "[FIRST": itemgetter(0)}
_SYMBOLS = (*"0123456789", *_OPERATORS, "]")
_END: Final = len(_SYMBOLS) - 1


class _Chances(NamedTuple):
    """Probabilities of elements by depth d, a digit's being 0, by number k, and by length in tokens."""

    exactly: npt.NDArray[np.float64]  # (d, length): of an element of depth d
    below: npt.NDArray[np.float64]  # (d, length): of one of less depth
    up_to: npt.NDArray[np.float64]  # (d, k, length): of k elements, none of more depth
    reached: npt.NDArray[np.float64]  # (d, k, length): of the same, and some of depth d


@lru_cache(maxsize=16)
def _chances(size: int) -> _Chances:
    """For lengths below ``size``."""
    most = _ELEMENTS[-1]
    exactly, below = np.zeros((2, _DEEPEST + 1, size))
    up_to, reached = np.zeros((2, _DEEPEST + 1, most + 1, size))
    up_to[:, 0, 0] = 1
    exactly[0, 1] = 1 - _LIST
    for d in range(_DEEPEST + 1):
        if d:  # a list is two tokens longer than its elements
            exactly[d, 2:] = _LIST / len(_ELEMENTS) * reached[d - 1, _ELEMENTS, :-2].sum(0)
            below[d] = below[d - 1] + exactly[d - 1]
        for k in range(1, most + 1):
            # Either the first element has the depth, or those after it must reach it.
            either = np.convolve(exactly[d], up_to[d, k - 1]) + np.convolve(below[d], reached[d, k - 1])
            reached[d, k] = either[:size]
            up_to[d, k] = np.convolve(below[d] + exactly[d], up_to[d, k - 1])[:size]
    return _Chances(exactly, below, up_to, reached)


def _choose(rng: np.random.Generator, weights: npt.NDArray[np.float64]) -> int:
    """A number with probabilities in proportion to weights."""
    cumulated = weights.cumsum()
    return int(cumulated.searchsorted(rng.random() * cumulated[-1], side="right"))


def _draw_element(rng: np.random.Generator, chances: _Chances, depth: int, length: int) -> list[int]:
    """The tokens of an element of this depth and length."""
    if depth == 0:
        return [int(rng.integers(10))]
    d, rest = depth - 1, length - 2
    tokens = [int(rng.integers(10, _END))]
    remaining = chances.reached  # until some element has depth d
    number = _ELEMENTS[_choose(rng, remaining[d, _ELEMENTS, rest])]
    for after in reversed(range(number)):
        # By length of this element, if it has depth d and if it has less; those after it have the rest.
        has_it = chances.exactly[d, : rest + 1] * chances.up_to[d, after, rest::-1]
        has_less = chances.below[d, : rest + 1] * remaining[d, after, rest::-1]
        is_less, own = divmod(_choose(rng, np.concatenate([has_it, has_less])), rest + 1)
        own_depth = _choose(rng, chances.exactly[:d, own]) if is_less else d
        if not is_less:
            remaining = chances.up_to
        tokens += _draw_element(rng, chances, own_depth, own)
        rest -= own
    return [*tokens, _END]


def _compose(rng: np.random.Generator, length: int, *, depths: range) -> IntArray:
    chances = _chances(1 << length.bit_length())
    depth = depths[_choose(rng, chances.exactly[depths, length])]
    return np.array(_draw_element(rng, chances, depth, length))


def _answer(tokens: IntArray) -> IntArray:
    stack: list[tuple[str, list[int]]] = [("", [])]  # the open lists, within one that stands for the word
    for token in tokens.tolist():
        symbol = _SYMBOLS[token]
        operator, elements = stack[-1]
        if symbol in _OPERATORS:
            stack.append((symbol, []))
        elif symbol != "]":
            elements.append(token)
        elif operator and elements:
            stack.pop()
            stack[-1][1].append(_OPERATORS[operator](elements))
        else:
            stack.clear()
            break
    if len(stack) != 1 or len(stack[0][1]) != 1 or tokens[-1] != _END:
        raise ValueError(
            "label: the word must be one list, closed, and no list in it may be empty, "
            f"got {' '.join(_SYMBOLS[token] for token in tokens)!r}"
        )
    labels = np.zeros(len(tokens), np.int64)
    labels[-1] = stack[0][1][0]
    return labels


def nested_lists(name: str, depths: range) -> Task:
    """Words whose deepest digits lie in as many lists as ``depths`` says, from 1 to 19."""
    compose, least = partial(_compose, depths=depths), 3 * depths[0] + 1
    return Task(name, _SYMBOLS, _SYMBOLS[:10], compose, _answer, least=least, last_only=True)


TASKS = (
    nested_lists("listops", range(1, _DEEPEST + 1)),
    nested_lists("listops-10", range(10, 11)),
    nested_lists("listops-15", range(15, 16)),
)
