"""Counts the lines of code that each operator needs for itself, and what they share, as a Markdown table.

    python -m tests.lines_of_operators
    python -m tests.lines_of_operators --write docs/architecture.md

A line of code is neither blank, nor a comment, nor a docstring. Files belong to an operator by their names.
Its tests of its own are its rows of the table, the steps that these are held against, and steps by hand;
all other tests are those of every operator.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.compile_matrix import markdown_between
from benchmarks.lines_of_code import lines_of_code
from srwm.operators.table import OPERATORS
from tests import operators
from tests.counts import SHOWN, grid

ROOT = Path(__file__).parents[1]
COLUMNS = ("module", "reference", "CPU", "CUDA", "rows", "by hand")
# What is no code in Cython and in CUDA.
NO_CODE = {".pxi": r'""".*?"""|#[^\n]*', ".cu": r"/\*.*?\*/|//[^\n]*"}
NO_CODE[".cuh"] = NO_CODE[".cu"]


def lines(path: Path) -> int:
    """The lines of code of a file; 0 where there is none."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if path.suffix == ".py":
        return lines_of_code(text)
    text = re.sub(NO_CODE[path.suffix], "", text, flags=re.DOTALL)
    return sum(bool(line.strip()) for line in text.splitlines())


def kernels(module: str, names: list[str]) -> list[Path]:
    """The files of its kernels."""
    cuda = [f"{name}_{verb}.cu" for name in names for verb in ("forward", "backward")] + [f"{module}.cuh"]
    paths = [ROOT / "srwm/_cy" / f"{module}.pxi", *(ROOT / "srwm/_raw_kernels" / name for name in cuda)]
    return [path for path in paths if path.exists()]


def rows_of(names: list[str]) -> int:
    """Its rows of the tests' table, with their steps."""
    own = [row for row in operators.ROWS if row.op.name in names]
    source, variables = inspect.getsource(operators), {n for n, v in vars(operators).items() if v in own}
    assigned = [
        ast.get_source_segment(source, node) or ""
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in variables
    ]
    steps = {row.torch_step for row in own}
    called = {name for step in steps for name in step.__code__.co_names if name.endswith("_step")}
    steps |= {vars(operators)[name] for name in called}
    return sum(map(lines_of_code, (*assigned, *map(inspect.getsource, steps))))


def by_hand(names: list[str]) -> int:
    """The tests whose numbers are worked out by hand."""
    path = ROOT / "tests/test_reference.py"
    patterns = [line.tests for line in SHOWN if line.check == "by hand" and set(line.of) & set(names)]
    source, count = path.read_text(encoding="utf-8"), 0
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            name = f"tests.{path.stem}.{node.name}"
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                first = min(part.lineno for part in (node, *node.decorator_list))
                count += lines_of_code("\n".join(source.splitlines()[first - 1 : node.end_lineno]))
    return count


def counted() -> dict[str, tuple[int, ...]]:
    """The counts of each module, in the order of COLUMNS."""
    modules: dict[str, list[str]] = {}
    for op in OPERATORS.values():
        modules.setdefault(op.module or op.name, []).append(op.name)
    counts = {}
    for module, names in modules.items():
        own = kernels(module, names)
        counts[module] = (
            lines(ROOT / "srwm/operators" / f"{module}.py"),
            sum(lines(ROOT / "srwm/reference" / f"{name}.py") for name in names),
            sum(lines(path) for path in own if path.suffix == ".pxi"),
            sum(lines(path) for path in own if path.suffix != ".pxi"),
            rows_of(names),
            by_hand(names),
        )
    return counts


def shared() -> dict[str, int]:
    """What kernels of several operators include, by file."""
    owned = {path for op in OPERATORS.values() for path in kernels(op.module or op.name, [op.name])}
    folders = [ROOT / "srwm/_cy", ROOT / "srwm/_raw_kernels"]
    paths = [
        path for folder in folders for path in sorted(folder.glob("*")) if path.suffix in (".pxi", ".cuh")
    ]
    return {path.name: lines(path) for path in paths if path not in owned}


def as_markdown() -> str:
    """The table, and what is shared."""
    rows = [(f"`{module}`", *own, sum(own)) for module, own in counted().items()]
    files = ", ".join(f"`{name}` {n}" for name, n in shared().items())
    return "\n".join([*grid(("operator", *COLUMNS, "all"), rows), "", f"Shared by kernels: {files}."])


def main() -> None:
    """Print, or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", type=Path, help="Markdown file between whose markers the table goes")
    options = parser.parse_args()
    if options.write is None:
        print(as_markdown())
    else:
        markdown_between(options.write, "lines", as_markdown())


if __name__ == "__main__":
    main()
