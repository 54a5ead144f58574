"""Train an agent: ``python -m examples.rl.train --help``.

An update by RMSProp for each unroll, while the next one is collected.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ..training.command_line import run_program
from ..training.divergence import DivergenceError
from ..training.loop import State, Values, Work
from ..training.program import train
from ..training.weights import check_weights, load_optimizer, load_weights
from .agent import Agent
from .cores import build_core
from .encoder import ImpalaEncoder
from .environments import make_environment
from .environments.vector import VectorEnvironment
from .losses import actor_critic_losses
from .plots import draw_curves
from .presets import DESCRIPTIONS, PRESETS, smoke
from .rollouts import Actor, Collector, Unroll, report_of
from .settings import Settings


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
    s = settings
    encoder = ImpalaEncoder(
        environment.frame_shape, channels=s.channels, scale=s.scale, n_features=s.n_features
    )
    same = "n_layers", "n_heads", "d_model", "d_ff", "lstm_size", "beta_init", "q_scale", "input_gain"
    core = build_core(
        s.core,
        s.n_features + 1,
        residual=None if s.residual == "plain" else s.residual,  # plain, as published
        input_softmax={"usual": None, "on": True, "off": False}[s.input_softmax],
        **{name: getattr(s, name) for name in same},
    )
    return Agent(encoder, core, environment.n_actions)


class Division(NamedTuple):
    """What one process plays."""

    rows: range  # those of the joined batch that it collects
    blocks: tuple[range, ...]  # its environments, among all there are: some blocks make up an unroll


def divide(settings: Settings, rank: int, processes: int) -> Division:
    """The part of process ``rank`` of as many as train together.

    With more environments than an update learns from, blocks of them take turns: of 48 for 32, two of
    three blocks of 16. Which rows an environment fills then depends on the number of processes; with as
    many as an update learns from, environment i fills row i.
    """
    for what, units in (("--batch-size", settings.batch_size), ("--environments", settings.played)):
        if units % processes:
            raise ValueError(
                f"train: {what} must be a multiple of the number of processes, {processes}, got {units}"
            )
    rows, played = settings.batch_size // processes, settings.played // processes
    size = math.gcd(rows, played)
    mine = range(rank * played, (rank + 1) * played, size)
    return Division(
        range(rank * rows, (rank + 1) * rows), tuple(range(first, first + size) for first in mine)
    )


class Training(Work):
    """An agent that learns from unrolls of its own.

    What a checkpoint lacks are environments that cannot say where they stand: after a resumption they begin
    new episodes.
    """

    project = "rl"
    unit = "frame"

    def __init__(
        self,
        settings: Settings,
        agent: Agent,  # with fresh weights, the same on every process
        environments: Sequence[VectorEnvironment],  # of this process, one for each block of its `Division`
        accelerator: Accelerator,
    ) -> None:
        s = self.settings = settings
        self.accelerator = accelerator
        self.units_per_step, self.units = s.frames_per_update, s.frames
        division = divide(s, accelerator.process_index, accelerator.num_processes)
        self.agent = agent.to(accelerator.device)
        acting = copy.deepcopy(self.agent).eval().requires_grad_(False)
        collector = Collector(environments, acting, s, division.rows, accelerator.autocast)
        self.actor = Actor(self.agent, collector, beside=s.overlap)
        self.optimizer = torch.optim.RMSprop(
            self.agent.parameters(), s.learning_rate, s.alpha, s.epsilon, momentum=s.momentum
        )
        self.shown_return: float | None = None

    def begin(self, step: int) -> None:
        if self.actor.snapshot is None and step < self.settings.updates:
            self.actor.start(step)

    def step(self, step: int, share_done: float) -> Values:
        """Learn from an unroll, while the next one is collected."""
        s = self.settings
        unroll = self.actor.finish()
        began = time.perf_counter()
        is_last = step + 1 >= s.updates
        if s.overlap and not is_last:
            self.actor.start(step + 1)
        values = self._learn(unroll.to(self.accelerator.device), step, share_done)
        if not s.overlap and not is_last:
            self.actor.start(step + 1)
        return {
            **values,
            "environment_seconds": unroll.environment_seconds,
            "acting_seconds": unroll.acting_seconds,
            "learning_seconds": time.perf_counter() - began,
            **unroll.episodes,
        }

    def _learn(self, unroll: Unroll, step: int, share_done: float) -> dict[str, float]:
        """Take a step of RMSProp; what it is measured by, sums over this process's unrolls."""
        s = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = s.learning_rate * (1 - share_done if s.schedule == "linear" else 1.0)
        self.optimizer.zero_grad()
        self.agent.train()
        # Of dropout in this update: no generator's state need be kept to resume.
        where = np.random.SeedSequence((s.seed, step, self.accelerator.process_index))
        torch.manual_seed(int(where.generate_state(1, np.uint64)[0]))
        with self.accelerator.autocast():
            seen = unroll.frames, unroll.rewards, unroll.dones, unroll.states
            output, _ = self.agent(*seen, bptt=s.bptt, return_states=False)
        losses = actor_critic_losses(output, unroll, s)
        self.accelerator.backward(losses.loss)
        self._sum_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.agent.parameters(), s.clip or math.inf)
        measured = {**losses._asdict(), "gradient_norm": norm}
        numbers = torch.stack([value.detach().double() for value in measured.values()]).tolist()
        values = dict(zip(measured, numbers, strict=True))
        if not math.isfinite(values["gradient_norm"]):  # of the joined batch: all processes stop
            raise DivergenceError(
                f"train: update {step + 1}: the gradient's norm must be finite, got "
                f"{values['gradient_norm']} (loss {values['loss']}); the run has diverged. Its last "
                "checkpoint is from before; begin anew with a smaller --learning-rate or --clip"
            )
        self.optimizer.step()
        return values

    def _sum_gradients(self) -> None:
        """Over the processes, as the losses are sums: then they are those of the joined batch.

        DistributedDataParallel would give their mean, and wait for parameters that get no gradient, as
        the published layers have some.
        """
        if self.accelerator.num_processes == 1:
            return
        gradients = [p.grad for p in self.agent.parameters() if p.grad is not None]
        joined = torch.cat([gradient.flatten() for gradient in gradients])
        joined = self.accelerator.reduce(joined, reduction="sum")
        for gradient, part in zip(gradients, joined.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def trained(self) -> Sequence[Tensor]:
        return list(self.agent.parameters())

    def at(self, step: int) -> dict[str, Any]:
        return {"update": step, "frames": self.place(step)}

    def place(self, step: int) -> int:
        """Steps of all environments that were learnt from."""
        return step * self.settings.frames_per_update

    def line(self, sums: Mapping[str, float], steps: int, seconds: float) -> dict[str, Any]:
        processes, played = self.accelerator.num_processes, self.place(steps)
        return {
            **report_of(sums),
            **{name: sums[name] / steps for name in ("loss", "policy_loss", "baseline_loss")},
            "entropy": sums["entropy"] / played,
            "gradient_norm": sums["gradient_norm"] / (processes * steps),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "frames_per_second": played / seconds,
            **{
                f"{part}_share": sums[f"{part}_seconds"] / (processes * seconds)
                for part in ("environment", "acting", "learning")
            },
        }

    def shown(self, sums: Mapping[str, float], steps: int) -> dict[str, str]:
        self.shown_return = report_of(sums).get("episode_return", self.shown_return)
        return {} if self.shown_return is None else {"return": f"{self.shown_return:.2f}"}

    def weights(self) -> State:
        return {"agent": self.agent.state_dict()}

    def state(self, step: int) -> State:
        snapshot = self.actor.snapshot
        if snapshot is not None and snapshot["number"] < step:
            snapshot = None  # the last unroll was learnt from
        if snapshot is not None:
            snapshot = {**snapshot, "environments": gather_object([snapshot["environments"]])}
        return {"optimizer": self.optimizer.state_dict(), "actor": snapshot}

    def load(self, state: State, path: Path) -> None:
        load_weights(self.agent, state.get("agent"), path)
        load_optimizer(self.optimizer, state.get("optimizer"), path)
        actor = state.get("actor")
        if actor is None:
            return  # nothing is collected yet, or the run is over
        check_weights(actor["weights"], self.agent.state_dict(), path)
        of_processes = actor["environments"]
        shared_alike = len(of_processes) == self.accelerator.num_processes
        self.actor.resume(actor, of_processes[self.accelerator.process_index] if shared_alike else None)

    def close(self) -> None:
        self.actor.close()


if __name__ == "__main__":
    run_program(main, PRESETS, DESCRIPTIONS, Settings(), smoke)
