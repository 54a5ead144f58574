"""Programs of a small language: what does each statement print?

The symbol ";" ends a statement; there the label is the value if the statement prints one. All other labels
are "_". All positions are scored. A length counts statements, 100 in the papers, not the 3 to 9 tokens that
each of them has.

Programs are drawn by the published rules. The first statement assigns and the last prints. The others
assign, step, print or have a condition, each with probability 1/4; what a condition guards is one of the
first three. A step that would leave −8 to 16 goes the other way.

The published labels have a fault: an assignment under a condition that holds does nothing if the variable
has a value already, though the program shows it. Tasks called so have the fault; the others are labelled
as Python would print.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np

from .word import IntArray, Task

_DIGITS = tuple("0123456789")
_NAMES = ("x", "y", "z", "a", "b")  # the last, so that fewer of them make a shorter alphabet
_SYMBOLS = (*_DIGITS, "=", "++", "--", "print", "if", "<", ">", ":", ";", *_NAMES)
_NUMBERS = {symbol: number for number, symbol in enumerate(_SYMBOLS)}
_LEAST: Final = -8
_MOST: Final = 16
_LABELS = ("_", *map(str, range(_LEAST, _MOST + 1)))
_GUARDED = ("assign", "step", "print")


def _execute(
    statement: Sequence[str], values: dict[str, int], *, published: bool, guarded: bool = False
) -> int | None:
    """Execute a statement on the values; returns what it prints, if it does."""
    match statement:
        case ["if", name, ("<" | ">") as relation, number, ":", *rest]:
            holds = values[name] < int(number) if relation == "<" else values[name] > int(number)
            return _execute(rest, values, published=published, guarded=True) if holds else None
        case ["print", name, ";"]:
            return values[name]
        case [name, "++", ";"]:
            values[name] += 1
        case [name, "--", ";"]:
            values[name] -= 1
        case [name, "=", number, ";"] if name in _NAMES:
            if not (published and guarded and name in values):
                values[name] = int(number)
        case _:
            raise ValueError("no statement of the language")
    return None


def _answer(tokens: IntArray, *, published: bool) -> IntArray:
    labels = np.zeros(len(tokens), np.int64)
    values: dict[str, int] = {}
    statement: list[str] = []
    for position, token in enumerate(tokens.tolist()):
        statement.append(_SYMBOLS[token])
        if statement[-1] == ";" or position == len(tokens) - 1:
            try:
                printed = _execute(statement, values, published=published)
                labels[position] = 0 if printed is None else _LABELS.index(str(printed))
            except (KeyError, ValueError) as error:
                raise ValueError(
                    "label: a statement must be complete, read only variables that have a value, and print "
                    f"one from {_LEAST} to {_MOST}, got {' '.join(statement)!r}"
                ) from error
            statement = []
    return labels


def _compose(rng: np.random.Generator, length: int, *, variables: int, published: bool) -> IntArray:
    chances = iter(rng.random(7 * length).tolist())  # a statement has 7 choices at most
    values: dict[str, int] = {}

    def choose(options: Sequence[str]) -> str:
        return options[int(next(chances) * len(options))]

    def write(kind: str) -> list[str]:
        if kind == "assign":
            return [choose(_NAMES[:variables]), "=", choose(_DIGITS), ";"]
        name = choose(list(values))
        if kind == "print":
            return ["print", name, ";"]
        if kind == "condition":
            return ["if", name, choose("<>"), choose(_DIGITS), ":", *write(choose(_GUARDED))]
        sign = choose(("++", "--"))
        turned = {_MOST: "--", _LEAST: "++"}.get(values[name], sign)
        return [name, turned, ";"]

    program: list[str] = []
    for number in range(length):
        inner = 0 < number < length - 1
        kind = choose((*_GUARDED, "condition")) if inner else "print" if number else "assign"
        statement = write(kind)
        _execute(statement, values, published=published)
        program += statement
    return np.array([_NUMBERS[symbol] for symbol in program])


def _code(variables: int, *, published: bool) -> Task:
    name = f"code-{variables}-published" if published else f"code-{variables}"
    symbols = _SYMBOLS[: len(_SYMBOLS) - len(_NAMES) + variables]
    compose = partial(_compose, variables=variables, published=published)
    answer = partial(_answer, published=published)
    return Task(name, symbols, _LABELS, compose, answer, least=2, unit="statements")


TASKS = tuple(_code(variables, published=published) for variables in (3, 5) for published in (False, True))
