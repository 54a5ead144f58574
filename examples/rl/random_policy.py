"""Acting at random: what every trained agent is compared with."""

from __future__ import annotations

from torch import Tensor, nn

from .agent import AgentOutput


class RandomPolicy(nn.Module):
    """Called like an `Agent`: all actions are equally probable, every value is 0, nothing is carried.

    Parameters
    ----------
    n_actions : A.
    """

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
