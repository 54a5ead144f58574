"""The losses of an actor-critic on V-trace, as published: sums over all steps, not means.

V-trace: Espeholt et al. 2018, IMPALA (https://arxiv.org/abs/1802.01561), section 4.1.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .agent import AgentOutput
from .rollouts import Unroll
from .settings import Settings


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
    s = settings
    log_policy = F.log_softmax(logits[:, :-1], dim=-1)
    log_taken = _of_actions(log_policy, unroll.actions)
    log_behaviour = _of_actions(F.log_softmax(behaviour_logits, dim=-1), unroll.actions)
    found = vtrace(
        log_rhos=log_taken - log_behaviour,
        discounts=s.discount * (~unroll.dones[:, 1:]).to(precision),
        rewards=unroll.rewards[:, 1:].clamp(-s.reward_clip, s.reward_clip).to(precision),
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


class VTrace(NamedTuple):
    """Both (B, T), of the dtype of the values and without gradient."""

    targets: Tensor  # v, what the value at each step is drawn to
    advantages: Tensor  # what the log-probability of each action is weighted by


def vtrace(
    log_rhos: Tensor,
    discounts: Tensor,
    rewards: Tensor,
    values: Tensor,
    bootstrap_value: Tensor,
    *,
    lambda_: float = 1.0,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    pg_rho_bar: float = 1.0,
) -> VTrace:
    """V-trace targets, equation 1 of the paper, and the advantages of its policy gradient.

    With importance weights ``rho = exp(log_rhos)`` at step t::

        c_t     = lambda_ * min(c_bar, rho_t)
        delta_t = min(rho_bar, rho_t) * (rewards_t + discounts_t * V_{t+1} - V_t)
        v_t     = V_t + sum over u >= t of (product over t <= i < u of discounts_i * c_i) * delta_u
        advantage_t = min(pg_rho_bar, rho_t) * (rewards_t + discounts_t * v_{t+1} - V_t)

    where both V and v are `bootstrap_value` after the last step. On-policy and with ``lambda_ = 1`` the
    targets are the n-step returns.

    Parameters
    ----------
    log_rhos : (B, T) of B sequences of T >= 1 steps: log of the probability of the action taken under the
        policy to learn, less that under the policy that acted.
    discounts, rewards : (B, T) of what follows the action, 0 where an episode ended with it; of the action.
    values, bootstrap_value : (B, T) and (B,), V of the states of the actions, and after the last of them.
    lambda_ : in [0, 1]; below 1, later corrections fade (the paper's remark 2).
    rho_bar, c_bar, pg_rho_bar : upper bounds of the weights; ``math.inf`` leaves them as they are.

    Examples
    --------
    >>> one = torch.ones(1, 2)
    >>> vtrace(0 * one, 0.5 * one, one, 0 * one, torch.tensor([4.0])).targets
    tensor([[2.5000, 3.0000]])
    """
    with torch.no_grad():
        rhos = log_rhos.exp()
        following = torch.cat([values[:, 1:], bootstrap_value.unsqueeze(1)], dim=1)
        deltas = rhos.clamp(max=rho_bar) * (rewards + discounts * following - values)
        shrinking = discounts * lambda_ * rhos.clamp(max=c_bar)
        # The sum over products, from the last step backwards.
        correction = torch.zeros_like(bootstrap_value)
        corrections = []
        for delta, factor in zip(reversed(deltas.unbind(1)), reversed(shrinking.unbind(1)), strict=True):
            correction = delta + factor * correction
            corrections.append(correction)
        targets = values + torch.stack(corrections[::-1], dim=1)
        following = torch.cat([targets[:, 1:], bootstrap_value.unsqueeze(1)], dim=1)
        advantages = rhos.clamp(max=pg_rho_bar) * (rewards + discounts * following - values)
    return VTrace(targets, advantages)
