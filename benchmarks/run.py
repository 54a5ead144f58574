"""Times the operator beside its peers: one process, interleaved rounds, medians, outputs first.

    python -m benchmarks.run --help

Prints Markdown tables, and leaves them in a folder beside a JSON file and plots. A result that differs from
the float64 truth is an error, never a row. Times depend on the machine and on what else runs there: the
ratios are what to read.
"""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict
from itertools import groupby

import tyro

from benchmarks.plan import plan
from benchmarks.plots import draw
from benchmarks.report import as_markdown
from benchmarks.results import Results, Row
from benchmarks.settings import Settings
from benchmarks.worker import in_own_process
from srwm._cy import backend

PACKAGES = ("srwm", "numpy", "torch", "jax", "numba")


def made_with(settings: Settings) -> Row:
    """What a run's rows have in common: rows that differ in it do not go together."""
    chosen = asdict(settings.effective())
    del chosen["out"], chosen["resume"]
    return {
        "settings": {name: str(value) for name, value in chosen.items()},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "processor": f"{platform.machine()}, {backend.instruction_set()}",
        "python": platform.python_version(),
    }


def main(settings: Settings) -> None:
    """Measure what is missing, print, write, draw."""
    results = Results(settings.out, made_with(settings), resume=settings.resume)
    todo = results.missing(plan(settings))
    for _, rows in groupby(todo, key=lambda measurement: measurement.threads):
        in_own_process(results, list(rows), settings.effective().rounds)
        results = Results(settings.out, results.made_with, resume=True)
    text = as_markdown(results)
    (settings.out / "results.md").write_text(text, encoding="utf-8")
    draw(results, settings.out)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Settings))
