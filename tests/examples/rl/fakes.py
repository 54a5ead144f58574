"""A tiny game that is played in microseconds, and a tiny agent with a state."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from examples.rl.agent import AgentOutput
from examples.rl.environments.vector import Step, check_actions


class FakeEnvironment:
    """Which corner was lit in an episode's first frame? That action is rewarded at every step.

    Episodes have 3 to 7 steps. Everything about an environment is a function of its own number, which
    is `first` and its place; all that is drawn comes from a counter.
    """

    frame_shape = (1, 4, 4)
    n_actions = 4

    def __init__(
        self, count: int, first: int = 0, seed: int = 0, games: tuple[str, ...] = ("fake",)
    ) -> None:
        self.count, self.first, self.seed = count, first, seed
        self.names = tuple(games[(first + row) % len(games)] for row in range(count))
        self.closed = False
        self.steps = 0
        self.last: Step | None = None

    def _drawn(self, row: int) -> tuple[int, int]:
        """The corner and the length of the episode that an environment is in."""
        where = (self.seed, self.first + row, int(self._episode[row]))
        corner, length = np.random.SeedSequence(where).generate_state(2)
        return int(corner % 4), 3 + int(length % 5)

    def _frame(self) -> np.ndarray:
        frame = np.zeros((self.count, *self.frame_shape), np.uint8)
        for row in range(self.count):
            corner, _ = self._drawn(row)
            frame[row, 0, 2, 2] = 20 * self._age[row]
            if self._age[row] == 0:
                frame[row, 0, 3 * (corner // 2), 3 * (corner % 2)] = 255
        return frame

    def _answer(self, reward: np.ndarray, returns: np.ndarray, lengths: np.ndarray) -> Step:
        reward = reward.astype(np.float32)
        self.last = Step(self._frame(), reward, self._age == 0, returns, lengths.astype(np.int64))
        return self.last

    def reset(self) -> Step:
        self._episode, self._age = np.zeros((2, self.count), np.int64)
        self._return = np.zeros(self.count)
        return self._answer(self._return, self._return + np.nan, self._age)

    def step(self, actions: np.ndarray) -> Step:
        check_actions(actions, self.count, self.n_actions)
        if self.last is None:
            raise ValueError("step: no episode has begun; call reset first")
        self.steps += 1
        corners, lengths = np.array([self._drawn(row) for row in range(self.count)]).T
        reward = np.where(actions == corners, 2.0, -0.5)
        self._return += reward
        self._age += 1
        done = self._age == lengths
        returns, ages = np.where(done, self._return, np.nan), np.where(done, self._age, 0)
        self._episode += done
        self._age[done] = 0
        self._return[done] = 0
        return self._answer(reward, returns, ages)

    def state(self) -> dict[str, Any] | None:
        return {
            **{name: getattr(self, name).tolist() for name in ("_episode", "_age", "_return")},
            "last": {name: value.tolist() for name, value in vars(self.last).items()},
        }

    def load_state(self, state: dict[str, Any]) -> Step:
        for name in ("_episode", "_age", "_return"):
            setattr(self, name, np.array(state[name]))
        self.last = Step(**{n: np.array(v, getattr(self.last, n).dtype) for n, v in state["last"].items()})
        return self.last

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


class FakeAgent(nn.Module):
    """A recurrent net of one layer on pixels and rewards, called like `examples.rl.agent.Agent`."""

    def __init__(self, dtype: torch.dtype = torch.float64, width: int = 8) -> None:
        super().__init__()
        self.inputs = nn.Linear(16 + 1, width)
        self.recurrent = nn.Linear(width, width)
        self.policy = nn.Linear(width, 4)
        self.baseline = nn.Linear(width, 1)
        self.unused = nn.Parameter(torch.ones(2))  # as the published layers have some
        self.to(dtype)

    def initial_state(self, count: int) -> list[Tensor]:
        return [self.unused.new_zeros(count, self.recurrent.in_features)]

    def forward(
        self,
        frames: Tensor,
        rewards: Tensor,
        dones: Tensor,
        states: list[Tensor] | None = None,
        *,
        bptt: int | None = None,
        return_states: bool = True,
    ) -> tuple[AgentOutput, list[Tensor]]:
        inputs = torch.cat([frames.flatten(2) / 255, rewards.clamp(-1, 1).unsqueeze(-1)], dim=-1)
        driven = self.inputs(inputs.to(self.inputs.weight.dtype))
        [h] = self.initial_state(len(frames)) if states is None else states
        hidden = []
        for t in range(frames.shape[1]):
            if bptt is not None and t % bptt == 0:
                h = h.detach()
            h = h.masked_fill(dones[:, t : t + 1], 0)
            h = torch.tanh(driven[:, t] + self.recurrent(h))
            hidden.append(h)
        out = torch.stack(hidden, dim=1)
        output = AgentOutput(self.policy(out), self.baseline(out).squeeze(-1))
        return output, [h] if return_states else []


def fake_agent(seed: int = 0, dtype: torch.dtype = torch.float64) -> FakeAgent:
    """In double precision, in which one process and several must agree to the last digits."""
    torch.manual_seed(seed)
    return FakeAgent(dtype)


def decided_agent() -> FakeAgent:
    """One whose actions plainly depend on what it carries."""
    agent = fake_agent()
    with torch.no_grad():
        for layer in (agent.inputs, agent.recurrent, agent.policy):
            layer.weight.mul_(4)
    return agent
