"""Training in double precision, in which one process and several must agree to the last digits.

A program too, for `tests.examples.launching`: several processes begin a run.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from examples.fewshot import train
from examples.fewshot.data.classes import Splits
from examples.fewshot.models import FewShotLearner
from examples.fewshot.settings import Settings
from examples.training.accelerator import make_accelerator
from examples.training.objective import Objective
from tests.examples.fewshot.conftest import DOMAINS
from tests.examples.launching import do_jobs


class Double(train.Training):
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
        made = Double(settings, DOMAINS[: len(settings.data_sets)], accelerator)
    if settings.feature_views:
        made.learner.encoder.float()  # as the images are that it encodes beforehand, all in each process
    return made


def taken_encoder(settings: Settings) -> dict[str, torch.Tensor]:
    """Of a run that only the main process can read: the others are on machines without its disk."""
    accelerator = make_accelerator(settings)
    if not accelerator.is_main_process:
        settings = dataclasses.replace(settings, encoder_from=Path("elsewhere"))
    return make_training(settings, accelerator).learner.encoder.state_dict()


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


JOBS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "taken_encoder": taken_encoder,
    "missing_encoder": missing_encoder,
    "missing_data": missing_data,
}


if __name__ == "__main__":
    do_jobs(JOBS, Settings.from_record)
