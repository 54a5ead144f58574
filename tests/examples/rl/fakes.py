"""A game that is played in microseconds, and a tiny agent."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from examples.rl.agent import Agent
from examples.rl.cores import build_core
from examples.rl.encoder import ImpalaEncoder
from examples.rl.environments.cue import CueEnvironment
from examples.rl.environments.vector import Step


class FakeEnvironment(CueEnvironment):
    """The cue task under any names, in which the cue's number is rewarded at every step, and all others are
    punished."""

    def __init__(
        self, count: int, first: int = 0, seed: int = 0, games: tuple[str, ...] = ("fake",)
    ) -> None:
        super().__init__(count, seed, first=first)
        self.names = tuple(games[(first + row) % len(games)] for row in range(count))
        self.closed, self.steps = False, 0

    def reset(self) -> Step:
        self._return = np.zeros(self.count)
        return super().reset()

    def step(self, actions: np.ndarray) -> Step:
        self.steps += 1
        cues = self._shown[:, 0].copy()
        step = super().step(actions)
        reward = np.where(actions == cues, 2.0, -0.5).astype(np.float32)
        self._return = self._return + reward
        returns = np.where(step.done, self._return, np.nan)
        self._return = np.where(step.done, 0, self._return)
        self._last = replace(step, reward=reward, episode_return=returns)
        return self._last

    def state(self) -> dict[str, Any] | None:
        returns = {"return": self._return.tolist(), "returns": self._last.episode_return.tolist()}
        return {**super().state(), **returns}

    def load_state(self, state: dict[str, Any]) -> Step:
        self._return = np.array(state["return"])
        self._last = replace(super().load_state(state), episode_return=np.array(state["returns"]))
        return self._last

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class ForgetfulEnvironment(FakeEnvironment):
    """One that cannot say where it stands, as EnvPool's."""

    def state(self) -> None:
        return None


class BrokenEnvironment(FakeEnvironment):
    """One that crashes in its thirteenth step."""

    def step(self, actions: np.ndarray) -> Step:
        if self.steps == 12:
            raise OSError("the game crashed")
        return super().step(actions)


def fake_agent(seed: int = 0, dtype: torch.dtype = torch.float64) -> Agent:
    """In double precision, in which one process and several must agree to the last digits."""
    torch.manual_seed(seed)
    encoder = ImpalaEncoder((3, 8, 8), channels=(4,), n_features=8)
    agent = Agent(encoder, build_core("lstm", 9, lstm_size=8), 4)
    agent.unused = torch.nn.Parameter(torch.ones(2))  # has no gradient, as some of the published layers'
    return agent.to(dtype=dtype, memory_format=torch.contiguous_format)  # so that tests may write to a view


def decided_agent() -> Agent:
    """One whose actions plainly depend on what it carries."""
    agent = fake_agent()
    with torch.no_grad():
        for weights in agent.parameters():
            weights.mul_(3)
    return agent
