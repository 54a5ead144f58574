"""Frames per second of agents, and what takes the time: ``python -m examples.rl.speed --help``."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from ..training.command_line import run_with_options
from ..training.program import use_threads
from ..training.run_folder import write_json
from ..training.tables import markdown_table
from .division import Block
from .losses import actor_critic_losses
from .presets import PRESETS
from .rollouts import Collector, Rows
from .settings import Settings
from .train import make_agent, make_games
from .trainer import make_optimizer


@dataclass(frozen=True)
class Speed:
    """Time updates of agents that act and learn in turn, and say what takes the time.

    Each round is an update: an unroll is played, then follow its losses, its gradients and a step of the
    optimiser. In training the actor plays while the learner computes, which takes less on two cores.
    """

    presets: tyro.conf.Positional[tuple[str, ...]] = ("starpilot-srwm", "starpilot-feedforward")
    """Settings of agents; see python -m examples.rl.train --help."""
    rounds: int = 5
    """Updates that are timed; the figures are medians."""
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


class _Stopwatch:
    """Sums the time that a module takes, forwards and backwards, in seconds.

    Its gradients must be the last that are computed, as those of what reads the frames are.
    """

    def __init__(self, module: nn.Module) -> None:
        self.total, self._start = 0.0, 0.0
        module.register_forward_pre_hook(self.begin)
        module.register_forward_hook(self._go_on)

    def begin(self, *_: object) -> None:
        self._start = time.perf_counter()

    def end(self) -> None:
        self.total += time.perf_counter() - self._start

    def _go_on(self, module: nn.Module, given: object, output: Tensor) -> None:
        self.end()
        if output.requires_grad:
            output.register_hook(self.begin)


def measure(settings: Settings, rounds: int) -> dict[str, Any]:
    """Time per frame of each part of an update, the shares, and frames per second of all parts in turn."""
    B = settings.batch_size
    games = make_games(settings, Block(0, B), settings.seed)
    try:
        torch.manual_seed(settings.seed)
        agent = make_agent(settings, games)
        optimizer = make_optimizer(agent, settings, learning_rate=0.0)  # all of its work; the weights stay
        collector = Collector(
            [games], agent, unroll=settings.unroll, seed=settings.seed, rows=Rows(0, B, B)
        )
        encoding = _Stopwatch(agent.encoder)

        def update(number: int) -> dict[str, float]:
            start, encoding.total = time.perf_counter(), 0.0
            unroll = collector.collect(number)
            assert unroll is not None
            seen = (unroll.rewards, unroll.dones)
            output, _ = agent(unroll.frames, *seen, unroll.states, return_states=False)
            losses = actor_critic_losses(
                output.logits,
                output.values,
                *seen,
                unroll.actions,
                unroll.behaviour_logits,
                settings.loss_constants,
            )
            optimizer.zero_grad()
            losses.total.backward()
            encoding.end()
            torch.nn.utils.clip_grad_norm_(agent.parameters(), settings.clip or math.inf)
            optimizer.step()
            played, acted = unroll.environment_seconds, unroll.acting_seconds
            learnt = time.perf_counter() - start - played - acted
            return {"environment": played, "acting": acted, "learning": learnt, "encoder": encoding.total}

        # Without Kineto, which is for devices and writes to the terminal.
        with torch.autograd.profiler.profile(use_kineto=False) as profile:
            update(0)
        updates = [update(number) for number in range(1, rounds + 1)]
    finally:
        games.close()
    taken = {name: median(parts[name] for parts in updates) for name in updates[0]}
    operators = [event for event in profile.key_averages() if event.key.startswith("srwm::")]
    taken["operator"] = 1e-6 * sum(event.self_cpu_time_total for event in operators)
    whole = taken["environment"] + taken["acting"] + taken["learning"]
    shares = {part: taken[part] / whole for part in ("environment", "encoder", "operator")}
    frames = B * settings.unroll
    return {
        "core": settings.core,
        "games": list(settings.games),
        "microseconds_per_frame": {name: 1e6 * seconds / frames for name, seconds in taken.items()},
        "frames_per_second": frames / whole,
        "shares": {**shares, "rest": 1 - sum(shares.values())},
    }


def table(results: dict[str, Any]) -> str:
    """The numbers in Markdown."""
    parts = ("environment", "encoder", "operator", "rest")
    rows = []
    for name, of_agent in results["agents"].items():
        shares = [f"{100 * of_agent['shares'][part]:.1f} %" for part in parts]
        rows.append([name, f"{of_agent['frames_per_second']:.0f}", *shares])
    return markdown_table(["", "frames/s", *parts], rows)


def main(options: Speed) -> dict[str, Any]:
    """Measure, write and print.

    Raises
    ------
    ValueError, OSError, ImportError : for options, files or games that do not allow it.
    """
    options.check()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    use_threads(options.threads)
    results = {
        "threads": options.threads,
        "rounds": options.rounds,
        "agents": {
            preset: measure(replace(PRESETS[preset], environment_threads=options.threads), options.rounds)
            for preset in options.presets
        },
    }
    write_json(options.output, results)
    print(table(results))
    return results


if __name__ == "__main__":
    run_with_options(main, "examples.rl.speed", Speed)
