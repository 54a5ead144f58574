"""A training step, or a whole tiny run, by one process or by one of several; a program, for
`tests.examples.launching`.

In double precision, in which one process and several must agree to the last digits.
"""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from examples.fewshot import train
from examples.fewshot.data.classes import Splits
from examples.fewshot.models import FewShotLearner
from examples.fewshot.objectives import EpisodeTraining
from examples.fewshot.settings import Settings
from examples.fewshot.trainer import Training
from examples.training import loop as loop_module
from examples.training.accelerator import make_accelerator
from examples.training.objective import Objective
from tests.examples.fewshot.conftest import patterns
from tests.examples.launching import do_jobs
from tests.examples.runs import run

SPLITS = Splits(train=patterns(12, 6, 0), validation=patterns(8, 6, 1), test=patterns(8, 6, 2))
SECOND = Splits(train=patterns(12, 6, 3), validation=patterns(8, 6, 4), test=patterns(8, 6, 5))


class Double(Training):
    def make_objective(self, phase: str) -> Objective[FewShotLearner]:
        with double_precision():
            return super().make_objective(phase)

    def _move(self, value: torch.Tensor) -> torch.Tensor:
        return super()._move(value.double() if value.is_floating_point() else value)

    def validate(self) -> dict[str, float]:
        return {"accuracy": 0.0}  # its images would be in single precision


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Of all weights that are made within."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def make_training(settings: Settings, accelerator: Accelerator) -> Double:
    with double_precision():
        domains = [SPLITS] if settings.second_data is None else [SPLITS, SECOND]
        made = Double(settings, domains, accelerator)
    if settings.feature_views:
        made.learner.encoder.float()  # as the images are that it encodes beforehand, all in each process
    return made


def gradients(settings: Settings) -> dict[str, torch.Tensor]:
    """Of a step from fresh weights, of everything trained; and the running statistics after it."""
    training = make_training(settings, make_accelerator(settings))
    training.enter(training.phases[0])
    training.begin(2)
    training.step(2, 0.5)
    found = {name: p.grad for name, p in training.objective.named_parameters() if p.grad is not None}
    return {**found, **dict(training.objective.named_buffers())}


def final_weights(settings: Settings) -> dict[str, torch.Tensor]:
    loop, _ = run(settings, partial(make_training, settings))
    return loop.work.learner.state_dict()


def stopped_program(settings: Settings) -> dict[str, int]:
    """The exit status of the whole program when the last process is asked to stop in its third step."""
    forward = EpisodeTraining.forward
    steps = []

    def noted(self: EpisodeTraining, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        steps.append(batch)
        if len(steps) == 3 and torch.distributed.get_rank() == torch.distributed.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(self, batch)

    train.load_domains = lambda settings: [SPLITS]
    train.draw_curves = lambda *args: None
    EpisodeTraining.forward = noted
    return {"status": train.main(settings), "steps": len(steps)}


def taken_encoder(settings: Settings) -> dict[str, torch.Tensor]:
    """Of a run that only the main process can read: the others are on machines without its disk."""
    if torch.distributed.get_rank():
        settings = dataclasses.replace(settings, encoder_from=Path("elsewhere"))
    return make_training(settings, make_accelerator(settings)).learner.encoder.state_dict()


def missing_encoder(settings: Settings) -> dict[str, str]:
    try:
        make_training(settings, make_accelerator(settings))
    except FileNotFoundError as error:
        return {"error": str(error)}
    return {}


def missing_data(settings: Settings) -> dict[str, Any]:
    """Which data each process tried to read, and its error, where the machine's first process fails."""
    tried = []

    def load_domains(settings: Settings) -> list[Splits]:
        tried.append(torch.distributed.get_rank())
        raise FileNotFoundError(f"process {torch.distributed.get_rank()} found no data")

    train.load_domains = load_domains
    try:
        train.main(settings)
    except FileNotFoundError as error:
        return {"error": str(error), "tried": tried}
    return {}


def refused_program(settings: Settings) -> dict[str, str]:
    """What the program says of a run that another one works on, or whose folder cannot be written."""
    train.load_domains = lambda settings: [SPLITS]
    try:
        train.main(settings)
    except OSError as error:
        return {"error": str(error)}
    return {}


def full_disk(settings: Settings) -> dict[str, str]:
    """What each process says where the main one has no room for the second checkpoint."""

    def save(state: dict[str, Any], path: Path) -> None:
        raise OSError(f"process {torch.distributed.get_rank()} has no room")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "save", save)
        return refused_program(settings)


JOBS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "gradients": gradients,
    "final_weights": final_weights,
    "taken_encoder": taken_encoder,
    "missing_encoder": missing_encoder,
    "missing_data": missing_data,
    "stopped_program": stopped_program,
    "refused_program": refused_program,
    "full_disk": full_disk,
}


if __name__ == "__main__":
    do_jobs(JOBS, Settings.from_record)
