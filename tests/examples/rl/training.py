"""Tiny runs on the fake game."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator

from examples.rl import train
from examples.rl.agent import Agent
from examples.rl.settings import Settings
from examples.rl.train import Training, divide
from examples.training.checkpoint import describe
from examples.training.loop import Loop
from examples.training.run_folder import RunFolder
from tests.examples import runs
from tests.examples.rl.fakes import FakeEnvironment, fake_agent


def make_training(
    settings: Settings,
    accelerator: Accelerator,
    *,
    kind: type[FakeEnvironment] = FakeEnvironment,
    agent: Callable[[int], Agent] = fake_agent,
) -> Training:
    blocks = divide(settings, accelerator.process_index, accelerator.num_processes).blocks
    environments = [kind(len(block), block.start, settings.seed, settings.games) for block in blocks]
    return Training(settings, agent(settings.seed), environments, accelerator)


def make_loop(settings: Settings, **options: Any) -> Loop:
    """As `runs.make_loop`."""
    return runs.make_loop(settings, partial(make_training, settings, **options))


def run(settings: Settings, **options: Any) -> tuple[Loop, list[dict[str, Any]]]:
    """As `runs.run`."""
    return runs.run(settings, partial(make_training, settings, **options))


def begun(settings, name: str, **changes) -> RunFolder:
    """A run with fresh weights, whatever its games."""
    sizes = {"core": "lstm", "lstm_size": 8, "channels": (4,), "n_features": 8}
    settings = dataclasses.replace(settings, name=name, **sizes, **changes)
    folder = RunFolder(settings.folder)
    torch.manual_seed(settings.seed)
    agent = train.make_agent(settings, FakeEnvironment(1)).state_dict()
    folder.begin(settings, {**describe(settings), "progress": {"step": 0}, "agent": agent})
    return folder
