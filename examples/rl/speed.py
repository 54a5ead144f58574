"""Frames per second of agents, and what takes the time: ``python -m examples.rl.speed --help``."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from benchmarks import timing

from ..training.freed_memory import keep_freed_memory
from ..training.program import use_threads
from ..training.run_folder import write_json
from .environments import make_environment
from .losses import actor_critic_losses
from .presets import PRESETS
from .settings import Settings
from .train import make_agent
from .trainer import make_optimizer


@dataclass(frozen=True)
class Speed:
    """Time the parts of an update, each by itself, on the frames of a game played at random.

    Acting is one call per step of all environments; learning is one call per unroll, its losses, its
    gradients and a step of the optimiser. Both are timed a second time with features that are there
    already: the difference is the encoder's. Of what is left, the share of the self-referential operator is
    read from the profiler.
    """

    presets: tyro.conf.Positional[tuple[str, ...]] = ("starpilot-srwm", "starpilot-feedforward")
    """Settings of agents; see python -m examples.rl.train --help."""
    rounds: int = 5
    """Of all parts in turn; the figures are medians."""
    threads: int = 1
    """Threads of PyTorch, the operator and the games."""
    output: Path = Path("runs/speed.json")
    """Where the numbers go."""

    def check(self) -> None:
        """Raise ValueError for options that do not fit."""
        unknown = [preset for preset in self.presets if preset not in PRESETS]
        if unknown or not self.presets:
            raise ValueError(f"speed: presets are {', '.join(PRESETS)}, got {', '.join(unknown) or 'none'}")
        for name in ("rounds", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"speed: --{name} must be at least 1, got {getattr(self, name)}")


def measure(options: Speed, settings: Settings) -> dict[str, Any]:
    """Time per frame of each part, the shares, and frames per second of all parts one after the other.

    In training the actor plays while the learner computes, which takes less where there are two cores.
    """
    B, L = settings.batch_size, settings.unroll + 1
    environment = make_environment(
        settings.games,
        B,
        settings.seed,
        mode=settings.mode,
        levels=(settings.start_level, settings.levels),
        threads=options.threads,
    )
    rng = np.random.default_rng(settings.seed)

    def play() -> Any:
        return environment.step(rng.integers(environment.n_actions, size=B))

    try:
        steps = [environment.reset(), *(play() for _ in range(L - 1))]
        torch.manual_seed(settings.seed)
        agent = make_agent(settings, environment)
        frames, rewards, dones = (
            torch.from_numpy(np.stack([getattr(step, name) for step in steps], axis=1))
            for name in ("frame", "reward", "done")
        )
        actions = torch.from_numpy(rng.integers(environment.n_actions, size=(B, L - 1)))
        states = agent.initial_state(B)
        optimizer = make_optimizer(agent, settings, learning_rate=0.0)  # all of its work; the weights stay

        @torch.no_grad()
        def act() -> None:
            agent(frames[:, :1], rewards[:, :1], dones[:, :1], states)

        def learn() -> None:
            agent.zero_grad()
            output, _ = agent(frames, rewards, dones, states, return_states=False)
            losses = actor_critic_losses(
                output.logits,
                output.values,
                rewards,
                dones,
                actions,
                output.logits[:, :-1].detach(),
                settings.loss_constants,
            )
            losses.total.backward()
            torch.nn.utils.clip_grad_norm_(agent.parameters(), settings.clip or math.inf)
            optimizer.step()

        with torch.no_grad():
            seen = _Seen(agent.encoder(frames.flatten(0, 1)))

        def blind(call: Callable[[], None]) -> Callable[[], None]:
            def blind_call() -> None:
                encoder = agent.encoder
                agent.register_module("encoder", seen)
                try:
                    call()
                finally:
                    agent.register_module("encoder", encoder)

            return blind_call

        blind_act, blind_learn = blind(act), blind(learn)
        found = timing.medians(
            {
                "environment": play,
                "acting": act,
                "acting_without_encoder": blind_act,
                "learning": learn,
                "learning_without_encoder": blind_learn,
            },
            options.rounds,
            label=str(settings.preset),
        )
    finally:
        environment.close()
    per_frame = {
        name: taken / (B * (settings.unroll if name.startswith("learning") else 1))
        for name, taken in found.items()
    }
    whole = per_frame["environment"] + per_frame["acting"] + per_frame["learning"]
    acting, learning = (per_frame[f"{part}_without_encoder"] for part in ("acting", "learning"))
    operator = acting * _operator_share(blind_act) + learning * _operator_share(blind_learn)
    return {
        "core": settings.core,
        "games": list(settings.games),
        "microseconds_per_frame": {name: 1e6 * value for name, value in per_frame.items()},
        "frames_per_second": 1 / whole,
        "shares": {
            "environment": per_frame["environment"] / whole,
            "encoder": 1 - (per_frame["environment"] + acting + learning) / whole,
            "operator": operator / whole,
            "rest": (acting + learning - operator) / whole,
        },
    }


class _Seen(nn.Module):
    """In the place of an encoder: the features of its first frames, known beforehand.

    Parameters
    ----------
    features : (N, F); learning computes a gradient for them, as for an encoder's.
    """

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = nn.Parameter(features)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (n, C, H, W) -> (n, F)."""
        return self.features[: len(frames)]


def _operator_share(call: Any) -> float:
    """Of the time of a call, what passes in the operators of srwm."""
    # Without Kineto, which is for devices and writes to the terminal.
    with torch.autograd.profiler.profile(use_kineto=False) as profile:
        call()
    events = profile.key_averages()
    taken = sum(event.self_cpu_time_total for event in events)
    ours = sum(event.self_cpu_time_total for event in events if event.key.startswith("srwm::"))
    return float(ours / taken)


def table(results: dict[str, Any]) -> str:
    """The numbers in Markdown."""
    parts = ("environment", "encoder", "operator", "rest")
    lines = [["", "frames/s", *parts], ["---"] * 6]
    for name, of_agent in results["agents"].items():
        shares = [f"{100 * of_agent['shares'][part]:.1f} %" for part in parts]
        lines.append([name, f"{of_agent['frames_per_second']:.0f}", *shares])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(options: Speed) -> dict[str, Any]:
    """Measure, write and print.

    Raises
    ------
    ValueError, OSError, ImportError : for options, files or games that do not allow it.
    """
    options.check()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    use_threads(options.threads)
    results = {
        "threads": options.threads,
        "rounds": options.rounds,
        "agents": {preset: measure(options, PRESETS[preset]) for preset in options.presets},
    }
    write_json(options.output, results)
    print(table(results))
    return results


if __name__ == "__main__":
    try:
        main(tyro.cli(Speed, prog="python -m examples.rl.speed"))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{error}")
