"""`SelfModifyingTitans` alone: initial weights, gradients of all memories, long sequences, a task."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from srwm.nn import SelfModifyingTitans

OBJECTIVES = ["l2", "l2_doubled", "dot", "dot_printed"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def blocks_of(W, D):
    """The columns of W by name."""
    parts = W.split([D, D, D, 1, 1, W.shape[-1] - 3 * D - 2], -1)
    return dict(zip(("y", "k", "v", "eta", "alpha", "q"), parts, strict=True))


def test_initial_weights():
    H, D = 4, 128
    layer = SelfModifyingTitans(H * D, H)
    blocks = blocks_of(layer.W.detach(), D)
    for name in "ykvq":
        assert not blocks[name][:, 0].any()
        assert blocks[name][:, 1:].std().item() == pytest.approx(D**-0.5, rel=0.03)
    assert not blocks["eta"].any()
    assert not blocks["alpha"][:, 1:].any()
    constant = torch.arange(H * D) % D == 0
    assert torch.equal(layer.layer_norm.weight == 0, constant)
    assert torch.equal(layer.layer_norm.bias == 1, constant)
    x = layer.layer_norm(torch.randn(50, H * D)).unflatten(-1, (H, D)).transpose(0, 1)
    retention = (x @ blocks["alpha"]).sigmoid()
    torch.testing.assert_close(retention, torch.full_like(retention, 0.99966), atol=1e-5, rtol=0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(3)
    layer.reset_parameters()
    assert torch.equal(layer.layer_norm.weight == 0, constant)
    assert not blocks_of(layer.W, D)["eta"].any()


@pytest.mark.parametrize("residual", ["norm_skip", "plain", "none"])
def test_without_a_norm_before_the_memories_retention_begins_at_one_half(residual):
    layer = SelfModifyingTitans(12, 3, residual=residual)
    assert not blocks_of(layer.W, 4)["alpha"].any()
    assert layer.layer_norm is None or (layer.layer_norm.weight == 1).all()


@pytest.mark.parametrize("D", [4, 16, 64])
@pytest.mark.parametrize("objective", OBJECTIVES)
@torch.no_grad()
def test_long_sequences_stay_finite_and_memories_last_for_a_while(objective, D):
    layer = SelfModifyingTitans(4 * D, 4, objective=objective)
    h = torch.randn(4, 1000, 4 * D)
    _, early = layer(h[:, :10])
    assert (layer.W + early).norm() > 0.8 * 4**0.5 * layer.W.norm()
    out, late = layer(h)
    assert out.isfinite().all()
    assert late.isfinite().all()
    assert (layer.W + late).norm() < 4**0.5 * layer.W.norm()


@pytest.mark.parametrize("adaptive_query", [True, False])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_backward_reaches_every_memory(objective, adaptive_query):
    layer = SelfModifyingTitans(12, 3, objective=objective, adaptive_query=adaptive_query)
    layer(torch.randn(2, 5, 12))[0].square().mean().backward()
    blocks = blocks_of(layer.W.grad, 4)
    if not adaptive_query:
        blocks["q"] = layer.W_q.grad
    for name, gradient in blocks.items():
        assert (gradient.flatten(1).norm(dim=-1) > 1e-9).all(), name  # in every head
    for name, parameter in layer.named_parameters():
        assert parameter.grad.norm() > 0, name
    # The constant entries learn to be none.
    assert layer.layer_norm.weight.grad[::4].all()
    assert layer.layer_norm.bias.grad[::4].all()


def test_a_memory_of_random_pairs_is_learned():
    """Three pairs of a key and a value, then a key: its value. Without memory the loss is 2.08."""
    n, d_model, generator = 8, 32, torch.Generator().manual_seed(1)
    encode, decode = torch.nn.Linear(2 * n, d_model), torch.nn.Linear(d_model, n)
    layer = SelfModifyingTitans(d_model, 2)
    parameters = [p for module in (encode, layer, decode) for p in module.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=3e-3)
    losses = []
    for _ in range(250):
        keys = torch.rand(64, n, generator=generator).argsort(-1)[:, :3]
        values = torch.randint(n, (64, 3), generator=generator)
        pairs = torch.cat([one_hot(keys, n), one_hot(values, n)], -1)
        asked = torch.cat([one_hot(keys[:, :1], n), torch.zeros(64, 1, n)], -1)
        out, _ = layer(encode(torch.cat([pairs, asked], 1).float()), return_state=False)
        loss = cross_entropy(decode(out[:, -1]), values[:, 0])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[:10]) / 10 > 1.9
    assert sum(losses[-10:]) / 10 < 0.3


def test_options_are_printed():
    shown = repr(SelfModifyingTitans(12, 3, objective="dot", adaptive_query=False))
    assert "objective='dot', keys='l2', rate='softplus', rate_scale=0.02, eps=1e-06" in shown
    assert "adaptive_query=False" in shown
