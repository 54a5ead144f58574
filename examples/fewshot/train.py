"""Train a few-shot learner: ``python -m examples.fewshot.train --help``."""

from __future__ import annotations

import dataclasses
import sys

import torch
import tyro

from .curves import draw_curves
from .data import load_splits
from .evaluate import Evaluation, evaluate
from .interrupt import StopRequest
from .run_folder import RunFolder
from .settings import Settings
from .trainer import Trainer

INTERRUPTED = 130  # the shell's exit status for a program ended by Ctrl-C


def main(settings: Settings) -> int:
    """Train, draw the curves, evaluate on the test classes; returns the exit status.

    Raises
    ------
    ValueError, OSError : for settings or files that do not allow it, before any training.
    """
    settings.check()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    splits = load_splits(settings.data, root=settings.root)
    folder = RunFolder(settings.folder)
    trainer = Trainer(settings, splits, folder, folder.open(settings))
    try:
        with StopRequest() as stop:
            finished = trainer.train(stop)
    except KeyboardInterrupt:  # in the middle of a step, which is lost
        finished = False
    if folder.reports():
        draw_curves(folder.reports(), settings, folder.curves)
    if not finished:
        again = dataclasses.replace(settings, resume=True, overwrite=False).command()
        print(f"stopped; {folder.checkpoint} is usable. Continue with:\n  {again}")
        return INTERRUPTED
    evaluate(Evaluation(runs=(folder.path,), threads=settings.threads), [splits])
    print(f"curves, checkpoint and metrics are in {folder.path}/")
    return 0


def program() -> None:
    """The command line."""
    settings = tyro.cli(Settings, prog="python -m examples.fewshot.train")
    try:
        sys.exit(main(settings))
    except (ValueError, OSError) as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    program()
