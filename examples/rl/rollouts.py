"""Acting: the policy plays, one step per call with carried state, and what it saw becomes an unroll.

It plays in the learner's place, or beside it while it computes. Beside it is a thread of the learner's
process. What takes time, convolutions, the operator's kernels and environments in C++, leaves Python's
lock to others, so two cores are kept busy; and an unroll, some 20 MB of frames, needs neither be copied nor
sent, as between processes.

The run stays a function of its seed: an unroll is played to its end with the weights that the learner
had when it was started, copied then, whenever the actor gets to it.

Letters in the shapes: B environments, T steps of an unroll that are acted on, C x H x W pixels, A actions.
"""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..training.clock import Clock
from .acting import act, gumbel_noise
from .agent import Agent
from .environments.vector import Step, VectorEnvironment
from .settings import Settings


@dataclass(frozen=True)
class Unroll:
    """What B environments went through in T steps, and the step before those."""

    frames: Tensor  # (B, T + 1, C, H, W) uint8; index 0 is the last step of the unroll before
    rewards: Tensor  # (B, T + 1) float32, unclipped; that of index t + 1 answers action t
    dones: Tensor  # (B, T + 1) bool; whether the frame is the first of an episode
    actions: Tensor  # (B, T) int64, taken at steps 0 to T - 1
    behaviour_logits: Tensor  # (B, T, A), of the policy that took them
    states: list[Tensor]  # the agent's, before step 0; one tensor a layer, batch first
    episodes: Mapping[str, float]  # that ended at steps 1 to T, see `add_ended`
    environment_seconds: float
    acting_seconds: float

    def to(self, device: torch.device) -> Unroll:
        """The same with all tensors on a device."""
        tensors = ("frames", "rewards", "dones", "actions", "behaviour_logits")
        moved: dict[str, Any] = {n: getattr(self, n).to(device, non_blocking=True) for n in tensors}
        return replace(self, **moved, states=[state.to(device) for state in self.states])


@dataclass
class _Block:
    """Environments that are always stepped together, and where they stand."""

    environment: VectorEnvironment
    step: Step
    states: list[Tensor]


class Collector:
    """Plays blocks of environments, some of them in each unroll, in turn.

    Actions are a function of the seed, the number of the unroll and the row of the joined batch, not of
    how many processes share the rows nor of what was drawn before.
    """

    def __init__(
        self,
        environments: Sequence[VectorEnvironment],  # blocks of equally many, of one kind
        agent: Agent,  # where it is, its states stay
        settings: Settings,
        rows: range,  # of the joined batch, those that are collected: as many as some of the blocks have
        autocast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        self.agent, self.settings, self.rows, self.autocast = agent, settings, rows, autocast
        self._blocks = [
            _Block(environment, environment.reset(), agent.initial_state(environment.count))
            for environment in environments
        ]

    def collect(self, number: int, go_on: Callable[[], bool] = lambda: True) -> Unroll | None:
        """Play T steps of unroll ``number``, from 0: the update that will learn from it.

        None if ``go_on``, asked before every step, said no; then nothing can follow.
        """
        clock, environment_seconds, acting_seconds = Clock(), 0.0, 0.0
        s, environment = self.settings, self._blocks[0].environment
        B, T, size = len(self.rows), s.unroll, environment.count
        taken = [
            (self._blocks[place % len(self._blocks)], slice(first, first + size))
            for place, first in enumerate(range(0, B, size), number * (B // size))
        ]
        noise = gumbel_noise((T, s.batch_size, environment.n_actions), s.seed, number)
        noise = noise[:, self.rows.start : self.rows.stop]
        states = [torch.cat(parts) for parts in zip(*(block.states for block, _ in taken), strict=True)]
        started_from = states
        frames = torch.empty(B, T + 1, *environment.frame_shape, dtype=torch.uint8)
        rewards, dones = torch.empty(B, T + 1), torch.empty(B, T + 1, dtype=torch.bool)
        actions = torch.empty(B, T, dtype=torch.int64)
        logits: list[Tensor] = []
        episodes: defaultdict[str, float] = defaultdict(float)
        for t in range(T + 1):
            for block, rows in taken:
                frames.numpy()[rows, t] = block.step.frame
                rewards.numpy()[rows, t] = block.step.reward
                dones.numpy()[rows, t] = block.step.done
                if t > 0:
                    add_ended(episodes, block.step, block.environment.names)
            environment_seconds += clock.lap()
            if t == T:
                break
            if not go_on():
                return None
            with self.autocast():
                acted = act(self.agent, frames[:, t], rewards[:, t], dones[:, t], states, noise[t])
            states = acted.states
            logits.append(acted.logits)
            actions[:, t] = acted.actions
            acting_seconds += clock.lap()
            for block, rows in taken:
                block.step = block.environment.step(acted.actions.numpy()[rows])
        for block, rows in taken:
            block.states = [state[rows] for state in states]
        seen = frames, rewards, dones, actions, torch.stack(logits, dim=1)
        return Unroll(*seen, started_from, episodes, environment_seconds, acting_seconds)

    def state(self) -> list[dict[str, Any]] | None:
        """Where the games stand, tensors and plain values; None if there are some that cannot say."""
        saved = []
        for block in self._blocks:
            environment = block.environment.state()
            if environment is None:
                return None
            saved.append({"environment": environment, "states": [state.cpu() for state in block.states]})
        return saved

    def load_state(self, saved: list[dict[str, Any]]) -> None:
        """Stand where another collector of the same environments stood."""
        device = next(self.agent.parameters()).device
        for block, state in zip(self._blocks, saved, strict=True):
            block.step = block.environment.load_state(state["environment"])
            block.states = [tensor.to(device) for tensor in state["states"]]

    def close(self) -> None:
        """Close all environments."""
        for block in self._blocks:
            block.environment.close()


def add_ended(sums: defaultdict[str, float], step: Step, games: tuple[str, ...]) -> None:
    """Add the episodes that ended with a step: of each game their number, the sum of their returns,
    unclipped, and that of their lengths."""
    for row in np.flatnonzero(step.done):
        game = games[row]
        sums[f"episodes/{game}"] += 1
        sums[f"returns/{game}"] += float(step.episode_return[row])
        sums[f"lengths/{game}"] += int(step.episode_length[row])


def report_of(sums: Mapping[str, float]) -> dict[str, Any]:
    """Of such sums: number, mean return and mean length, where episodes ended; of several games each return
    too, and the mean is one over games."""
    games = sorted(name.removeprefix("episodes/") for name in sums if name.startswith("episodes/"))
    if not games:
        return {"episodes": 0}
    count = sum(sums[f"episodes/{game}"] for game in games)
    returns = {game: sums[f"returns/{game}"] / sums[f"episodes/{game}"] for game in games}
    return {
        "episodes": int(count),
        "episode_return": sum(returns.values()) / len(returns),
        "episode_length": sum(sums[f"lengths/{game}"] for game in games) / count,
        **({f"episode_return/{game}": value for game, value in returns.items()} if len(games) > 1 else {}),
    }


class Actor:
    """Collects an unroll when it is asked for, or beside the learner from `start` on.

    No thread can be ended from outside: `close` and the program's end wait for a game that hangs in a step,
    until they are interrupted too.
    """

    def __init__(self, learner: Agent, collector: Collector, *, beside: bool) -> None:
        self.learner = learner  # whose weights are acted with, as they are at every `start`
        self.collector = collector  # with an agent of its own, the same in its parts
        # All that the unroll begun last depends on: its number, the weights, the environments.
        self.snapshot: dict[str, Any] | None = None
        self._closing = threading.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="actor") if beside else None

    def start(self, number: int) -> None:
        """Begin unroll ``number`` with the learner's weights as they are now."""
        self._begin(number, self.learner.state_dict())

    def resume(self, snapshot: dict[str, Any], environments: list[dict[str, Any]] | None) -> None:
        """Begin the unroll of a `snapshot` again, with its weights; without games, where these stand."""
        if environments is not None:
            self.collector.load_state(environments)
        self._begin(snapshot["number"], snapshot["weights"])

    def _begin(self, number: int, weights: dict[str, Any]) -> None:
        acting = self.collector.agent
        acting.load_state_dict(weights)
        # The weights are not copied: until `start` they stay.
        self.snapshot = {
            "number": number,
            "weights": acting.state_dict(),
            "environments": self.collector.state(),
        }
        collect = partial(self.collector.collect, number, lambda: not self._closing.is_set())
        self._wait: Callable[[], Unroll | None] = (
            self._executor.submit(collect).result if self._executor else collect
        )

    def finish(self) -> Unroll:
        """The unroll that was started; raises what collecting it raised."""
        unroll = self._wait()
        assert unroll is not None, "only a closed actor gives up"
        return unroll

    def close(self) -> None:
        """Give up what was started, within a step, and close the environments."""
        self._closing.set()
        if self._executor:
            self._executor.shutdown()
        self.collector.close()
