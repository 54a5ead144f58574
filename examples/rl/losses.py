"""The losses of an actor-critic on V-trace, as published: sums over all steps, not means.

Letters in the shapes: B sequences, T steps that were acted on, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .vtrace import check_shapes, vtrace


@dataclass(frozen=True)
class LossConstants:
    """What the losses are weighted and bounded by; the defaults are the published values.

    Attributes
    ----------
    discount : of what follows a step, within an episode.
    reward_clip : rewards are clamped to plus or minus this much.
    baseline_cost : weight of half the squared error of the values.
    entropy_cost : weight of the negative entropy.
    lambda_, rho_bar, c_bar, pg_rho_bar : see `vtrace`.
    """

    discount: float = 0.99
    reward_clip: float = 1.0
    baseline_cost: float = 0.5
    entropy_cost: float = 0.01
    lambda_: float = 1.0
    rho_bar: float = 1.0
    c_bar: float = 1.0
    pg_rho_bar: float = 1.0


@dataclass(frozen=True)
class Losses:
    """Scalars, sums over the B T steps.

    Attributes
    ----------
    total : ``policy + baseline_cost * baseline - entropy_cost * entropy``, to be minimised.
    policy : whose gradient is the policy gradient.
    baseline : half the squared error of the values.
    entropy : of the policy, in nats.
    """

    total: Tensor
    policy: Tensor
    baseline: Tensor
    entropy: Tensor


def actor_critic_losses(
    logits: Tensor,
    values: Tensor,
    rewards: Tensor,
    dones: Tensor,
    actions: Tensor,
    behaviour_logits: Tensor,
    constants: LossConstants,
) -> Losses:
    """Losses of an unroll of T + 1 steps, of which the last gives the bootstrap value alone.

    With the V-trace targets v and advantages::

        policy   = sum of -advantage_t log pi(action_t)
        baseline = sum of (v_t - V_t)^2 / 2
        entropy  = sum over steps and actions of -pi log pi

    Parameters
    ----------
    logits : (B, T + 1, A) of the policy that learns.
    values : (B, T + 1).
    rewards : (B, T + 1) unclipped; ``rewards[:, t + 1]`` is that of action t.
    dones : (B, T + 1) bool; ``dones[:, t + 1]`` says that the episode ended with action t.
    actions : (B, T) int64.
    behaviour_logits : (B, T, A) of the policy that acted.
    constants : weights and bounds.

    Raises
    ------
    ValueError : for shapes that do not fit.
    """
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
    log_policy = F.log_softmax(logits[:, :-1], dim=-1)
    log_taken = _of_actions(log_policy, actions)
    log_behaviour = _of_actions(F.log_softmax(behaviour_logits, dim=-1), actions)
    found = vtrace(
        log_rhos=log_taken.detach() - log_behaviour,
        discounts=constants.discount * (~dones[:, 1:]).to(values.dtype),
        rewards=rewards[:, 1:].clamp(-constants.reward_clip, constants.reward_clip).to(values.dtype),
        values=values.detach()[:, :-1],
        bootstrap_value=values.detach()[:, -1],
        lambda_=constants.lambda_,
        rho_bar=constants.rho_bar,
        c_bar=constants.c_bar,
        pg_rho_bar=constants.pg_rho_bar,
    )
    policy = -(found.advantages * log_taken).sum()
    errors = found.targets - values[:, :-1]
    baseline = 0.5 * errors.square().sum()
    entropy = -(log_policy.exp() * log_policy).sum()
    total = policy + constants.baseline_cost * baseline - constants.entropy_cost * entropy
    return Losses(total, policy, baseline, entropy)


def _of_actions(log_probabilities: Tensor, actions: Tensor) -> Tensor:
    """(B, T, A) and (B, T) -> (B, T)."""
    return log_probabilities.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
