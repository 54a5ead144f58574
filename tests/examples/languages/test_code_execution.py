"""Programs against Python, which executes them, and against the published rules."""

import re
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from examples.languages.tasks import TASKS

STATEMENT = re.compile(
    r"(?P<condition>if [xyzab] [<>] \d : )?"
    r"((?P<assign>[xyzab] = \d)|(?P<step>[xyzab] (\+\+|--))|(?P<print>print [xyzab])) ;"
)


def statements(text: str) -> list[str]:
    return [part.strip() + " ;" for part in text.split(";")[:-1]]


def to_python(statement: str, published: bool) -> str:
    """The statement in Python; a condition has the published fault if it asks whether the name is new."""
    line = statement.removesuffix(" ;").replace("++", "+= 1").replace("--", "-= 1")
    if published:
        line = re.sub(r"(if .*) : (\w) = ", r'\1 and "\2" not in globals() : \2 = ', line)
    return re.sub(r"print (\w)", r"print(\1)", line)


def run(text: str, published: bool) -> tuple[list[str], list[dict[str, int]]]:
    """What each token prints, "_" if nothing, and the variables before each statement."""
    printed: list[int] = []
    variables = {"print": printed.append}
    labels, before = [], []
    for statement in statements(text):
        before.append({name: value for name, value in variables.items() if name in set("xyzab")})
        count = len(printed)
        exec(to_python(statement, published), variables)
        labels += ["_"] * (len(statement.split()) - 1)
        labels.append(str(printed[-1]) if len(printed) > count else "_")
    return labels, before


@pytest.fixture(params=["code-3", "code-5", "code-3-published", "code-5-published"])
def task(request):
    return TASKS[request.param]


def draw(task, rng, low, high):
    """A program, its labels, and what `run` makes of it."""
    word = task.draw(rng, low, high)
    text = " ".join(task.symbols[i] for i in word.tokens)
    return text, [task.labels[i] for i in word.labels], *run(text, task.name.endswith("published"))


def test_labels_are_what_python_prints(task):
    rng = np.random.default_rng(0)
    for low, high in [(2, 30)] * 150 + [(100, 100)] * 50:
        text, labels, expected, _ = draw(task, rng, low, high)
        assert labels == expected, text


def test_programs_follow_the_published_rules(task):
    rng = np.random.default_rng(1)
    kinds, guarded, names, relations, digits = (Counter() for _ in range(5))
    for _ in range(60):
        text, _, _, variables = draw(task, rng, 100, 100)
        lines = [STATEMENT.fullmatch(statement) for statement in statements(text)]
        assert len(lines) == 100
        assert all(lines)
        found = [[kind for kind, part in line.groupdict().items() if part] for line in lines]
        assert (found[0], found[-1]) == (["assign"], ["print"])
        kinds.update(kind for kind, *_ in found[1:-1])
        guarded.update(inner for _, *rest in found for inner in rest)
        names.update(line["assign"][0] for line in lines if line["assign"])
        relations.update(re.findall("[<>]", text))
        digits.update(re.findall(r"\d", text))
        for line, values in zip(lines, variables, strict=True):
            assert all(-8 <= value <= 16 for value in values.values())
            read = "".join(line[kind] or "" for kind in ("condition", "step", "print"))
            assert set(re.findall(r"\b[xyzab]\b", read)) <= set(values)
    assert [len(counter) for counter in (kinds, guarded, relations, digits)] == [4, 3, 2, 10]
    assert sorted(names) == sorted("xyzab"[: int(task.name[5])])
    for counter in (kinds, guarded, names, relations, digits):
        assert chisquare(list(counter.values())).pvalue > 1e-3


class Chances:
    """A generator by which a program does nothing but step one variable one way."""

    def __init__(self, up: bool) -> None:
        self.up = up

    def integers(self, high: int) -> int:
        return 0

    def random(self, size: int) -> np.ndarray:
        steps = np.resize([0.3, 0.0, 0.2 if self.up else 0.8], size)  # kind, variable, sign
        return np.concatenate([[0.0, 0.5], steps])  # x = 5


@pytest.mark.parametrize(("up", "bound"), [(True, 16), (False, -8)])
def test_a_step_beyond_the_bounds_goes_the_other_way(task, up, bound):
    text, labels, _, variables = draw(task, Chances(up), 40, 40)
    further, back = ("++", "--") if up else ("--", "++")
    values = [before["x"] for before in variables[1:]]
    assert statements(text)[0] == "x = 5 ;"
    for statement, value in zip(statements(text)[1:-1], values, strict=False):
        assert statement == f"x {back if value == bound else further} ;"
    assert values.count(bound) > 5
    assert labels[-1] == str(values[-1])


@pytest.mark.parametrize("value", range(-8, 17))
def test_every_value_has_its_label(task, value):
    steps = ("x ++ ; " if value > 0 else "x -- ; ") * abs(value)
    assert task.label(f"x = 0 ; {steps} print x ;")[-1] == str(value)


def test_the_published_fault():
    text = "x = 3 ; if x > 2 : x = 7 ; if x > 2 : y = 1 ; print x ; print y ;"
    for name, printed in [("code-3", ["7", "1"]), ("code-3-published", ["3", "1"])]:
        assert [label for label in TASKS[name].label(text) if label != "_"] == printed
