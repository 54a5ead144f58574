"""The eight formal languages and dyck-2 against acceptors that reduce or match strings."""

import itertools
import re
from collections import Counter
from math import comb

import numpy as np
import pytest
from scipy.stats import chisquare

from examples.languages.tasks import TASKS


def reduced(text: str, *pairs: str) -> str:
    """What is left when neighbours that form a pair vanish, as often as there are any."""
    shorter = text
    for pair in pairs:
        shorter = shorter.replace(pair, "")
    return text if shorter == text else reduced(shorter, *pairs)


def only(text: str, pair: str) -> str:
    return "".join(symbol for symbol in text if symbol in pair)


def is_shuffle(text: str) -> bool:
    return not reduced(only(text, "()"), "()") and not reduced(only(text, "[]"), "[]")


def is_reset_dyck(text: str) -> bool:
    before, *after = text.split("1")
    return len(after) == 1 and not reduced(before, "()").strip("(") and not reduced(after[0], "()")


def is_counter(text: str, letters: str) -> bool:
    return text == "".join(letter * (len(text) // len(letters)) for letter in letters)


ACCEPTORS = {
    "parity": re.compile("0*(10*10*)*").fullmatch,
    "aa": re.compile("(aa)*").fullmatch,
    "abab": re.compile("(abab)*").fullmatch,
    "dyck-1": lambda text: not reduced(text, "()"),
    "reset-dyck": is_reset_dyck,
    "shuffle-2": is_shuffle,
    "dyck-2": lambda text: not reduced(text, "()", "[]"),
    "counter-2": lambda text: is_counter(text, "ab"),
    "counter-3": lambda text: is_counter(text, "abc"),
}


def next_letters(prefix: str, letters: str) -> str:
    """Which letters come next, in some word that begins so; T if it is one."""
    words = ["".join(letter * n for letter in letters) for n in range(1, len(prefix) + 2)]
    following = {(word + "T")[len(prefix)] for word in words if word.startswith(prefix)}
    return "".join(sorted(following))


def label(name: str, prefix: str) -> str:
    """The label of a prefix's last position, from the definition."""
    if name in ("parity", "aa", "abab"):
        return "01"[bool(ACCEPTORS[name](prefix))]
    if name.startswith("counter"):
        letters = TASKS[name].symbols
        return {"ab": "abcd"[len(letters)]}.get(found := next_letters(prefix, letters), found)
    if name == "reset-dyck":
        return "01"["(" in reduced(prefix.rsplit("1", 1)[-1], "()")]
    pairs = ("()",) if name == "dyck-1" else ("()", "[]")
    return "".join("01"[pair[0] in reduced(only(prefix, pair), pair)] for pair in pairs)


def draw(name: str, rng: np.random.Generator, low: int, high: int) -> tuple[str, list[str]]:
    task = TASKS[name]
    word = task.draw(rng, low, high)
    return "".join(task.symbols[i] for i in word.tokens), [task.labels[i] for i in word.labels]


@pytest.mark.parametrize("name", ACCEPTORS)
def test_words_and_their_labels(name):
    rng = np.random.default_rng(0)
    for low, high in [(1, 12)] * 200 + [(2, 50)] * 100 + [(101, 130)] * 10:
        text, labels = draw(name, rng, low, high)
        assert low <= len(text) <= high
        assert ACCEPTORS[name](text), text
        assert labels == [label(name, text[: end + 1]) for end in range(len(text))], text


def chance(name: str, text: str) -> float:
    """Of a word among those of its length, up to a factor: the same for all, but for the reset's place."""
    before = text.find("1")
    if name != "reset-dyck":
        return 1
    pairs = (len(text) - 1 - before) // 2
    return (pairs + 1) / comb(2 * pairs, pairs) / comb(before, before // 2)


@pytest.mark.parametrize(
    ("name", "length", "words"),
    [
        ("parity", 1, 1),
        ("parity", 5, 16),
        ("aa", 8, 1),
        ("abab", 8, 1),
        ("dyck-1", 2, 1),
        ("dyck-1", 6, 5),
        ("dyck-1", 8, 14),
        ("reset-dyck", 1, 1),
        ("reset-dyck", 5, 6 + 2 + 2),
        ("reset-dyck", 6, 10 + 3 + 2),
        ("shuffle-2", 4, 10),
        ("shuffle-2", 6, 70),
        ("dyck-2", 4, 8),
        ("dyck-2", 6, 40),
        ("counter-2", 6, 1),
        ("counter-3", 6, 1),
    ],
)
def test_all_words_of_a_length_occur_as_often_as_they_should(name, length, words):
    legal = list(
        filter(ACCEPTORS[name], map("".join, itertools.product(TASKS[name].symbols, repeat=length)))
    )
    assert len(legal) == words
    rng = np.random.default_rng(3)
    counts = Counter(draw(name, rng, length, length)[0] for _ in range(4000))
    assert set(counts) == set(legal)
    if words > 1:
        share = np.array([chance(name, text) for text in legal])
        expected = 4000 * share / share.sum()
        assert chisquare([counts[text] for text in legal], expected).pvalue > 1e-3
