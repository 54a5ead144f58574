"""Who acts, an agent or chance; one step of it, which training shares with all else; and whole episodes.

Letters in the shapes: B environments, C x H x W pixels, A actions.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .agent import Agent, AgentOutput
from .environments.vector import Step, VectorEnvironment


class RandomPolicy(nn.Module):
    """What every trained agent is compared with; called like one: all actions are equally probable, every
    value is 0, nothing is carried."""

    def __init__(self, n_actions: int) -> None:
        super().__init__()
        self.n_actions = n_actions

    def forward(
        self, frames: Tensor, rewards: Tensor, dones: Tensor, states: list[Tensor] | None = None
    ) -> tuple[AgentOutput, list[Tensor]]:
        """Logits (B, L, A) and values (B, L) of zeros, for dones (B, L)."""
        logits = dones.new_zeros((*dones.shape, self.n_actions), dtype=rewards.dtype)
        return AgentOutput(logits, rewards.new_zeros(rewards.shape)), []

    def initial_state(self, count: int) -> list[Tensor]:
        """None."""
        return []


Policy = Agent | RandomPolicy


@dataclass(frozen=True)
class Acted:
    """What a policy did at one step; on the CPU, but for the states."""

    actions: Tensor  # (B,) int64
    logits: Tensor  # (B, A) float32, of the policy that took them
    values: Tensor  # (B,) float32, the return expected before
    states: list[Tensor]  # to act at the next step with, where the policy is


@torch.no_grad()
def act(
    policy: Policy,
    frame: np.ndarray | Tensor,
    reward: np.ndarray | Tensor,
    done: np.ndarray | Tensor,
    states: list[Tensor],
    noise: Tensor | None = None,
) -> Acted:
    """Let a policy, in evaluation mode, act once.

    Parameters
    ----------
    frame, reward, done : (B, C, H, W), (B,), (B,), as of a `Step`.
    states : those that the step before returned, or the policy's `initial_state`.
    noise : (B, A), from `gumbel_noise`, to draw the actions; None takes the most probable ones.
    """
    device = next((parameter.device for parameter in policy.parameters()), torch.device("cpu"))
    frames, rewards, dones = (
        torch.as_tensor(part).unsqueeze(1).to(device) for part in (frame, reward, done)
    )
    output, states = policy(frames, rewards, dones, states)
    logits = output.logits.squeeze(1).float().cpu()
    scores = logits.double() if noise is None else logits.double() + noise
    return Acted(scores.argmax(dim=-1), logits, output.values.squeeze(1).float().cpu(), states)


def gumbel_noise(shape: tuple[int, ...], *key: int) -> Tensor:
    """Independent draws of Gumbel's distribution, float64: a function of the key, integers from 0 on.

    The place of the largest among logits with such noise is a sample of their softmax.
    """
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    generator = torch.Generator().manual_seed(seed & (2**63 - 1))
    return -torch.empty(shape, dtype=torch.float64).exponential_(generator=generator).log()


class Episodes(NamedTuple):
    """E episodes that were played: ordered by environment, and in each by time."""

    returns: np.ndarray  # (E,) float64, unclipped
    lengths: np.ndarray  # (E,) int64


def play_episodes(
    policy: Policy,
    environment: VectorEnvironment,
    count: int,
    *,
    greedy: bool,
    seed: int,
    max_steps: int | None = None,
    tell: Callable[[int], object] = lambda ended: None,
    show: Callable[[Step, Acted, Step], object] = lambda before, acted, after: None,
) -> Episodes:
    """Play ``count`` episodes: of each of the B environments the first ``count / B``.

    Which episodes count is settled beforehand, environment by environment, and all of them are played to
    their end. Taking the first ``count`` that end, wherever they do, would prefer short ones. Where B does
    not divide ``count``, the first environments play one more.

    Parameters
    ----------
    policy : put into evaluation mode.
    environment : freshly made, with at most ``count`` environments; it is reset.
    greedy : take the most probable action; otherwise draw one.
    seed : of the actions that are drawn.
    max_steps : to stop after, whether or not all have ended.
    tell : is told how many episodes ended in each step.
    show : is shown each step: what was seen, what was done in unfinished rows, and what came of it.
    """
    B = environment.count
    left = count // B + (np.arange(B) < count % B)
    found: list[tuple[int, float, int]] = []
    policy.eval()
    states = policy.initial_state(B)
    step = environment.reset()
    for steps in itertools.count():
        busy = np.flatnonzero(left)
        if not len(busy) or steps == max_steps:
            break
        noise = None if greedy else gumbel_noise((B, environment.n_actions), seed, steps)[busy]
        carried = [state[busy] for state in states]
        acted = act(policy, step.frame[busy], step.reward[busy], step.done[busy], carried, noise)
        for state, new in zip(states, acted.states, strict=True):
            state[busy] = new
        actions = np.zeros(B, np.int64)  # whatever, where all that count are played
        actions[busy] = acted.actions
        before, step = step, environment.step(actions)
        show(before, acted, step)
        ended = busy[step.done[busy]]
        found += [(row, float(step.episode_return[row]), int(step.episode_length[row])) for row in ended]
        left[ended] -= 1
        tell(len(ended))
    found.sort(key=lambda episode: episode[0])
    return Episodes(
        np.array([gained for _, gained, _ in found], np.float64), np.array([n for *_, n in found], np.int64)
    )
