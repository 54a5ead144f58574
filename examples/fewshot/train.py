"""Train a few-shot learner: ``python -m examples.fewshot.train --help``."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import torch
import tyro
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from .accelerator import make_accelerator
from .curves import draw_curves
from .domains import load_domains
from .evaluate import Evaluation, evaluate
from .interrupt import StopRequest
from .presets import command, defaults, preset_of, table
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
    accelerator = make_accelerator(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with accelerator.local_main_process_first():  # what it fetches or draws, the others find
        domains = load_domains(settings)
    folder = RunFolder(settings.folder)
    trainer = Trainer(settings, domains, folder, accelerator)
    state = _open(folder, settings, accelerator)
    if state is not None:
        trainer.resume(state)
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


def _open(folder: RunFolder, settings: Settings, accelerator: Accelerator) -> dict[str, Any] | None:
    """The checkpoint to continue from, on every process; only the main one touches the folder."""
    opened: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            opened = [folder.open(settings)]
        except (ValueError, OSError) as error:
            if accelerator.num_processes == 1:
                raise
            opened = [error]  # or the others would wait for ever
    [state] = broadcast_object_list(opened)
    if isinstance(state, Exception):
        raise state
    return state


def program() -> None:
    """The command line."""
    arguments = sys.argv[1:]
    try:
        settings = tyro.cli(
            Settings,
            prog="python -m examples.fewshot.train",
            description=f"{Settings.__doc__}\n\nPresets:\n\n{table()}",
            default=defaults(preset_of(arguments)),
            args=arguments,
        )
        sys.exit(main(settings))
    except (ValueError, OSError) as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    program()
