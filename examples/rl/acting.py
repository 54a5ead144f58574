"""One step of acting, which training, evaluation and pictures share, and who acts: an agent, or chance.

Letters in the shapes: B environments, C x H x W pixels, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .agent import Agent, AgentOutput


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
