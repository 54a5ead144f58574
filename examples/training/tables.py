"""Numbers as Markdown tables that are read in a terminal too."""

from collections.abc import Iterable, Sequence
from typing import Any


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells, each column as wide as its widest one."""
    lines = [head, *rows]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    )


def number(values: dict[str, Any]) -> str:
    """A "mean" and its "interval_95"."""
    return f"{values['mean']:.2f} ± {values['interval_95']:.2f}"


def percent(values: dict[str, Any], digits: int = 2) -> str:
    """The same of shares, as percentages."""
    mean, half = 100 * values["mean"], 100 * values["interval_95"]
    return f"{mean:.{digits}f} ± {half:.{digits}f} %"
