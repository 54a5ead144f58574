"""Evaluate trained models on words of each bin: ``python -m examples.languages.evaluate --help``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from ..training.accelerator import choose_device
from ..training.program import use_threads
from ..training.run_folder import RunFolder, write_json
from ..training.weights import load_weights
from .model import build_reader
from .scores import Scores, score
from .settings import Settings

Results = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """Evaluate runs with the weights that did best in validation; numbers go to <run>/evaluation.json."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the runs."""
    threads: int = 0
    """Threads for PyTorch; 0 leaves its own choice."""


def evaluate_run(path: Path) -> str:
    """Score the best weights of a run on its test words, and write the numbers; a table of them.

    Parameters
    ----------
    path : folder of the run.

    Raises
    ------
    FileNotFoundError : if it holds no checkpoint.
    ValueError : if that is damaged, or of another program or version.
    """
    folder = RunFolder(path)
    folder.claim()
    state = folder.best_or_last(Settings)
    settings = Settings.from_record(state["settings"])
    reader = build_reader(settings)
    load_weights(reader, state.get("learner"), folder.best_or_last_path)
    reader.to(choose_device())
    bins = {
        f"{low}-{high}": of_bin(
            score(
                reader,
                settings.words,
                seed=settings.seed,
                use="test",
                count=settings.test_words,
                low=low,
                high=high,
            )
        )
        for low, high in settings.all_bins
    }
    results: Results = {
        "task": settings.task,
        "core": settings.core,
        "step": state["progress"]["step"],
        "words": settings.test_words,
        "bins": bins,
    }
    write_json(folder.evaluation, results)
    return table(results)


def of_bin(scores: Scores) -> Results:
    """Shares of words and positions that are right, the longest prefixes, and words right by length."""
    lengths = np.unique(scores.lengths)
    return {
        "words": scores.words,
        "positions": scores.positions,
        "prefix_90": scores.prefix(0.9),
        "prefix_99": scores.prefix(0.99),
        "by_length": [
            [int(length), int(of_length.sum()), len(of_length)]
            for length in lengths
            for of_length in [scores.whole[scores.lengths == length]]
        ],
    }


def table(results: Results) -> str:
    """The numbers, a line for each bin."""
    lines = [f"{results['task']}, {results['core']}, {results['words']} words of each bin"]
    for name, of in results["bins"].items():
        words, positions = (f"{of[score]:6.1%}" for score in ("words", "positions"))
        lines.append(f"  lengths {name:>8}: {words} of the words right, {positions} of the positions")
    return "\n".join(lines)


def main(options: Evaluation) -> int:
    """Evaluate each run; returns the exit status."""
    use_threads(options.threads)
    for path in options.runs:
        print(evaluate_run(path))
    return 0


if __name__ == "__main__":
    given = tyro.cli(Evaluation, prog="python -m examples.languages.evaluate")
    try:
        sys.exit(main(given))
    except (ValueError, OSError) as error:
        sys.exit(f"{error}")
