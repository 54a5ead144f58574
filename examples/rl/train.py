"""Train an agent: ``python -m examples.rl.train --help``."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator

from ..training.command_line import run_program
from ..training.loop import State
from ..training.program import train
from .agent import Agent, build_agent
from .division import divide
from .environments import make_environment
from .environments.vector import VectorEnvironment
from .plots import draw_curves
from .presets import DESCRIPTIONS, PRESETS
from .settings import Settings
from .smoke import smoke
from .trainer import Training


def make(settings: Settings, accelerator: Accelerator, state: State | None) -> Training:
    """The work of a run, with its games.

    ValueError for settings that name what cannot be played, or that the processes cannot share; ImportError
    if what plays it is not installed.
    """
    division = divide(settings, accelerator.process_index, accelerator.num_processes)
    seed = session_seed(settings.seed, 0 if state is None else state["progress"].get("step", 0))
    environments = [make_games(settings, block, seed) for block in division.blocks]
    torch.manual_seed(settings.seed)
    return Training(settings, make_agent(settings, environments[0]), environments, accelerator)


def main(settings: Settings) -> int:
    """Train and draw the curves; returns the exit status. Raises as `make` and `train`, before training."""
    return train(settings, make, draw_curves)


def session_seed(seed: int, update: int) -> int:
    """Of all environments of a run in a session that begins with an update, below 2^31."""
    return int(np.random.SeedSequence((seed, update)).generate_state(1)[0] >> 1)


def make_games(settings: Settings, block: range, seed: int) -> VectorEnvironment:
    """A block of environments to train in, of those numbers; raises as `make`."""
    try:
        return make_environment(
            settings.games,
            len(block),
            seed,
            first=block.start,
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
    same = (
        *("core", "channels", "scale", "n_features", "n_layers", "n_heads", "d_model", "d_ff"),
        *("lstm_size", "beta_init", "q_scale", "input_gain"),
    )
    return build_agent(
        frame_shape=environment.frame_shape,
        n_actions=environment.n_actions,
        residual=None if settings.residual == "plain" else settings.residual,  # plain, as published
        input_softmax={"usual": None, "on": True, "off": False}[settings.input_softmax],
        **{name: getattr(settings, name) for name in same},
    )


if __name__ == "__main__":
    run_program(main, PRESETS, DESCRIPTIONS, Settings(), smoke)
