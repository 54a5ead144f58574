"""Train a few-shot learner: ``python -m examples.fewshot.train --help``."""

from __future__ import annotations

from accelerate import Accelerator

from ..training.broadcasting import local_main_first
from ..training.command_line import run_program
from ..training.loop import State
from ..training.program import train
from .class_counts import check_unseen
from .domains import load_domains
from .evaluate import Evaluation, evaluate
from .plots import draw_curves
from .presets import DESCRIPTIONS, PRESETS
from .settings import Settings
from .smoke import smoke
from .trainer import Training


def make(settings: Settings, accelerator: Accelerator, state: State | None) -> Training:
    """The work of a run, once its data are there."""
    del state
    domains = local_main_first(accelerator, lambda: load_domains(settings))
    check_unseen(settings, domains)
    return Training(settings, domains, accelerator)


def finish(settings: Settings, training: Training) -> None:
    """Evaluate on the test classes."""
    evaluate(Evaluation(runs=(settings.folder,), threads=settings.threads), training.domains)


def main(settings: Settings) -> int:
    """Train, draw the curves, evaluate on the test classes; returns the exit status.

    Raises
    ------
    ValueError, OSError : for settings or files that do not allow it, before any training.
    """
    return train(settings, make, draw_curves, finish)


if __name__ == "__main__":
    run_program(main, PRESETS, DESCRIPTIONS, Settings(), smoke)
