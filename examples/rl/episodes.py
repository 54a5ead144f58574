"""Playing a number of episodes, which are chosen before anything is known of them.

Letters in the shapes: B environments, E episodes, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .agent import AgentOutput
from .environments.vector import VectorEnvironment


class Policy(Protocol):
    """What can play: an `Agent` or something that is called like one."""

    def __call__(
        self, frames: Tensor, rewards: Tensor, dones: Tensor, states: list[Tensor]
    ) -> tuple[AgentOutput, list[Tensor]]: ...

    def initial_state(self, count: int) -> list[Tensor]: ...

    def parameters(self) -> Iterable[Tensor]: ...

    def eval(self) -> Any: ...


@dataclass(frozen=True)
class Episodes:
    """Episodes that were played.

    Attributes
    ----------
    returns : (E,) float64, unclipped.
    lengths : (E,) int64.
    """

    returns: np.ndarray
    lengths: np.ndarray


def play_episodes(
    policy: Policy,
    environment: VectorEnvironment,
    count: int,
    *,
    greedy: bool,
    seed: int,
    tell: Callable[[int], object] = lambda ended: None,
) -> Episodes:
    """Play ``count`` episodes: of each of the B environments the first ``count / B``.

    Which episodes count is settled beforehand, environment by environment, and all of them are played to
    their end. Taking the first ``count`` that end, wherever they do, would prefer short ones. Where B does
    not divide ``count``, the first environments play one more.

    Parameters
    ----------
    policy : put into evaluation mode.
    environment : freshly made, with at most ``count`` environments; it is reset.
    count : E.
    greedy : take the most probable action; otherwise draw one.
    seed : of the actions that are drawn.
    tell : is told how many episodes ended in each step.

    Returns
    -------
    The episodes, ordered by environment, and in each by time.

    Raises
    ------
    ValueError : for fewer episodes than environments.
    """
    B = environment.count
    if count < B:
        raise ValueError(
            f"play_episodes: count must be at least the number of environments, {B}, got {count}; "
            "make fewer environments"
        )
    wanted = count // B + (np.arange(B) < count % B)
    played: list[list[tuple[float, int]]] = [[] for _ in range(B)]
    policy.eval()
    act = Acting(policy, environment.n_actions, greedy=greedy, seed=seed)
    step = environment.reset()
    states = policy.initial_state(B)
    busy = np.arange(B)
    while len(busy):
        actions = np.zeros(B, np.int64)  # where all episodes are played already
        output, after = act(
            step.frame[busy], step.reward[busy], step.done[busy], [state[busy] for state in states], busy
        )
        actions[busy] = output.actions
        for state, new in zip(states, after, strict=True):
            state[busy] = new
        step = environment.step(actions)
        ended = busy[step.done[busy]]
        for row in ended:
            played[row].append((float(step.episode_return[row]), int(step.episode_length[row])))
        tell(len(ended))
        busy = np.flatnonzero([len(of_one) < most for of_one, most in zip(played, wanted, strict=True)])
    returns, lengths = zip(*(episode for of_one in played for episode in of_one), strict=True)
    return Episodes(np.array(returns, np.float64), np.array(lengths, np.int64))


@dataclass(frozen=True)
class Acted:
    """Of B environments: the actions taken (B,) and the values (B,) expected before."""

    actions: np.ndarray
    values: np.ndarray


class Acting:
    """Takes actions, one step per call.

    What is drawn in an environment is a function of the seed, the number of the call and the
    environment's own number, whichever others act beside it.

    Parameters
    ----------
    policy : in evaluation mode.
    n_actions : A.
    greedy : take the most probable action; otherwise draw one.
    seed : of the draws.
    """

    def __init__(self, policy: Policy, n_actions: int, *, greedy: bool, seed: int) -> None:
        self.policy, self.n_actions, self.greedy, self.seed = policy, n_actions, greedy, seed
        self.device = next((p.device for p in policy.parameters()), torch.device("cpu"))
        self._call = 0

    @torch.inference_mode()
    def __call__(
        self,
        frame: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        states: list[Tensor],
        environments: np.ndarray,
    ) -> tuple[Acted, list[Tensor]]:
        """Act on a step of some environments, (b, ...), with their states and numbers (b,)."""
        frames, rewards, dones = (
            torch.from_numpy(part).to(self.device).unsqueeze(1) for part in (frame, reward, done)
        )
        output, states = self.policy(frames, rewards, dones, states)
        scores = output.logits.squeeze(1).double().cpu().numpy()  # (b, A)
        if not self.greedy:
            # The largest of logits with Gumbel noise is a sample of their softmax.
            rng = np.random.default_rng((self.seed, self._call))
            scores = scores + rng.gumbel(size=(environments.max() + 1, self.n_actions))[environments]
        self._call += 1
        return Acted(scores.argmax(axis=-1), output.values.squeeze(1).float().cpu().numpy()), states
