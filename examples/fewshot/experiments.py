"""The comparisons behind docs/results: ``python -m examples.fewshot.experiments --help``."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from ..training.command_line import run_with_options
from ..training.experiments import ExperimentOptions, compare
from .studies import STUDIES


@dataclass(frozen=True)
class Experiments(ExperimentOptions):
    """Train what a study compares, with several seeds, and put numbers and a picture side by side.

    Runs that are finished are not trained again, and interrupted ones continue: the same command goes
    on where it was stopped.
    """

    studies: tyro.conf.Positional[tuple[str, ...]]
    """Which: glyphs, sequential, sequential-settings (with --seeds 0), continual, continual-three,
    bootstrapping; several in the given order."""


if __name__ == "__main__":
    run_with_options(lambda options: compare(options, STUDIES), "examples.fewshot.experiments", Experiments)
