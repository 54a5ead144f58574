"""Count lines of code: what is neither blank, nor a comment, nor a docstring.

    python -m benchmarks.lines_of_code                      # srwm/ but for what is written once per operator
    python -m benchmarks.lines_of_code --root ../before     # the same of another checkout

Of the files in srwm/operators, srwm/reference and srwm/nn each operator or layer needs its own; of all others
none. In older checkouts these were the modules _reference, _delta_reference and nn.
"""

from __future__ import annotations

import ast
import io
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

OF_EACH = ("operators/", "reference/", "nn/", "nn.py", "_reference.py", "_delta_reference.py")
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


@dataclass(frozen=True)
class Args:
    """Count lines of code."""

    root: Path = Path(__file__).parents[1]
    """The checkout to count in."""
    each: Annotated[bool, tyro.conf.FlagConversionOff] = False
    """Whether to print every file."""


def docstring_lines(text: str) -> set[int]:
    """The numbers of the lines that docstrings stand on."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                if isinstance(first.value.value, str):
                    lines.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines


def lines_of_code(text: str) -> int:
    """How many lines of a Python source are code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstring_lines(text))


def main(args: Args) -> None:
    """Print the count of each file, and of all."""
    folder, total = args.root / "srwm", 0
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(OF_EACH):
            count = lines_of_code(path.read_text(encoding="utf-8"))
            total += count
            if args.each:
                print(f"{count:6d}  srwm/{name}")
    print(f"{total:6d}  lines of code in {folder}")


if __name__ == "__main__":
    main(tyro.cli(Args))
