"""Group words: at each position, the product of the elements so far.

The elements are drawn independently, all equally likely. Element 0 is the identity. A permutation p is
written p(0)p(1)…, and (xy)(i) = x(y(i)).

Where the published sets differ: their words begin with a mark, which is labelled and scored, and all have
one length.
"""

from functools import partial
from itertools import permutations

import numpy as np

from .word import IntArray, Task


def _compose(rng: np.random.Generator, length: int, *, order: int) -> IntArray:
    return rng.integers(order, size=length)


def _answer(tokens: IntArray, *, table: IntArray) -> IntArray:
    """The prefix products; ``table[x, y]`` is xy."""
    products = tokens.copy()
    width = 1  # each product is of so many elements, the last ones up to its position
    while width < len(products):
        products[width:] = table[products[:-width], products[width:]]
        width *= 2
    return products


def _group(name: str, symbols: tuple[str, ...], table: IntArray) -> Task:
    compose, answer = partial(_compose, order=len(symbols)), partial(_answer, table=table)
    return Task(name, symbols, symbols, compose, answer)


def _cyclic(order: int) -> Task:
    numbers = np.arange(order)
    return _group(f"z{order}", tuple(map(str, numbers)), (numbers[:, None] + numbers) % order)


def _of_permutations(name: str, degree: int, *, even_only: bool = False) -> Task:
    elements = np.array(list(permutations(range(degree))))  # in lexicographic order: the identity is first
    if even_only:
        pairs = np.triu_indices(degree, 1)
        inversions = (elements[:, pairs[0]] > elements[:, pairs[1]]).sum(1)
        elements = elements[inversions % 2 == 0]
    digits = degree ** np.arange(degree)[::-1]
    table = np.searchsorted(elements @ digits, elements[:, elements] @ digits)
    return _group(name, tuple("".join(map(str, element)) for element in elements), table)


_PERMUTED = (
    _of_permutations("s3", 3),
    _of_permutations("a5", 5, even_only=True),
    _of_permutations("s5", 5),
)
TASKS = (_cyclic(3), _cyclic(5), *_PERMUTED)
