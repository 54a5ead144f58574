"""Tiny runs on the fake game."""

from collections.abc import Callable

from accelerate import Accelerator

from examples.rl.division import divide
from examples.rl.settings import Settings
from examples.rl.trainer import Trainer
from examples.training.accelerator import make_accelerator
from examples.training.interrupt import StopRequest
from examples.training.run_folder import RunFolder
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
