"""Train a few-shot learner: ``python -m examples.fewshot.train --help``."""

from __future__ import annotations

import dataclasses

from ..training.accelerator import make_accelerator
from ..training.broadcasting import local_main_first
from ..training.command_line import run_program
from ..training.interrupt import INTERRUPTED, StopRequest
from ..training.opening import open_run, use_threads
from ..training.run_folder import RunFolder
from .class_counts import check_unseen
from .curves import draw_curves
from .domains import load_domains
from .evaluate import Evaluation, evaluate
from .presets import DESCRIPTIONS, PRESETS, PROGRAM, command
from .settings import Settings
from .trainer import Trainer


def main(settings: Settings) -> int:
    """Train, draw the curves, evaluate on the test classes; returns the exit status.

    Raises
    ------
    ValueError, OSError : for settings or files that do not allow it, before any training.
    """
    settings.check()
    accelerator = make_accelerator(settings)
    folder = RunFolder(settings.folder)
    state = open_run(folder, settings, accelerator) if settings.resume else None
    use_threads(settings.threads, state)
    domains = local_main_first(accelerator, lambda: load_domains(settings))
    check_unseen(settings, domains)
    trainer = Trainer(settings, domains, folder, accelerator)
    if state is not None:
        trainer.resume(state)
    else:
        open_run(folder, settings, accelerator)
    try:
        with StopRequest() as stop:
            finished = trainer.train(stop)
    except KeyboardInterrupt:  # in the middle of a step, which is lost
        finished = False
    is_main = accelerator.is_main_process
    accelerator.end_training()
    if not is_main:
        return 0 if finished else INTERRUPTED
    if folder.reports():
        draw_curves(folder.reports(), settings, folder.curves)
    if not finished:
        again = command(dataclasses.replace(settings, resume=True, overwrite=False))
        print(f"stopped; {folder.checkpoint} is usable. Continue with:\n  {again}")
        return INTERRUPTED
    evaluate(Evaluation(runs=(folder.path,), threads=settings.threads), domains)
    print(f"curves, checkpoint and metrics are in {folder.path}/")
    return 0


if __name__ == "__main__":
    run_program(main, PROGRAM, PRESETS, DESCRIPTIONS, Settings())
