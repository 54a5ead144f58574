"""Train an agent: ``python -m examples.rl.train --help``."""

from __future__ import annotations

import dataclasses

import torch

from ..training.accelerator import make_accelerator
from ..training.command_line import run_program
from ..training.interrupt import INTERRUPTED, StopRequest
from ..training.opening import open_run, use_threads
from ..training.run_folder import RunFolder
from .agent import Agent, build_agent
from .curves import draw_curves
from .division import Block, divide, session_seed
from .environments import make_environment
from .environments.vector import VectorEnvironment
from .presets import DESCRIPTIONS, PRESETS, PROGRAM, command
from .settings import Settings
from .trainer import Trainer


def main(settings: Settings) -> int:
    """Train and draw the curves; returns the exit status.

    Raises
    ------
    ValueError, OSError, ImportError : for settings, files or packages that do not allow it, before any
        training.
    """
    settings.check()
    accelerator = make_accelerator(settings)
    division = divide(settings, accelerator.process_index, accelerator.num_processes)
    folder = RunFolder(settings.folder)
    state = open_run(folder, settings, accelerator) if settings.resume else None
    use_threads(settings.threads, state)
    began = 0 if state is None else state["progress"].get("update", 0)
    environments = [
        make_games(settings, block, session_seed(settings.seed, began)) for block in division.blocks
    ]
    torch.manual_seed(settings.seed)
    trainer = Trainer(settings, make_agent(settings, environments[0]), environments, folder, accelerator)
    if state is not None:
        trainer.resume(state)
    else:
        open_run(folder, settings, accelerator)
    try:
        with StopRequest() as stop:
            finished = trainer.train(stop)
    except KeyboardInterrupt:  # in the middle of an update, which is lost
        finished = False
    is_main = accelerator.is_main_process
    accelerator.end_training()
    if not is_main:
        return 0 if finished else INTERRUPTED
    if folder.reports():
        draw_curves(folder.reports(), settings, folder.curves)
    if not finished:
        again = command(dataclasses.replace(settings, resume=True, overwrite=False))
        print(f"stopped; {folder.checkpoint} is usable. Continue with:\n  {again}")
        return INTERRUPTED
    print(f"curves, checkpoint and metrics are in {folder.path}/")
    return 0


def make_games(settings: Settings, block: Block, seed: int) -> VectorEnvironment:
    """A block of environments to train in.

    Raises
    ------
    ValueError : if the settings name what cannot be played.
    ImportError : if what plays them is not installed.
    """
    try:
        return make_environment(
            settings.games,
            block.count,
            seed,
            first=block.first,
            mode=settings.mode,
            levels=(settings.start_level, settings.levels),
            threads=settings.environment_threads,
        )
    except ValueError as error:
        raise ValueError(
            f"train: --games, --mode, --start-level and --levels do not go together: {error}"
        ) from error


def make_agent(settings: Settings, environment: VectorEnvironment) -> Agent:
    """The agent that the settings describe, for an environment like this, with fresh weights."""
    return build_agent(
        core=settings.core,
        frame_shape=environment.frame_shape,
        n_actions=environment.n_actions,
        channels=settings.channels,
        scale=settings.scale,
        n_features=settings.n_features,
        n_layers=settings.n_layers,
        n_heads=settings.n_heads,
        d_model=settings.d_model,
        d_ff=settings.d_ff,
        lstm_size=settings.lstm_size,
        residual=settings.residual,
        input_softmax={"usual": None, "on": True, "off": False}[settings.input_softmax],
        beta_init=settings.beta_init,
        q_scale=settings.q_scale,
        input_gain=settings.input_gain,
    )


if __name__ == "__main__":
    run_program(main, PROGRAM, PRESETS, DESCRIPTIONS, Settings())
