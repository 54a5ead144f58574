"""Evaluate trained models on words of each bin: ``python -m examples.languages.evaluate --help``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from ..training import evaluation
from ..training.command_line import run_with_options
from ..training.program import use_threads
from ..training.run_folder import RunFolder
from ..training.tables import markdown_table
from .model import Reader, build_reader
from .scores import Scores, score
from .settings import Settings

Results = dict[str, Any]
Run = evaluation.Run[Settings, Reader]


@dataclass(frozen=True)
class Evaluation:
    """Score the weights that did best in validation on test words of each bin.

    Numbers and a table go to <run>/evaluation.json and .md.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the runs."""
    threads: int = 0
    """Threads for PyTorch; 0 leaves its own choice."""


def load_run(folder: RunFolder) -> Run:
    """A run with its best weights so far; see `evaluation.load_run`."""
    return evaluation.load_run(folder, Settings, build_reader, "learner")


def evaluate_run(folder: RunFolder) -> Results:
    """Score the best weights of a run, write the numbers, and print them."""
    run = load_run(folder)
    s, output = run.settings, folder.evaluation
    with evaluation.reserve(output, [folder]):
        results = {
            "task": s.task,
            "core": s.core,
            "step": run.progress["step"],
            "words": s.test_words,
            "bins": {
                f"{low}-{high}": of_bin(
                    score(
                        run.model, s.words, seed=s.seed, use="test", count=s.test_words, low=low, high=high
                    )
                )
                for low, high in s.all_bins
            },
        }
        evaluation.write(output, results, table(results))
    return results


def of_bin(scores: Scores) -> Results:
    """Shares of words and positions that are right, the longest prefixes, and words right by length."""
    return {
        "words": scores.words,
        "positions": scores.positions,
        "prefix_90": scores.prefix(0.9),
        "prefix_99": scores.prefix(0.99),
        "by_length": [
            [int(length), int(of_length.sum()), len(of_length)]
            for length in np.unique(scores.lengths)
            for of_length in [scores.whole[scores.lengths == length]]
        ],
    }


def table(results: Results) -> str:
    """The numbers in Markdown, a row for each bin."""
    rows = [
        [
            name,
            *(f"{100 * of[what]:.1f} %" for what in ("words", "positions")),
            *(str(of[what]) for what in ("prefix_90", "prefix_99")),
        ]
        for name, of in results["bins"].items()
    ]
    head = f"{results['task']}, {results['core']}: lengths"
    return markdown_table(
        [head, "whole words right", "positions right", "longest prefix right in 90 %", "in 99 %"], rows
    )


def main(options: Evaluation) -> None:
    """Evaluate each run."""
    use_threads(options.threads)
    for path in options.runs:
        evaluate_run(RunFolder(path))


if __name__ == "__main__":
    run_with_options(main, "examples.languages.evaluate", Evaluation)
