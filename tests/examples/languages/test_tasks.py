"""What all tasks share: lengths, arrays, seeds, messages; and published labels of words by hand."""

import pickle
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from examples.languages.tasks import TASKS

# The shortest length of each task, and the distance from a length to the next.
LENGTHS = {
    **dict.fromkeys(("parity", "reset-dyck", "z3", "z5", "s3", "a5", "s5"), (1, 1)),
    **dict.fromkeys(("aa", "dyck-1", "shuffle-2", "dyck-2", "counter-2"), (2, 2)),
    **dict.fromkeys(("code-3", "code-5", "code-3-published", "code-5-published"), (2, 1)),
    "abab": (4, 4),
    "counter-3": (3, 3),
    "listops": (4, 1),
    "listops-10": (31, 1),
    "listops-15": (46, 1),
}


@pytest.fixture(params=LENGTHS)
def task(request):
    return TASKS[request.param]


def test_the_tasks_by_name():
    assert TASKS.keys() == LENGTHS.keys()
    assert all(task.name == name for name, task in TASKS.items())
    assert all(task.unit == ("statements" if "code" in name else "symbols") for name, task in TASKS.items())


def test_all_lengths_of_a_range_are_equally_likely(task):
    least, step = LENGTHS[task.name]
    low, high = least + 3 * step, least + 8 * step
    expected = list(range(low, high + 1, step))
    counts, rng = Counter(), np.random.default_rng(1)
    for _ in range(600):
        tokens = task.draw(rng, low, high).tokens
        is_code = task.unit == "statements"
        counts[(tokens == task.symbols.index(";")).sum() if is_code else len(tokens)] += 1
    assert sorted(counts) == expected
    assert chisquare(list(counts.values())).pvalue > 1e-4
    # Bounds that are no lengths themselves, or lie below all of them.
    assert list(task.lengths(low - step + 1, high + step - 1)) == expected
    assert list(task.lengths(-7, least + step)) == [least, least + step]


@pytest.mark.parametrize(
    ("name", "low", "high", "few"),
    [
        ("parity", 3, 2, "1, 2, 3, … symbols"),
        ("abab", 5, 7, "4, 8, 12, … symbols"),
        ("z3", -3, 0, "1, 2, 3, … symbols"),
        ("code-3", 1, 1, "2, 3, 4, … statements"),
        ("listops-10", 2, 30, "31, 32, 33, … symbols"),
    ],
)
def test_a_range_without_a_word(name, low, high, few):
    assert not TASKS[name].lengths(low, high)
    with pytest.raises(
        ValueError, match=f"draw: low to high .* {name}, .*{few}, got {low} to {high}; widen"
    ):
        TASKS[name].draw(np.random.default_rng(0), low, high)


def test_a_word_is_a_function_of_the_generator_and_the_range(task):
    same = pickle.loads(pickle.dumps(task))  # as a loader's process gets it
    generators = [np.random.default_rng(seed) for seed in (5, 5, 6)]
    drawn = [
        np.concatenate([np.stack(one.draw(rng, 50, 120)) for _ in range(5)], axis=1).tolist()
        for one, rng in zip((task, same, task), generators, strict=True)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_arrays_and_alphabets(task):
    rng = np.random.default_rng(2)
    symbols, labels = Counter(), Counter()
    for _ in range(400):
        word = task.draw(rng, task.least, task.least + 60)
        assert word.tokens.dtype == word.labels.dtype == np.int64
        assert word.scored.dtype == np.bool_
        assert word.tokens.shape == word.labels.shape == word.scored.shape
        symbols.update(word.tokens.tolist())
        labels.update(word.labels[word.scored].tolist())
        last_only = "listops" in task.name
        assert word.scored[-1]
        assert (word.scored[:-1] == (not last_only)).all()
        assert not (last_only and word.labels[:-1].any())
    assert sorted(symbols) == list(range(len(set(task.symbols))))
    # Programs print few values above 9 and below −2.
    rare = {
        i for i, label in enumerate(task.labels) if "code" in task.name and label not in "_-2-1 0123456789"
    }
    assert sorted({*labels, *rare}) == list(range(len(set(task.labels))))


@pytest.mark.parametrize(
    ("name", "text", "labels"),
    [
        ("parity", "0110", "1011"),
        ("aa", "aaaa", "0101"),
        ("abab", "ababab", "000100"),
        ("dyck-1", "(())()", "111010"),
        ("reset-dyck", "((1()", "11010"),
        ("reset-dyck", "(1(1", "1010"),
        ("shuffle-2", "([])", "10 11 10 00"),
        ("shuffle-2", "([)]", "10 11 01 00"),
        ("counter-2", "aabb", "ccbT"),
        ("counter-3", "aabbcc", "ddbccT"),
        ("s3", "102 102", "102 012"),
        ("s3", "102 021", "102 120"),
        ("code-3", "x = 3 ; x ++ ; print x ;", "_________4"),
        ("listops", "[MAX 2 [MIN 4 7 ] 0 ]", "4"),
    ],
)
def test_words_by_hand(name, text, labels):
    assert TASKS[name].label(text) == (labels.split() if " " in labels else list(labels))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("parity", "", "made of 0 1, got ''"),
        ("code-3", "x=3;", "with blanks between, got 'x=3;'"),
        ("code-3", "a = 3 ;", "word of code-3"),
        ("abab", "abba", r"must be \[0 1 0 1\] in numbers, got \[0 1 1 0\]"),
        ("counter-2", "aab", r"word of 3 symbols must be \[0 1\]"),
        ("dyck-1", "())(", "open each bracket before it closes it"),
        ("shuffle-2", "(]", "open each bracket"),
        ("reset-dyck", "(1)", "open each bracket"),
        ("code-3", "x = 1 ; y ++ ;", r"got 'y \+\+ ;'"),
        ("code-3", "3 = 3 ;", "got '3 = 3 ;'"),
        ("code-3", "x = 3 ; print x", "complete, .* got 'print x'"),
        ("code-3", "x = 9 ; " + "x ++ ; " * 8 + "print x ;", "from -8 to 16, got 'print x ;'"),
        ("listops", "[MAX 1 2", r"must be one list, closed, .*'\[MAX 1 2'"),
        ("listops", "[MAX 1 2 ] ]", "one list"),
        ("listops", "[MAX 1 2 ] 3", "one list"),
        ("listops", "3", "one list"),
        ("listops", "[MAX 1 [MIN ] ]", "empty"),
    ],
)
def test_texts_that_are_no_words(name, text, message):
    with pytest.raises(ValueError, match=f"^label: .*{message}"):
        TASKS[name].label(text)
