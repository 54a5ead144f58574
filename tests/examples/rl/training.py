"""Tiny runs on the fake game."""

import dataclasses
from collections.abc import Callable

import torch
from accelerate import Accelerator

from examples.rl import train
from examples.rl.division import divide
from examples.rl.settings import Settings
from examples.rl.trainer import Trainer
from examples.training.accelerator import make_accelerator
from examples.training.interrupt import StopRequest
from examples.training.run_folder import RunFolder, describe
from tests.examples.rl.fakes import FakeAgent, FakeEnvironment, fake_agent


def make_trainer(
    settings: Settings,
    *,
    kind: type[FakeEnvironment] = FakeEnvironment,
    agent: Callable[[int], FakeAgent] = fake_agent,
    accelerator: Accelerator | None = None,
) -> Trainer:
    accelerator = accelerator or make_accelerator(settings)
    division = divide(settings, accelerator.process_index, accelerator.num_processes)
    environments = [
        kind(block.count, block.first, settings.seed, settings.games) for block in division.blocks
    ]
    return Trainer(settings, agent(settings.seed), environments, RunFolder(settings.folder), accelerator)


def run(settings: Settings, **options: object) -> tuple[Trainer, list[dict]]:
    """A whole run, or the rest of one."""
    folder = RunFolder(settings.folder)
    state = folder.open(settings)
    trainer = make_trainer(settings, **options)
    if state is not None:
        trainer.resume(state)
    assert trainer.train(StopRequest())
    return trainer, folder.reports()


def begun(settings, name: str, **changes) -> RunFolder:
    """A run with fresh weights, whatever its games."""
    settings = dataclasses.replace(
        settings, name=name, core="lstm", lstm_size=8, channels=(4,), n_features=8, **changes
    )
    folder = RunFolder(settings.folder)
    torch.manual_seed(settings.seed)
    agent = train.make_agent(settings, FakeEnvironment(1)).state_dict()
    folder.begin(settings, {**describe(settings), "progress": {"update": 0}, "agent": agent})
    return folder
