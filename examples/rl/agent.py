"""The agent: an encoder, a core that reads its features beside the rewards, a policy and a value."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..training.core import Core, States
from .encoder import ImpalaEncoder


class AgentOutput(NamedTuple):
    """What an agent says at each of L steps of B sequences."""

    logits: Tensor  # (B, L, A), of the actions
    values: Tensor  # (B, L), the discounted return expected from here on


class Agent(nn.Module):
    """Says at each step what to do and what to expect, from the frame, the last reward and what it carries.

    To act, call it with one step at a time and the states that the call before returned; to learn, with an
    unroll at once and the states at its start. Both give the same (Irie et al. 2022, section 4.3,
    https://arxiv.org/abs/2202.05780, and its code, which only ever steps). The core reads a step's features
    and, behind them, the reward.
    """

    def __init__(self, encoder: ImpalaEncoder, core: Core, n_actions: int) -> None:
        super().__init__()
        self.encoder, self.core = encoder, core
        self.policy = nn.Linear(core.n_outputs, n_actions)
        self.value = nn.Linear(core.n_outputs, 1)

    def forward(
        self,
        frames: Tensor,
        rewards: Tensor,
        dones: Tensor,
        states: States | None = None,
        *,
        bptt: int | None = None,
        return_states: bool = True,
    ) -> tuple[AgentOutput, States]:
        """Go through L >= 1 steps of B sequences; returns what is said, and the states to continue with.

        Parameters
        ----------
        frames : (B, L, C, H, W) uint8, what is seen.
        rewards : (B, L), of the action before, from an earlier episode's where a new one begins; clamped to
            between -1 and 1.
        dones : (B, L) bool, where a new episode begins: before that step whatever is carried is forgotten,
            and no gradient passes it.
        states : what the call before returned, or `initial_state`; by default episodes begin. One tensor
            (B, ...) for each layer that carries something, each part of the graph.
        bptt : steps through which gradients flow back, by truncation: what is carried is detached after
            every `bptt` steps, counted from the first one here. 1 is what the published code does with all
            cores but the LSTM; the queries, keys and rates of a self-referential matrix, which act on later
            steps alone, then never learn (their gradients are exactly zero). None: the whole unroll.
        return_states : whether states are wanted again.
        """
        if frames.shape[:2] != dones.shape or rewards.shape != dones.shape:
            raise ValueError(
                "Agent: rewards and dones must be (B, L), as the first two axes of the frames "
                f"{tuple(frames.shape)}, got {tuple(rewards.shape)} and {tuple(dones.shape)}"
            )
        length = dones.shape[1]
        features = self.encoder(frames.flatten(0, 1)).unflatten(0, dones.shape)
        clamped = rewards.clamp(-1, 1).to(features.dtype)
        inputs = torch.cat([features, clamped.unsqueeze(-1)], dim=-1)
        outputs = []
        for first in range(0, length, bptt or length):
            end = min(first + (bptt or length), length)
            if first:
                states = [state.detach() for state in states or []]
            out, states = self.core(
                inputs[:, first:end],
                states,
                dones[:, first:end],
                return_states=return_states or end < length,
            )
            outputs.append(out)
        out = torch.cat(outputs, dim=1)
        return AgentOutput(self.policy(out), self.value(out).squeeze(-1)), states or []

    def initial_state(self, count: int) -> States:
        """States at the beginning of `count` episodes, (count, ...) each: zeros."""
        return self.core.initial_state(count)
