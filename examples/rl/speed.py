"""Frames per second of agents, and what takes the time: ``python -m examples.rl.speed --help``."""

import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from accelerate import Accelerator
from torch import Tensor, nn

from ..training.command_line import run_with_options
from ..training.files import write_json
from ..training.program import use_threads
from ..training.settings import check_least
from ..training.tables import markdown_table
from .presets import PRESETS
from .settings import Settings
from .train import make


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
        check_least("speed", self, rounds=1, threads=1)


class _Stopwatch:
    """Sums the time that modules take, forwards and backwards, in seconds.

    Their gradients must be the last that are computed, as those of what reads the frames are.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self.total, self._last = 0.0, 0.0
        for module in modules:
            module.register_forward_pre_hook(self._begin)
            module.register_forward_hook(self._go_on)
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(self._lap)

    def _begin(self, *_: object) -> None:
        self._last = time.perf_counter()

    def _lap(self, *_: object) -> None:
        now = time.perf_counter()
        self.total, self._last = self.total + now - self._last, now

    def _go_on(self, module: nn.Module, given: object, output: Tensor) -> None:
        self._lap()
        if output.requires_grad:
            output.register_hook(self._begin)


def measure(settings: Settings, rounds: int) -> dict[str, Any]:
    """Time per frame of each part of an update, the shares, and frames per second of all parts in turn."""
    settings = replace(settings, overlap=False, learning_rate=0.0)  # all of its work; the weights stay
    with closing(make(settings, Accelerator(cpu=True), None)) as training:
        encoding = _Stopwatch(training.agent.encoder, training.actor.collector.agent.encoder)
        training.begin(0)

        def update(number: int) -> dict[str, float]:
            start, encoding.total = time.perf_counter(), 0.0
            values = training.step(number, share_done=0.0)
            taken = {part: float(values[f"{part}_seconds"]) for part in ("environment", "acting")}
            learning = time.perf_counter() - start - sum(taken.values())
            return {**taken, "learning": learning, "encoder": encoding.total}

        # Without Kineto, which is for devices and writes to the terminal.
        with torch.autograd.profiler.profile(use_kineto=False) as profile:
            update(0)
        updates = [update(number) for number in range(1, rounds + 1)]
    taken = {name: median(parts[name] for parts in updates) for name in updates[0]}
    operators = [event for event in profile.key_averages() if event.key.startswith("srwm::")]
    taken["operator"] = 1e-6 * sum(event.self_cpu_time_total for event in operators)
    whole = taken["environment"] + taken["acting"] + taken["learning"]
    shares = {part: taken[part] / whole for part in ("environment", "encoder", "operator")}
    frames = settings.frames_per_update
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
    """Measure, write and print."""
    options.check()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    use_threads(options.threads)
    agents = {
        preset: measure(replace(PRESETS[preset], environment_threads=options.threads), options.rounds)
        for preset in options.presets
    }
    results = {"threads": options.threads, "rounds": options.rounds, "agents": agents}
    write_json(options.output, results)
    print(table(results))
    return results


if __name__ == "__main__":
    run_with_options(main, "examples.rl.speed", Speed)
