"""Nested lists against Python's own expressions, and against all lists of a length."""

import re
from collections import Counter
from functools import cache
from itertools import accumulate

import numpy as np
import pytest
from scipy.stats import chisquare

from examples.languages.tasks import TASKS
from examples.languages.tasks.listops import nested_lists


def checked(choose):
    def apply(*elements: int) -> int:
        assert 2 <= len(elements) <= 5
        return choose(elements)

    return apply


FUNCTIONS = {"MIN": checked(min), "MAX": checked(max), "FIRST": checked(lambda elements: elements[0])}


def value(text: str) -> int:
    """By Python, of the word written as calls: MAX(1, 2, )."""
    calls = [f"{symbol[1:]}(" if symbol[0] == "[" else f"{symbol}, " for symbol in text.split()]
    return eval("".join(calls).replace("], ", "), ").removesuffix(", "), FUNCTIONS.copy())


def depth(text: str) -> int:
    return max(accumulate((symbol == "[") - (symbol == "]") for symbol in text))


def draw(task, rng, low, high) -> tuple[str, str]:
    word = task.draw(rng, low, high)
    return " ".join(task.symbols[i] for i in word.tokens), task.labels[word.labels[-1]]


@pytest.mark.parametrize(
    ("name", "low", "high", "depths"),
    [("listops", 1, 60, range(1, 20)), ("listops-10", 31, 120, {10}), ("listops-15", 46, 200, {15})],
)
def test_values_and_depths(name, low, high, depths):
    rng = np.random.default_rng(0)
    symbols, found = Counter(), set()
    for _ in range(300):
        text, label = draw(TASKS[name], rng, low, high)
        assert label == str(value(text)), text
        symbols.update(text.split())
        found.add(depth(text))
    assert found <= set(depths)
    assert len(found) >= min(len(depths), 6)
    operators = [symbols[name] for name in ("[MIN", "[MAX", "[FIRST")]
    assert chisquare(operators).pvalue > 1e-3
    assert chisquare([symbols[digit] for digit in "0123456789"]).pvalue > 1e-3


@cache
def elements(length: int) -> dict[str, float]:
    """Elements of a length, digits as 0 and operators as [, and their chances by the published rules."""
    if length == 1:
        return {"0": 0.75}
    return {
        f"[{content}]": chance / 16
        for number in range(2, 6)
        for content, chance in contents(number, length - 2)
    }


@cache
def contents(number: int, length: int) -> list[tuple[str, float]]:
    """All sequences of so many elements of a length together."""
    if number == 0:
        return [("", 1.0)] if length == 0 else []
    return [
        (first + rest, chance * others)
        for own in range(1, length + 1)
        for first, chance in elements(own).items()
        for rest, others in contents(number - 1, length - own)
    ]


def shape(task, rng, length) -> str:
    return re.sub(r"\[[A-Z]+", "[", re.sub(r"\d", "0", draw(task, rng, length, length)[0])).replace(" ", "")


def assert_follows(counts: Counter, chances: dict[str, float]) -> None:
    assert set(counts) <= set(chances)
    expected = counts.total() * np.array(list(chances.values())) / sum(chances.values())
    assert chisquare([counts[text] for text in chances], expected).pvalue > 1e-3


@pytest.mark.parametrize(("length", "depths"), [(11, range(1, 20)), (14, range(3, 4)), (13, range(4, 5))])
def test_lists_of_a_length_follow_the_published_rules(length, depths):
    task, rng = nested_lists("lists", depths), np.random.default_rng(1)
    counts = Counter(shape(task, rng, length) for _ in range(4000))
    assert_follows(counts, {text: p for text, p in elements(length).items() if depth(text) in depths})


def test_so_do_the_lists_in_a_long_list():
    rng, counts = np.random.default_rng(2), Counter()
    for _ in range(600):
        text = shape(TASKS["listops"], rng, 60)
        counts.update({part: text.count(part) for part in elements(7)})
    assert_follows(counts, elements(7))
