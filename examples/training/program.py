"""The training program itself: open the run's folder, train, draw, and say how to go on."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

import srwm

from .accelerator import make_accelerator
from .broadcasting import from_main
from .command_line import command_for, recorded_start
from .interrupt import INTERRUPTED, StopRequest
from .loop import Loop, State, Work
from .run_folder import RunFolder
from .settings import TrainingSettings

S = TypeVar("S", bound=TrainingSettings)
W = TypeVar("W", bound=Work)
Reports = list[dict[str, Any]]  # the lines of metrics.json


def train(
    settings: S,
    make: Callable[[S, Accelerator, State | None], W],
    draw: Callable[[Reports, S, Path], None],
    finish: Callable[[S, W], None] = lambda settings, work: None,
) -> int:
    """Train, draw the curves; returns the exit status.

    Parameters
    ----------
    settings : of the run.
    make : the work, with fresh weights; the last argument is the checkpoint to continue from, if there is
        one. Nothing of an earlier run has been deleted yet.
    draw : the reports as a picture.
    finish : what follows a training that has come to its end, on the main process.
    """
    settings.check()
    accelerator = make_accelerator(settings)
    folder = RunFolder(settings.folder)
    state = from_main(accelerator, lambda: folder.open(settings)) if settings.resume else None
    use_threads(settings.threads, state)
    torch.manual_seed(settings.seed)
    with ExitStack() as held:
        work = make(settings, accelerator, state)
        held.callback(work.close)
        loop = Loop(settings, work, folder, accelerator)
        if state is not None:
            loop.resume(state)
        else:
            from_main(accelerator, lambda: folder.open(settings))
        try:
            with StopRequest() as stop, held.pop_all():
                finished = loop.train(stop)
        except KeyboardInterrupt:  # in the middle of a step, which is lost
            finished = False
    is_main = accelerator.is_main_process
    accelerator.end_training()
    if not is_main:
        return 0 if finished else INTERRUPTED
    if reports := folder.reports():
        draw(reports, settings, folder.curves)
    if not finished:
        print(f"stopped; {folder.checkpoint} is usable. Continue with:\n  {resuming(settings, folder)}")
        return INTERRUPTED
    finish(settings, work)
    print(f"curves, checkpoint and metrics are in {folder.path}/")
    return 0


def resuming(settings: TrainingSettings, folder: RunFolder) -> str:
    """The shell command that continues a run: the settings that the run's folder does not know."""
    resumed = replace(settings, resume=True, overwrite=False, preset=None)
    return command_for(resumed, recorded_start(type(settings)(), folder))


def use_threads(wanted: int, state: State | None = None) -> None:
    """Let PyTorch and srwm compute with as many threads as wanted; with 0, as many as the run had so far.

    The order in which sums are added up depends on their number. From here on it decides alone: a variable
    such as SRWM_NUM_THREADS has no part in a run that is continued elsewhere.

    Parameters
    ----------
    state : the checkpoint to continue from; None for a new run, which takes PyTorch's own choice.
    """
    recorded = 0 if state is None else state.get("threads", 0)  # format 1 does not know
    threads = wanted or recorded or torch.get_num_threads()
    torch.set_num_threads(threads)
    srwm.set_num_threads(threads)
