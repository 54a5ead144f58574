"""Group words against products of permutations that are written as strings."""

from functools import reduce
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import chisquare

from examples.languages.tasks import TASKS


@pytest.fixture(params=[("z3", 3), ("z5", 5), ("s3", 6), ("a5", 60), ("s5", 120)], ids=lambda pair: pair[0])
def group(request):
    """The task and the product of two symbols."""
    name, order = request.param
    task, degree = TASKS[name], int(name[1])
    assert len(set(task.symbols)) == order
    assert task.labels == task.symbols
    if name[0] == "z":
        return task, lambda x, y: str((int(x) + int(y)) % degree)
    assert set(task.symbols) <= {"".join(one) for one in permutations("01234"[:degree])}
    return task, lambda x, y: "".join(x[int(i)] for i in y)  # (xy)(i) = x(y(i))


def test_the_elements_are_a_group_and_the_identity_is_0(group):
    task, times = group
    # A5 is the only group of 60 of the permutations of five.
    assert {times(x, y) for x in task.symbols for y in task.symbols} == set(task.symbols)
    assert all(times(task.symbols[0], x) == x for x in task.symbols)


def test_labels_are_the_products_so_far(group):
    task, times = group
    rng = np.random.default_rng(0)
    for low, high in [(1, 9)] * 200 + [(2, 50)] * 100 + [(101, 130)] * 5:
        word = task.draw(rng, low, high)
        elements = [task.symbols[token] for token in word.tokens]
        expected = [reduce(times, elements[: end + 1]) for end in range(len(elements))]
        assert [task.labels[i] for i in word.labels] == expected


def test_elements_are_uniform_and_independent(group):
    order = len(group[0].symbols)
    tokens = group[0].draw(np.random.default_rng(7), 40_000, 40_000).tokens
    assert chisquare(np.bincount(tokens, minlength=order)).pvalue > 1e-3
    some = 5 if order == 5 else 3  # that many kinds of elements, of equal size
    pairs = tokens[:-1] % some * some + tokens[1:] % some
    assert chisquare(np.bincount(pairs, minlength=some**2)).pvalue > 1e-3
