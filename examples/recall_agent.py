"""A policy that must remember, learnt by REINFORCE: reinforcement learning in one file.

    python examples/recall_agent.py                     # minutes; also: accelerate launch ...
    python examples/recall_agent.py --layer FeedForward # what a policy without a memory gets: chance

An episode shows a colour with a mark, then a few colours without one, then a question; the action there
must be the marked colour. The agent acts step by step, and its memory is the state of its layers, which it
carries from step to step. It learns from whole episodes at once: the same layers, called on all steps
together, give the same numbers, with gradients through the states.

Letters in the shapes: B episodes, L steps.
"""

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from srwm import nn as srwm_nn

COLOURS, D_MODEL, N_HEADS = 4, 32, 4
QUESTION = 2 * COLOURS  # observations: the marked colours, the others, and the question


class Recall:
    """B episodes side by side, each with as many distracting colours as it happens to have."""

    def __init__(self, count: int, generator: torch.Generator, most: int = 6) -> None:
        self.cues = torch.randint(COLOURS, (count,), generator=generator)
        self.lengths = torch.randint(2, most + 1, (count,), generator=generator) + 2
        shown = torch.randint(COLOURS, (count, most + 2), generator=generator) + COLOURS
        shown[:, 0] = self.cues
        self.observations = shown.scatter(1, self.lengths[:, None] - 1, QUESTION)
        self.t = 0

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (B,) at this step -> rewards (B,) and where the episode has ended (B,)."""
        self.t += 1
        ended = self.lengths <= self.t
        is_asked = self.lengths == self.t
        return (is_asked & (actions == self.cues)).float(), ended

    @property
    def seen(self) -> Tensor:
        """(B,) observations of this step."""
        return self.observations[:, self.t]


class Policy(nn.Module):
    """Layers on the observations, and the logits of the actions."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        make, size = getattr(srwm_nn, layer), 2 * D_MODEL if layer == "FeedForward" else N_HEADS
        parts = [make(D_MODEL, size), srwm_nn.FeedForward(D_MODEL, 2 * D_MODEL)]
        self.embedding = nn.Embedding(QUESTION + 1, D_MODEL)
        self.stack = srwm_nn.Stack(parts)
        self.head = nn.Linear(D_MODEL, COLOURS)

    def forward(self, observations: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Observations (B, L) -> logits (B, L, COLOURS), and the state to go on with."""
        h, state = self.stack(self.embedding(observations), state)
        return self.head(h), state


@torch.no_grad()
def play(policy: nn.Module, episodes: Recall, device: torch.device) -> tuple[Tensor, ...]:
    """Act until all episodes have ended: observations, actions and rewards, (B, L) each."""
    state, steps = None, []
    while True:
        observations = episodes.seen
        logits, state = policy(observations[:, None].to(device), state)
        actions = torch.distributions.Categorical(logits=logits[:, 0]).sample().cpu()
        rewards, ended = episodes.step(actions)
        steps.append((observations, actions, rewards))
        if ended.all():
            return tuple(torch.stack(part, 1) for part in zip(*steps, strict=True))


def main() -> float:
    """Train; the share of the last updates' episodes that succeeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layer", default="SRWM", help="a layer of srwm.nn (default: SRWM)")
    parser.add_argument("--updates", type=int, default=600, help="at most (default: 600)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    device = accelerator.device
    set_seed(options.seed)
    policy = Policy(options.layer)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    policy, optimizer = accelerator.prepare(policy, optimizer)
    set_seed(options.seed, device_specific=True)  # each process samples actions of its own
    generator = torch.Generator().manual_seed(1000 * options.seed + accelerator.process_index)
    success = 1 / COLOURS  # what acting at random gets, then a running mean
    for update in range(1, options.updates + 1):
        observations, actions, rewards = (a.to(device) for a in play(policy, Recall(64, generator), device))
        returns = rewards.sum(1)
        logits, _ = policy(observations)
        chosen = -F.cross_entropy(logits.mT, actions, reduction="none")
        # The question's action alone is rewarded; those before it learn nothing from the return.
        is_asked = observations == QUESTION
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        policy_loss = -(chosen * (returns - success)[:, None])[is_asked].mean()
        loss = policy_loss - 0.03 * entropy[is_asked].mean()
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        success += 0.05 * (accelerator.reduce(returns.mean(), "mean").item() - success)
        if update % 50 == 0 or update == options.updates:
            accelerator.print(f"update {update:5}  episodes that succeed: {success:.1%}")
            if success > 0.98:
                break
    return success


if __name__ == "__main__":
    main()
