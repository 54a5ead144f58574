"""One step of acting: what training, evaluation and pictures of episodes have in common.

Letters in the shapes: B environments, C x H x W pixels, A actions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .agent import AgentOutput


class Policy(Protocol):
    """What can play: an `Agent` or something that is called like one."""

    def __call__(
        self, frames: Tensor, rewards: Tensor, dones: Tensor, states: list[Tensor]
    ) -> tuple[AgentOutput, list[Tensor]]: ...

    def initial_state(self, count: int) -> list[Tensor]: ...

    def parameters(self) -> Iterable[Tensor]: ...

    def eval(self) -> Any: ...


@dataclass(frozen=True)
class Acted:
    """What a policy did at one step.

    Attributes
    ----------
    actions : (B,) int64, on the CPU as all but the states.
    logits : (B, A) float32, of the policy that took them.
    values : (B,) float32, the return expected before.
    states : to act at the next step with, where the policy is.
    """

    actions: Tensor
    logits: Tensor
    values: Tensor
    states: list[Tensor]


@torch.no_grad()
def act(
    policy: Policy,
    frame: np.ndarray | Tensor,
    reward: np.ndarray | Tensor,
    done: np.ndarray | Tensor,
    states: list[Tensor],
    noise: Tensor | None = None,
) -> Acted:
    """Let a policy act once.

    Parameters
    ----------
    policy : in evaluation mode.
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
