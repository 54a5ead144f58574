"""The files of operators: what stands in each is its own alone."""

from __future__ import annotations

import ast
import re
from itertools import combinations, product
from pathlib import Path

import pytest

from srwm.operators.table import OPERATORS
from tests.lines_of_operators import counted, lines, shared

ROOT = Path(__file__).parents[1]
MOST_LINES = 5  # of code that may stand in two operators' files alike

# By the folder of the package: the ends of names of the files that belong to an operator's name.
FILES = {
    "operators": {op.module or op.name: [".py"] for op in OPERATORS.values()},
    "reference": {op.name: [".py"] for op in OPERATORS.values()},
    "_cy": {name: [".pxi"] for name in ("srwm", "delta")},
    "_raw_kernels": {name: ["_forward.cu", "_backward.cu"] for name in ("srwm", "delta")},
}
COMMENTS = {
    ".pxi": re.compile(r'""".*?"""|#[^\n]*', re.S),
    ".cu": re.compile(r"/\*.*?\*/|//[^\n]*", re.S),
}
# From the name of a function to where its body begins: signatures may be alike.
SIGNATURES = {
    ".pxi": re.compile(r"^cdef [^\n=]*\((?:[^()]|\([^()]*\))*\)[^\n]*:$", re.M),
    ".cu": re.compile(r'^extern "C" __global__[^{]*\{', re.M),
}

NOT_COUNTED = ast.FunctionDef, ast.Import, ast.ImportFrom


def lines_of_python(text: str) -> list[str]:
    """Statements of function bodies and of the module, without docstrings and imports."""
    lines = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.stmt) or isinstance(node, NOT_COUNTED):
            continue
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            lines += ast.unparse(node).splitlines()
    return lines


def code_of(path: Path) -> list[str]:
    """The lines of a file that are code, without signatures."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return lines_of_python(text)
    text = SIGNATURES[path.suffix].sub("", COMMENTS[path.suffix].sub("", text))
    return [line.strip() for line in text.splitlines() if line.strip()]


def repeated(first: list[str], second: list[str]) -> list[tuple[str, ...]]:
    """The runs of more than MOST_LINES lines that both have."""

    def runs(lines: list[str]) -> list[tuple[str, ...]]:
        n = MOST_LINES + 1
        return [tuple(lines[i : i + n]) for i in range(len(lines) - n + 1)]

    known = set(runs(second))
    return [run for run in runs(first) if run in known]


@pytest.mark.parametrize("folder", FILES)
def test_no_six_lines_of_code_stand_in_the_files_of_two_operators(folder):
    for one, other in combinations(FILES[folder], 2):
        for ends in product(FILES[folder][one], FILES[folder][other]):
            names = [name + end for name, end in zip((one, other), ends, strict=True)]
            assert repeated(*(code_of(ROOT / "srwm" / folder / name) for name in names)) == [], names


def test_what_stands_twice_is_found():
    for path in (ROOT / "srwm/_cy/srwm.pxi", ROOT / "srwm/_raw_kernels/srwm_forward.cu"):
        lines = code_of(path)
        assert len(lines) > 50
        assert len(repeated(lines[10:17], ["something else", *lines])) == 2
        assert repeated(lines[10:15], lines) == []


def test_an_operator_like_the_delta_rule_is_small():
    module, *others = counted()["delta"]
    assert min(module, *others) > 0
    assert module <= 60
    assert module + sum(others) <= 1300


def test_lines_are_counted_of_every_module_and_no_file_is_left_out():
    counts = counted()
    assert set(counts) == {op.module or op.name for op in OPERATORS.values()}
    assert all(min(own) > 0 for own in counts.values())
    kernels = [*(ROOT / "srwm/_cy").glob("*.pxi"), *(ROOT / "srwm/_raw_kernels").glob("*.cuh")]
    kernels += [
        path
        for op in OPERATORS.values()
        for path in (ROOT / "srwm/_raw_kernels").glob(f"{op.name}_*ward.cu")
    ]
    of_kernels = sum(cpu + cuda for _, _, cpu, cuda, *_ in counts.values())
    assert of_kernels + sum(shared().values()) == sum(map(lines, set(kernels)))
