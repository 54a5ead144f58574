"""Settings of a program that does not exist; and those that do."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from examples.training.settings import ADDED, FREE, RunSettings
from tests.examples.programs import PROGRAMS, Program


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings):
    """Do nothing."""

    program: ClassVar[str] = "nothing"

    steps: int = 6
    """How often."""
    learning_rate: float = 0.004
    decay: float = 0.5
    share: float = dataclasses.field(default=0.5, metadata=ADDED)
    shift: float = 0.0
    warmup: int = 0
    augment: bool = False
    root: Path | None = None
    betas: tuple[float, ...] = (0.9, 0.99)
    max_minutes: float | None = dataclasses.field(default=None, metadata=FREE)
    mixed_precision: Literal["no", "bf16"] = "no"
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = dataclasses.field(default=(), metadata=FREE)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(name="tiny", runs=tmp_path)


@pytest.fixture(params=PROGRAMS.values(), ids=str)
def program(request: pytest.FixtureRequest) -> Program:
    found: Program = request.param
    return found
