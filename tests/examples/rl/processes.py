"""Tiny runs by one process or by one of several; a program, for `tests.examples.launching`."""

import os
import shutil
import signal
from collections.abc import Callable
from typing import Any

import torch

from examples.rl import train
from examples.rl.settings import Settings, load_settings
from examples.rl.trainer import Trainer
from examples.training.interrupt import StopRequest
from examples.training.opening import open_run
from examples.training.run_folder import RunFolder, load
from tests.examples.launching import do_jobs
from tests.examples.rl.training import make_trainer


def whole_run(settings: Settings) -> dict[str, torch.Tensor]:
    """Weights and the optimiser's means of squares at its end."""
    trainer = make_trainer(settings)
    open_run(RunFolder(settings.folder), settings, trainer.accelerator)
    assert trainer.train(StopRequest())
    squares = trainer.optimizer.state_dict()["state"]
    return {
        **trainer.agent.state_dict(),
        **{f"square of {place}": state["square_avg"] for place, state in squares.items()},
    }


def stopped_run(settings: Settings) -> dict[str, Any]:
    """When the last process is asked to stop in its third update."""
    learn = Trainer._learn
    trainer = make_trainer(settings)
    open_run(RunFolder(settings.folder), settings, trainer.accelerator)
    is_last = trainer.accelerator.process_index == trainer.accelerator.num_processes - 1

    def noted(unroll: Any) -> dict[str, float]:
        if trainer.progress.update == 2 and is_last:
            os.kill(os.getpid(), signal.SIGINT)
        return learn(trainer, unroll)

    trainer._learn = noted
    with StopRequest() as stop:
        finished = trainer.train(stop)
    return {"finished": finished, "update": trainer.progress.update}


def resumed_run(settings: Settings) -> dict[str, torch.Tensor]:
    """The rest of the stopped run, of as many processes, in a folder of its own."""
    trainer = make_trainer(settings)
    if trainer.accelerator.is_main_process:
        shutil.copytree(settings.runs / "stopped", settings.folder)
    state = open_run(RunFolder(settings.folder), settings, trainer.accelerator)
    assert state is not None
    trainer.resume(state)
    assert trainer.train(StopRequest())
    return trainer.agent.state_dict()


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
    do_jobs(JOBS, load_settings)
