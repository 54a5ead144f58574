"""V-trace and the losses against their definitions, one number at a time; V-trace against TorchRL's too."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchrl.objectives.value.functional import vtrace_advantage_estimate

from examples.rl.agent import AgentOutput
from examples.rl.losses import Losses, actor_critic_losses, vtrace
from examples.rl.settings import Settings

B, T, A = 3, 9, 4


def vtrace_by_hand(log_rhos, discounts, rewards, V, s: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Targets and advantages by equation 1 of Espeholt et al. 2018; V has a step more than the rest."""
    targets, advantages = np.array(V), np.zeros((B, T))
    rho = np.exp(log_rhos)
    for b in range(B):
        for t in range(T):
            for u in range(t, T):
                product = 1.0
                for i in range(t, u):
                    product *= discounts[b, i] * s.vtrace_lambda * min(s.c_bar, rho[b, i])
                delta = min(s.rho_bar, rho[b, u]) * (
                    rewards[b, u] + discounts[b, u] * V[b, u + 1] - V[b, u]
                )
                targets[b, t] += product * delta
        for t in range(T):
            gain = rewards[b, t] + discounts[b, t] * targets[b, t + 1] - V[b, t]
            advantages[b, t] = min(s.pg_rho_bar, rho[b, t]) * gain
    return targets[:, :T], advantages


@pytest.fixture
def given() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    return {
        "logits": normal(B, T + 1, A).requires_grad_(),
        "values": normal(B, T + 1).requires_grad_(),
        "rewards": 2 * normal(B, T + 1),
        "dones": torch.rand(B, T + 1, generator=random) < 0.3,
        "actions": torch.randint(A, (B, T), generator=random),
        "behaviour_logits": normal(B, T, A),
    }


def losses_of(given: dict[str, torch.Tensor], **constants: float) -> Losses:
    output = AgentOutput(given["logits"], given["values"])
    return actor_critic_losses(output, SimpleNamespace(**given), Settings(**constants))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"discount": 0.5},
        {"reward_clip": 0.3},
        {"baseline_cost": 2.0},
        {"entropy_cost": 0.7},
        {"vtrace_lambda": 0.6},
        {"vtrace_lambda": 0.0},
        {"rho_bar": 0.4},
        {"c_bar": 0.4},
        {"pg_rho_bar": 0.4},
        {"rho_bar": 2.0, "c_bar": math.inf, "pg_rho_bar": 1.5, "vtrace_lambda": 0.9},
    ],
)
def test_losses_and_their_gradients_against_the_definitions(given, change):
    """The gradients take targets and advantages for constants: so they show each one of these."""
    s, found = Settings(**change), losses_of(given, **change)
    n = {name: tensor.detach().numpy() for name, tensor in given.items()}
    log_pi, log_mu = (
        logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for logits in (n["logits"][:, :T], n["behaviour_logits"])
    )
    pi, one_hot = np.exp(log_pi), np.eye(A)[n["actions"]]
    taken, log_rhos = (log_pi * one_hot).sum(-1), ((log_pi - log_mu) * one_hot).sum(-1)
    discounts = np.where(n["dones"][:, 1:], 0.0, s.discount)
    assert log_rhos.min() < 0 < log_rhos.max()
    assert (discounts == 0).any(0)[:-1].any()
    assert 0 < (discounts[:, -1] == 0).sum() < B
    rewards = np.clip(n["rewards"][:, 1:], -s.reward_clip, s.reward_clip)
    targets, advantages = vtrace_by_hand(log_rhos, discounts, rewards, n["values"], s)

    errors, entropy = targets - n["values"][:, :T], -(pi * log_pi).sum(-1)
    expected = [-(taken * advantages).sum(), 0.5 * (errors**2).sum(), entropy.sum()]
    loss = expected[0] + s.baseline_cost * expected[1] - s.entropy_cost * expected[2]
    assert [value.item() for value in found] == pytest.approx([loss, *expected], rel=1e-12)
    if change:
        assert found.loss.item() != losses_of(given).loss.item()

    found.loss.backward()
    to_values, to_logits = np.zeros((B, T + 1)), np.zeros((B, T + 1, A))
    to_values[:, :T] = -s.baseline_cost * errors
    to_logits[:, :T] = s.entropy_cost * pi * (log_pi + entropy[..., None])
    to_logits[:, :T] -= advantages[..., None] * (one_hot - pi)
    np.testing.assert_allclose(given["values"].grad, to_values, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(given["logits"].grad, to_logits, rtol=1e-10, atol=1e-12)


def test_sums_in_at_least_single_precision(given):
    half = {**given, "logits": given["logits"].bfloat16(), "values": given["values"].bfloat16()}
    assert {value.dtype for value in losses_of(half)} == {torch.float32}
    assert losses_of(half).loss.item() == pytest.approx(losses_of(given).loss.item(), rel=0.05)


@pytest.mark.parametrize("steps", [1, 20])
@pytest.mark.parametrize(("rho_bar", "c_bar"), [(1.0, 1.0), (2.0, 0.5), (0.5, 2.0)])
def test_against_torchrl(steps, rho_bar, c_bar):
    random = torch.Generator().manual_seed(0)
    log_rhos, rewards, values = torch.randn(3, 5, steps, generator=random, dtype=torch.float64)
    ends, last = torch.rand(5, steps, generator=random) < 0.25, torch.arange(5.0, dtype=torch.float64)
    gamma = 0.5  # exact in float32, which TorchRL keeps it in
    found = vtrace(
        log_rhos, gamma * ~ends, rewards, values, last, rho_bar=rho_bar, c_bar=c_bar, pg_rho_bar=rho_bar
    )
    following = torch.cat([values[:, 1:], last[:, None]], dim=1)
    log_mu = torch.full_like(log_rhos, -1.5)
    parts = (log_rhos + log_mu, log_mu, values, following, rewards, ends, ends)
    advantages, targets = vtrace_advantage_estimate(
        gamma, *(part[..., None] for part in parts), rho_thresh=rho_bar, c_thresh=c_bar
    )
    torch.testing.assert_close(tuple(found), (targets[..., 0], advantages[..., 0]), rtol=1e-12, atol=1e-12)
