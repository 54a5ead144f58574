"""V-trace against its definition, the sum over products, written out, and against TorchRL's."""

import math

import numpy as np
import pytest
import torch
from torchrl.objectives.value.functional import vtrace_advantage_estimate

from examples.rl.vtrace import vtrace


def by_definition(
    log_rhos, discounts, rewards, values, bootstrap_value,
    lambda_=1.0, rho_bar=1.0, c_bar=1.0, pg_rho_bar=1.0,
):  # fmt: skip
    """Equation 1 of Espeholt et al. 2018, one number at a time; the discount of each step its own."""
    B, T = log_rhos.shape
    targets, advantages = np.zeros((B, T + 1)), np.zeros((B, T))
    for b in range(B):
        V = [*values[b], bootstrap_value[b]]
        rho = [math.exp(value) for value in log_rhos[b]]
        for s in range(T):
            targets[b, s] = V[s]
            for t in range(s, T):
                product = 1.0
                for i in range(s, t):
                    product *= discounts[b, i] * lambda_ * min(c_bar, rho[i])
                delta = min(rho_bar, rho[t]) * (rewards[b, t] + discounts[b, t] * V[t + 1] - V[t])
                targets[b, s] += product * delta
        targets[b, T] = bootstrap_value[b]
        for s in range(T):
            gain = rewards[b, s] + discounts[b, s] * targets[b, s + 1] - V[s]
            advantages[b, s] = min(pg_rho_bar, rho[s]) * gain
    return targets[:, :T], advantages


def data(T: int, B: int = 5) -> dict[str, torch.Tensor]:
    """Importance weights on both sides of 1, and episodes that end, in the middle and last."""
    rng = np.random.default_rng(0)
    given = {
        "log_rhos": rng.normal(0, 1, (B, T)),
        "discounts": 0.5 * (rng.random((B, T)) > 0.25),  # exact in float32, which TorchRL keeps it in
        "rewards": rng.normal(0, 1, (B, T)),
        "values": rng.normal(0, 1, (B, T)),
        "bootstrap_value": rng.normal(0, 1, B),
    }
    return {name: torch.from_numpy(value) for name, value in given.items()}


@pytest.mark.parametrize(
    ("T", "options"),
    [
        (1, {"lambda_": 0.7, "rho_bar": 2.0}),
        (2, {}),
        (7, {"rho_bar": 2.0, "c_bar": 0.5, "pg_rho_bar": 1.5}),
        (20, {"rho_bar": 0.5, "c_bar": 2.0, "pg_rho_bar": 3.0, "lambda_": 0.3}),
        (20, {"rho_bar": math.inf, "c_bar": math.inf, "pg_rho_bar": math.inf}),
        (7, {"lambda_": 0.0}),
    ],
)
def test_against_the_sum_over_products(T, options):
    given = data(T)
    expected = by_definition(**{name: value.numpy() for name, value in given.items()}, **options)
    np.testing.assert_allclose(vtrace(**given, **options), expected, rtol=1e-12, atol=1e-12)
    if T == 20:
        assert given["log_rhos"].min() < 0 < given["log_rhos"].max()
        ends = given["discounts"] == 0
        assert ends[:, :-1].any()
        assert 0 < ends[:, -1].sum() < 5


@pytest.mark.parametrize(("rho_bar", "c_bar"), [(1.0, 1.0), (2.0, 0.5), (0.5, 2.0)])
def test_against_torchrl(rho_bar, c_bar):
    given = data(20)
    ends = given["discounts"] == 0
    found = vtrace(**given, rho_bar=rho_bar, c_bar=c_bar, pg_rho_bar=rho_bar)
    following = torch.cat([given["values"][:, 1:], given["bootstrap_value"][:, None]], dim=1)
    log_pi = given["log_rhos"] - 1.5
    advantages, targets = vtrace_advantage_estimate(
        0.5,
        *(part[..., None] for part in (log_pi, torch.full_like(log_pi, -1.5))),
        *(part[..., None] for part in (given["values"], following, given["rewards"], ends, ends)),
        rho_thresh=rho_bar,
        c_thresh=c_bar,
    )
    torch.testing.assert_close(tuple(found), (targets[..., 0], advantages[..., 0]), rtol=1e-12, atol=1e-12)


def test_no_gradient_passes_and_the_dtype_stays():
    for tensor in vtrace(**{n: v.float().requires_grad_() for n, v in data(3).items()}):
        assert not tensor.requires_grad
        assert tensor.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("log_rhos", (3, 4, 1), r"log_rhos: expected shape \(B, T >= 1\), got \(3, 4, 1\)"),
        ("log_rhos", (3, 0), r"log_rhos: expected shape \(B, T >= 1\), got \(3, 0\)"),
        ("values", (3, 5), r"values: expected shape \(3, 4\), beside log_rhos \(3, 4\), got \(3, 5\)"),
        ("rewards", (1, 4), r"rewards: expected shape \(3, 4\)"),
        ("bootstrap_value", (3, 1), r"bootstrap_value: expected shape \(3,\), .* got \(3, 1\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(name, shape, message):
    with pytest.raises(ValueError, match="vtrace: " + message):
        vtrace(**{**data(4, B=3), name: torch.zeros(shape)})
