"""The losses against their definitions, one number at a time, and their gradients."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from examples.rl.agent import AgentOutput
from examples.rl.losses import Losses, actor_critic_losses
from examples.rl.settings import Settings
from tests.examples.rl.test_vtrace import by_definition

B, T, A = 3, 6, 4


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


def vtrace_by_hand(given, s: Settings) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of the policy's log-probabilities (B, T, A), those of the actions (B, T), targets and advantages."""
    n = {name: tensor.detach().numpy() for name, tensor in given.items()}
    log_pi = n["logits"] - np.log(np.exp(n["logits"]).sum(-1, keepdims=True))
    log_mu = n["behaviour_logits"] - np.log(np.exp(n["behaviour_logits"]).sum(-1, keepdims=True))
    taken, acted = (
        np.array([[log_p[b, t, n["actions"][b, t]] for t in range(T)] for b in range(B)])
        for log_p in (log_pi, log_mu)
    )
    discounts = np.where(n["dones"][:, 1:], 0.0, s.discount)
    rewards = np.clip(n["rewards"][:, 1:], -s.reward_clip, s.reward_clip)
    found = by_definition(
        *(taken - acted, discounts, rewards, n["values"][:, :-1], n["values"][:, -1]),
        *(s.vtrace_lambda, s.rho_bar, s.c_bar, s.pg_rho_bar),
    )
    return log_pi[:, :-1], taken, *found


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"discount": 0.5},
        {"reward_clip": 0.3},
        {"baseline_cost": 2.0},
        {"entropy_cost": 0.7},
        {"vtrace_lambda": 0.6},
        {"rho_bar": 0.4},
        {"c_bar": 0.4},
        {"pg_rho_bar": 0.4},
    ],
)
def test_against_their_definitions(given, change):
    s, found = Settings(**change), losses_of(given, **change)
    log_pi, taken, targets, advantages = vtrace_by_hand(given, s)
    policy = baseline = entropy = 0.0
    for b in range(B):
        for t in range(T):
            policy += -taken[b, t] * advantages[b, t]
            baseline += 0.5 * (targets[b, t] - given["values"][b, t].item()) ** 2
            entropy -= sum(np.exp(p) * p for p in log_pi[b, t])
    loss = policy + s.baseline_cost * baseline - s.entropy_cost * entropy
    assert [value.item() for value in found] == pytest.approx([loss, policy, baseline, entropy], rel=1e-12)
    if change:
        assert found.loss.item() != losses_of(given).loss.item()


def test_gradients_take_targets_and_advantages_for_constants(given):
    """Of the values: the error alone; of the logits: the policy gradient and the entropy's."""
    s = Settings()
    losses_of(given).loss.backward()
    log_pi, _, targets, advantages = vtrace_by_hand(given, s)
    to_values = np.zeros((B, T + 1))
    to_values[:, :-1] = s.baseline_cost * (given["values"][:, :-1].detach().numpy() - targets)
    np.testing.assert_allclose(given["values"].grad, to_values, rtol=1e-10, atol=1e-12)
    pi, one_hot = np.exp(log_pi), np.eye(A)[given["actions"]]
    entropy = (pi * log_pi).sum(-1, keepdims=True)
    to_logits = np.zeros((B, T + 1, A))
    to_logits[:, :-1] = s.entropy_cost * pi * (log_pi - entropy) - advantages[..., None] * (one_hot - pi)
    np.testing.assert_allclose(given["logits"].grad, to_logits, rtol=1e-10, atol=1e-12)


def test_sums_in_at_least_single_precision(given):
    half = {**given, "logits": given["logits"].bfloat16(), "values": given["values"].bfloat16()}
    assert {value.dtype for value in losses_of(half)} == {torch.float32}
    assert losses_of(half).loss.item() == pytest.approx(losses_of(given).loss.item(), rel=0.05)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("logits", (B, 1, A), r"logits: expected shape \(B, T \+ 1 >= 2, A\), got \(3, 1, 4\)"),
        ("values", (B, T), r"values: expected shape \(3, 7\), beside logits \(3, 7, 4\), got \(3, 6\)"),
        ("rewards", (B, T), r"rewards: expected shape \(3, 7\)"),
        ("dones", (B, T), r"dones: expected shape \(3, 7\)"),
        ("actions", (B, T + 1), r"actions: expected shape \(3, 6\), .* got \(3, 7\)"),
        ("behaviour_logits", (B, T, 2), r"behaviour_logits: expected shape \(3, 6, 4\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(given, name, shape, message):
    with pytest.raises(ValueError, match="actor_critic_losses: " + message):
        losses_of({**given, name: torch.zeros(shape, dtype=given[name].dtype)})
