"""The losses against their definitions, one number at a time, and their gradients."""

import dataclasses

import numpy as np
import pytest
import torch

from examples.rl.losses import LossConstants, actor_critic_losses
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


def by_hand(given, c: LossConstants) -> tuple[float, float, float]:
    n = {name: tensor.detach().numpy() for name, tensor in given.items()}
    log_pi = n["logits"] - np.log(np.exp(n["logits"]).sum(-1, keepdims=True))
    log_mu = n["behaviour_logits"] - np.log(np.exp(n["behaviour_logits"]).sum(-1, keepdims=True))
    taken = np.array([[log_pi[b, t, n["actions"][b, t]] for t in range(T)] for b in range(B)])
    acted = np.array([[log_mu[b, t, n["actions"][b, t]] for t in range(T)] for b in range(B)])
    discounts = np.where(n["dones"][:, 1:], 0.0, c.discount)
    rewards = np.clip(n["rewards"][:, 1:], -c.reward_clip, c.reward_clip)
    targets, advantages = by_definition(
        *(taken - acted, discounts, rewards, n["values"][:, :-1], n["values"][:, -1]),
        *(c.lambda_, c.rho_bar, c.c_bar, c.pg_rho_bar),
    )
    policy = baseline = entropy = 0.0
    for b in range(B):
        for t in range(T):
            policy += -taken[b, t] * advantages[b, t]
            baseline += 0.5 * (targets[b, t] - n["values"][b, t]) ** 2
            entropy -= sum(np.exp(p) * p for p in log_pi[b, t])
    return policy, baseline, entropy


CHANGES = [
    {},
    {"discount": 0.5},
    {"reward_clip": 0.3},
    {"baseline_cost": 2.0},
    {"entropy_cost": 0.7},
    {"lambda_": 0.6},
    {"rho_bar": 0.4},
    {"c_bar": 0.4},
    {"pg_rho_bar": 0.4},
]


@pytest.mark.parametrize("change", CHANGES)
def test_against_their_definitions(given, change):
    constants = dataclasses.replace(LossConstants(), **change)
    found = actor_critic_losses(**given, constants=constants)
    expected = by_hand(given, constants)
    assert (found.policy.item(), found.baseline.item(), found.entropy.item()) == pytest.approx(
        expected, rel=1e-12
    )
    policy, baseline, entropy = expected
    total = policy + constants.baseline_cost * baseline - constants.entropy_cost * entropy
    assert found.total.item() == pytest.approx(total, rel=1e-12)
    if change:
        usual = actor_critic_losses(**given, constants=LossConstants())
        assert found.total.item() != usual.total.item()


def test_constants_are_the_published_ones():
    assert LossConstants() == LossConstants(
        discount=0.99,
        reward_clip=1.0,
        baseline_cost=0.5,
        entropy_cost=0.01,
        lambda_=1.0,
        rho_bar=1.0,
        c_bar=1.0,
        pg_rho_bar=1.0,
    )


def test_gradients_take_targets_and_advantages_for_constants(given):
    """Of the values: the error alone; of the logits: the policy gradient and the entropy's."""
    c = LossConstants()
    losses = actor_critic_losses(**given, constants=c)
    losses.total.backward()
    with torch.no_grad():
        log_pi = given["logits"][:, :-1].log_softmax(-1)
        pi = log_pi.exp()
        taken = log_pi.gather(-1, given["actions"].unsqueeze(-1)).squeeze(-1)
        log_mu = given["behaviour_logits"].log_softmax(-1)
        acted = log_mu.gather(-1, given["actions"].unsqueeze(-1)).squeeze(-1)
    targets, advantages = by_definition(
        (taken - acted).numpy(),
        np.where(given["dones"][:, 1:].numpy(), 0.0, c.discount),
        given["rewards"][:, 1:].clamp(-1, 1).numpy(),
        given["values"][:, :-1].detach().numpy(),
        given["values"][:, -1].detach().numpy(),
    )
    to_values = np.zeros((B, T + 1))
    to_values[:, :-1] = c.baseline_cost * (given["values"][:, :-1].detach().numpy() - targets)
    np.testing.assert_allclose(given["values"].grad.numpy(), to_values, rtol=1e-10, atol=1e-12)
    one_hot = torch.nn.functional.one_hot(given["actions"], A)
    entropy = (pi * log_pi).sum(-1, keepdim=True)
    expected = -torch.from_numpy(advantages).unsqueeze(-1) * (one_hot - pi)
    expected = expected + c.entropy_cost * pi * (log_pi - entropy)
    to_logits = np.concatenate([expected.numpy(), np.zeros((B, 1, A))], axis=1)
    np.testing.assert_allclose(given["logits"].grad.numpy(), to_logits, rtol=1e-10, atol=1e-12)


def test_sums_of_two_parts_are_those_of_the_joined_batch(given):
    whole = actor_critic_losses(**given, constants=LossConstants()).total
    parts = [
        actor_critic_losses(**{n: v[rows] for n, v in given.items()}, constants=LossConstants()).total
        for rows in (slice(0, 1), slice(1, 3))
    ]
    assert whole.item() == pytest.approx(sum(parts).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("logits", (B, 1, A), r"logits: expected shape \(B, T \+ 1 >= 2, A\), got \(3, 1, 4\)"),
        ("values", (B, T), r"values: expected shape \(3, 7\), beside logits \(3, 7, 4\), got \(3, 6\)"),
        ("rewards", (B, T), r"rewards: expected shape \(3, 7\)"),
        ("dones", (B, T), r"dones: expected shape \(3, 7\)"),
        ("actions", (B, T + 1), r"actions: expected shape \(3, 6\), .* got \(3, 7\)"),
        (
            "behaviour_logits",
            (B, T, 2),
            r"behaviour_logits: expected shape \(3, 6, 4\)",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(given, name, shape, message):
    wrong = {**given, name: torch.zeros(shape, dtype=given[name].dtype)}
    with pytest.raises(ValueError, match="actor_critic_losses: " + message):
        actor_critic_losses(**wrong, constants=LossConstants())
