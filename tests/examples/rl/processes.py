"""Tiny runs by one process or by one of several; a program, for `tests.examples.launching`."""

import os
import shutil
import signal
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch

from examples.rl import train
from examples.rl.settings import Settings
from examples.training.interrupt import StopRequest
from examples.training.loop import Values
from examples.training.run_folder import RunFolder, load
from tests.examples.launching import do_jobs
from tests.examples.rl.training import make_loop, run


def whole_run(settings: Settings) -> dict[str, torch.Tensor]:
    """Weights and the optimiser's means of squares at its end."""
    loop, _ = run(settings)
    squares = loop.work.optimizer.state_dict()["state"]
    return {
        **loop.work.agent.state_dict(),
        **{f"square of {place}": state["square_avg"] for place, state in squares.items()},
    }


def stopped_run(settings: Settings) -> dict[str, Any]:
    """When the last process is asked to stop in its third update."""
    loop = make_loop(settings)
    step = loop.work.step
    is_last = loop.accelerator.process_index == loop.accelerator.num_processes - 1

    def noted(number: int, share_done: float) -> Values:
        if number == 2 and is_last:
            os.kill(os.getpid(), signal.SIGINT)
        return step(number, share_done)

    loop.work.step = noted
    with StopRequest() as stop, closing(loop.work):
        finished = loop.train(stop)
    return {"finished": finished, "update": loop.progress.step}


def resumed_run(settings: Settings) -> dict[str, torch.Tensor]:
    """The rest of the stopped run, of as many processes, in a folder of its own."""
    if torch.distributed.get_rank() == 0:
        shutil.copytree(settings.runs / "stopped", settings.folder)
    loop, _ = run(settings)
    assert loop.progress.step == 6
    return loop.work.agent.state_dict()


def program(settings: Settings) -> dict[str, torch.Tensor]:
    """The program itself, which ends the group of processes; the weights that it leaves."""
    assert train.main(settings) == 0
    if os.environ.get("RANK", "0") != "0":  # it does not wait until they are written
        return {}
    weights: dict[str, torch.Tensor] = load(RunFolder(settings.folder).checkpoint)["agent"]
    return weights


JOBS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "whole_run": whole_run,
    "stopped_run": stopped_run,
    "resumed_run": resumed_run,
    "program": program,
}

if __name__ == "__main__":
    do_jobs(JOBS, Settings.from_record)
