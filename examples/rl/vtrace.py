"""V-trace: values and advantages of a policy from what another one did.

Espeholt et al. 2018, IMPALA (https://arxiv.org/abs/1802.01561), section 4.1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
    if log_rhos.ndim != 2 or log_rhos.shape[1] == 0:
        raise ValueError(f"vtrace: log_rhos: expected shape (B, T >= 1), got {tuple(log_rhos.shape)}")
    B_T = log_rhos.shape
    check_shapes(
        f"beside log_rhos {tuple(B_T)}",
        "vtrace",
        discounts=(discounts, B_T),
        rewards=(rewards, B_T),
        values=(values, B_T),
        bootstrap_value=(bootstrap_value, B_T[:1]),
    )
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


def check_shapes(beside: str, operation: str, **expected: tuple[Tensor, tuple[int, ...]]) -> None:
    """Raise ValueError for the first of the tensors, by name, that has not the shape beside it."""
    for name, (tensor, shape) in expected.items():
        if tensor.shape != torch.Size(shape):
            raise ValueError(
                f"{operation}: {name}: expected shape {tuple(shape)}, {beside}, got {tuple(tensor.shape)}"
            )
