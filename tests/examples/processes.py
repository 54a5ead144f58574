"""Tiny runs of a program by one process or by several: itself a program, for `tests.examples.launching`."""

import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.training import loop as loop_module
from examples.training.interrupt import StopRequest
from examples.training.loop import Loop
from examples.training.settings import TrainingSettings
from tests.examples.launching import do_jobs
from tests.examples.programs import PROGRAMS, Program
from tests.examples.runs import act_in_step, make_loop, press_ctrl_c, run, tensors_in

Job = Callable[[Program, Any], dict[str, Any]]


def whole(program: Program, settings: TrainingSettings) -> dict[str, torch.Tensor]:
    """All numbers of weights and optimiser at the end of a run."""
    loop, _ = run(settings, partial(program.exact, settings))
    return numbers(loop)


def numbers(loop: Loop) -> dict[str, torch.Tensor]:
    state = loop.work.state(loop.progress.step)["optimizer"]["state"]
    return tensors_in({**loop.work.weights(), "optimizer": state})


def press_ctrl_c_on_the_last() -> None:
    if torch.distributed.get_rank() == torch.distributed.get_world_size() - 1:
        press_ctrl_c()


def stopped(program: Program, settings: TrainingSettings) -> dict[str, Any]:
    """Where a run stands when its last process is asked to stop in the third step."""
    loop = make_loop(settings, partial(program.exact, settings))
    with pytest.MonkeyPatch.context() as patch, StopRequest() as stop, closing(loop.work):
        act_in_step(patch, type(loop.work), 2, press_ctrl_c_on_the_last)
        finished = loop.train(stop)
    return {"finished": finished, "steps": loop.progress.steps_before + loop.progress.step}


def resumed(program: Program, settings: TrainingSettings) -> dict[str, torch.Tensor]:
    """The rest of the stopped run, of as many processes, in a folder of its own."""
    if torch.distributed.get_rank() == 0:
        shutil.copytree(settings.runs / "stopped", settings.folder)
    return whole(program, settings)


def refused(program: Program, settings: TrainingSettings) -> dict[str, str]:
    """What the program says of a run that another one works on, or whose folder cannot be written."""
    try:
        program.module.main(settings)
    except OSError as error:
        return {"error": str(error)}
    return {}


def full_disk(program: Program, settings: TrainingSettings) -> dict[str, str]:
    """What each process says where the main one has no room for the second checkpoint."""

    def save(state: dict[str, Any], path: Path) -> None:
        raise OSError(f"process {torch.distributed.get_rank()} has no room")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "save", save)
        return refused(program, settings)


def interrupted(program: Program, settings: TrainingSettings) -> dict[str, int]:
    """The status of the program itself, whose last process is asked to stop in the third step.

    It takes leave of the other processes: no job follows.
    """
    with pytest.MonkeyPatch.context() as patch:
        act_in_step(patch, program.module.Training, 2, press_ctrl_c_on_the_last)
        return {"status": program.module.main(settings)}


JOBS: dict[str, Job] = {
    job.__name__: job for job in (whole, stopped, resumed, refused, full_disk, interrupted)
}


if __name__ == "__main__":
    program = PROGRAMS[sys.argv[2]]
    program.stand_in(setattr)
    program.without_pictures(setattr)
    jobs = {name: partial(job, program) for name, job in JOBS.items()}
    do_jobs(jobs, type(program.settings).from_record)
