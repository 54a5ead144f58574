"""Train an agent: ``python -m examples.rl.train --help``."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from ..training.command_line import run_program
from ..training.loop import State
from ..training.program import train
from .agent import Agent, build_agent
from .division import Block, divide, session_seed
from .environments import make_environment
from .environments.vector import VectorEnvironment
from .plots import draw_curves
from .presets import DESCRIPTIONS, PRESETS
from .settings import Settings
from .smoke import smoke
from .trainer import Training


def make(settings: Settings, accelerator: Accelerator, state: State | None) -> Training:
    """The work of a run, with its games.

    Raises
    ------
    ValueError : for settings that name what cannot be played, or that the processes cannot share.
    ImportError : if what plays it is not installed.
    """
    division = divide(settings, accelerator.process_index, accelerator.num_processes)
    began = 0 if state is None else state["progress"].get("step", 0)
    environments = [
        make_games(settings, block, session_seed(settings.seed, began)) for block in division.blocks
    ]
    torch.manual_seed(settings.seed)
    return Training(settings, make_agent(settings, environments[0]), environments, accelerator)


def main(settings: Settings) -> int:
    """Train and draw the curves; returns the exit status.

    Raises
    ------
    ValueError, OSError, ImportError : for settings, files or packages that do not allow it, before any
        training.
    """
    return train(settings, make, draw_curves)


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
        residual=None if settings.residual == "plain" else settings.residual,  # plain, as published
        input_softmax={"usual": None, "on": True, "off": False}[settings.input_softmax],
        beta_init=settings.beta_init,
        q_scale=settings.q_scale,
        input_gain=settings.input_gain,
    )


if __name__ == "__main__":
    run_program(main, PRESETS, DESCRIPTIONS, Settings(), smoke)
