"""Parity: at each position, whether the number of ones so far is even.

Where the published set differs: its words end at random, so that short ones are most frequent, and odd ones
get a 1 more. Here all words of a length are equally likely.
"""

import numpy as np

from .word import IntArray, Task


def _compose(rng: np.random.Generator, length: int) -> IntArray:
    bits = rng.integers(2, size=length)
    bits[-1] = bits[:-1].sum() % 2
    return bits


def _answer(tokens: IntArray) -> IntArray:
    return 1 - np.cumsum(tokens) % 2


TASKS = (Task("parity", ("0", "1"), ("0", "1"), _compose, _answer),)
