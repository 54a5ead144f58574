"""The losses of an actor-critic on V-trace, as published: sums over all steps, not means."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .agent import AgentOutput
from .rollouts import Unroll
from .settings import Settings
from .vtrace import check_shapes, vtrace


class Losses(NamedTuple):
    """Scalars, sums over all steps that were acted on."""

    loss: Tensor  # policy_loss + baseline_cost * baseline_loss - entropy_cost * entropy, to be minimised
    policy_loss: Tensor  # whose gradient is the policy gradient
    baseline_loss: Tensor  # half the squared error of the values
    entropy: Tensor  # of the policy, in nats


def actor_critic_losses(output: AgentOutput, unroll: Unroll, settings: Settings) -> Losses:
    """Losses of an unroll of T + 1 steps, of which the last gives the bootstrap value alone.

    With the V-trace targets v and advantages::

        policy_loss   = sum of -advantage_t log pi(action_t)
        baseline_loss = sum of (v_t - V_t)^2 / 2
        entropy       = sum over steps and actions of -pi log pi

    Parameters
    ----------
    output : logits (B, T + 1, A) and values (B, T + 1) of the policy that learns; the losses are computed
        in its precision, or in float32 where that is more.
    settings : what they are weighted and bounded by.
    """
    precision = torch.promote_types(output.logits.dtype, torch.float32)
    logits, values, behaviour_logits = (
        part.to(precision) for part in (output.logits, output.values, unroll.behaviour_logits)
    )
    rewards, dones, actions = unroll.rewards, unroll.dones, unroll.actions
    if logits.ndim != 3 or logits.shape[1] < 2:
        raise ValueError(
            f"actor_critic_losses: logits: expected shape (B, T + 1 >= 2, A), got {tuple(logits.shape)}"
        )
    B, steps, A = logits.shape
    check_shapes(
        f"beside logits {tuple(logits.shape)}",
        "actor_critic_losses",
        values=(values, (B, steps)),
        rewards=(rewards, (B, steps)),
        dones=(dones, (B, steps)),
        actions=(actions, (B, steps - 1)),
        behaviour_logits=(behaviour_logits, (B, steps - 1, A)),
    )
    s = settings
    log_policy = F.log_softmax(logits[:, :-1], dim=-1)
    log_taken = _of_actions(log_policy, actions)
    log_behaviour = _of_actions(F.log_softmax(behaviour_logits, dim=-1), actions)
    found = vtrace(
        log_rhos=log_taken - log_behaviour,
        discounts=s.discount * (~dones[:, 1:]).to(precision),
        rewards=rewards[:, 1:].clamp(-s.reward_clip, s.reward_clip).to(precision),
        values=values[:, :-1],
        bootstrap_value=values[:, -1],
        lambda_=s.vtrace_lambda,
        rho_bar=s.rho_bar,
        c_bar=s.c_bar,
        pg_rho_bar=s.pg_rho_bar,
    )
    policy = -(found.advantages * log_taken).sum()
    baseline = 0.5 * (found.targets - values[:, :-1]).square().sum()
    entropy = -(log_policy.exp() * log_policy).sum()
    loss = policy + s.baseline_cost * baseline - s.entropy_cost * entropy
    return Losses(loss, policy, baseline, entropy)


def _of_actions(log_probabilities: Tensor, actions: Tensor) -> Tensor:
    """(B, T, A) and (B, T) -> (B, T)."""
    return log_probabilities.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
