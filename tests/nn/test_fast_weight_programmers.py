"""The layers whose fast weights a linear map programs: initial weights, published shapes, base weights."""

from __future__ import annotations

import math

import pytest
import torch

import srwm
from srwm.nn import DeltaDelta, DeltaNet, DeltaRNN, LinearAttention, RecurrentDeltaNet
from tests.nn.loops import randomised

d_model, H, D = 12, 3, 4
LAYERS = {
    "LinearAttention": lambda: LinearAttention(d_model, H),
    "RecurrentDeltaNet": lambda: RecurrentDeltaNet(d_model, H),
    "DeltaRNN": lambda: DeltaRNN(d_model, H),
    "DeltaDelta": lambda: DeltaDelta(d_model, H, base_weights=True),
}
PUBLISHED = ["out_linear.weight", "layer_norm.weight", "layer_norm.bias", "slow_net.weight"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_published_forms_are_the_default():
    linear, rnn = LinearAttention(d_model, H), DeltaRNN(d_model, H)
    assert {
        kind(d_model, H).residual for kind in (LinearAttention, RecurrentDeltaNet, DeltaRNN, DeltaDelta)
    } == {"pre_norm"}
    assert (linear.feature_map.name, linear.feature_map.sum_norm, linear.normalise, linear.scale) == (
        *("elu", False, None, 1),
    )
    assert (rnn.version, rnn.feature_map.name, rnn.feature_map.sum_norm) == (2, "elu", True)
    assert DeltaDelta(d_model, H).W is None


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_have_the_published_names(name):
    more = {"RecurrentDeltaNet": ["R_q", "R_k", "R_v", "r_b"], "DeltaDelta": ["W"]}
    assert sorted(LAYERS[name]().state_dict()) == sorted(PUBLISHED + more.get(name, []))


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_are_drawn_anew(name):
    layer = LAYERS[name]()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(7)
    layer.reset_parameters()
    assert not any((parameter == 7).any() for parameter in layer.parameters())


def test_the_default_delta_net_draws_the_weights_that_it_always_drew():
    layer = DeltaNet(d_model, H)
    torch.manual_seed(0)
    for own in (layer.out_linear, layer.slow_net):
        torch.testing.assert_close(
            own.weight, torch.nn.Linear(d_model, own.out_features, bias=False).weight, rtol=0, atol=0
        )


def test_initial_weights():
    layer = RecurrentDeltaNet(512, 4)
    for weights in (layer.R_q, layer.R_k, layer.R_v, layer.r_b):
        deviation = weights.std().item() * math.sqrt(128)
        assert deviation == pytest.approx(1, rel=0.03 if weights.ndim == 3 else 0.12)
    W = DeltaDelta(512, 4, base_weights=True).W
    assert (W.min() >= 1, W.max() < 2, W.mean().item()) == (True, True, pytest.approx(1.5, abs=0.01))


def test_published_recurrent_weights_load():
    layer, other = RecurrentDeltaNet(d_model, H), RecurrentDeltaNet(d_model, H)
    weights = layer.state_dict()
    published = {n: w[None] if n.startswith("R_") else w for n, w in weights.items()}
    published["r_b"] = weights["r_b"][None, :, None]
    shapes = {name: weight.shape for name, weight in published.items()}
    stacked = torch.nn.Sequential(torch.nn.Identity(), other)
    stacked.load_state_dict({f"1.{name}": weight for name, weight in published.items()})
    assert {name: weight.shape for name, weight in published.items()} == shapes
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), other.parameters(), strict=True))
    other.load_state_dict(weights)
    with pytest.raises(RuntimeError, match=r"size mismatch for R_q: .*\[1, 4, 3, 3\].*\[3, 4, 4\]"):
        other.load_state_dict(published | {"R_q": torch.zeros(1, 4, 3, 3)})
    with pytest.raises(RuntimeError, match=r'Missing key.*: "r_b"'):
        other.load_state_dict({name: w for name, w in published.items() if name != "r_b"})


def test_base_weights_learn_and_move_with_an_optimiser():
    layer = randomised(DeltaDelta(d_model, H, base_weights=True))
    h = torch.randn(2, 5, d_model, dtype=torch.double)
    out, state = layer(h)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    out.square().mean().backward()
    assert layer.W.grad.abs().min() > 0
    assert torch.equal(layer(h[:, :0], state)[1], state)
    before, (W, shift) = layer(h, state.detach())[0], (layer.W.detach().clone(), state[..., : 3 * D + 1])
    optimiser.step()
    after, begun = layer(h, state.detach())[0], layer.W.detach() + shift
    assert (after - before).abs().max() > 1e-6
    assert (layer.W - W).abs().max() > 1e-6
    x = layer.slow_net(layer.layer_norm(h)).unflatten(-1, (H, -1)).transpose(1, 2)
    q, k, v, b = x.split([D, D, 3 * D + 1, 1], -1)
    _, S = srwm.delta.forward(
        *(srwm.nn.maps.positive(a) for a in (q, k)),
        *(v, b.squeeze(-1).sigmoid(), begun),
        return_state=True,
    )
    torch.testing.assert_close(layer(h, state)[1][..., : 3 * D + 1], S - layer.W)


@pytest.mark.parametrize("kind", [DeltaNet, LinearAttention])
def test_random_features_are_drawn_for_each_call_in_training_alone(kind):
    layer, h = kind(d_model, H, feature_map="favor", n_features=6), torch.randn(2, 5, d_model)
    assert layer.state_shape == (H, 12, D)
    assert "feature_map.projection" not in layer.state_dict()
    assert not torch.equal(layer(h)[0], layer(h)[0])
    layer.eval()
    assert torch.equal(layer(h)[0], layer(h)[0])
    before = layer.feature_map.projection.clone()
    layer.reset_parameters()
    assert not torch.equal(layer.feature_map.projection, before)


def test_a_delta_net_that_writes_another_by_hand():
    """At a rate of 1/2, inner values go half the way to 4 twice, to 2 and 3; outputs half the way there."""
    layer = DeltaDelta(1, 1, residual="none", dtype=torch.float64)
    with torch.no_grad():
        layer.slow_net.weight[:] = 0  # q, k, then the values [q, k, v, b] and the rate of the outer rule
        layer.slow_net.weight[4] = 4
        layer.out_linear.weight[:] = 1
    y, _ = layer(torch.ones(2, 1, dtype=torch.float64))
    torch.testing.assert_close(y[:, 0], torch.tensor([1.0, 2.0], dtype=torch.float64))


def test_normalised_keys_of_the_delta_rule_by_hand():
    """One head of one entry, whose maps and values are 1: m is the number of steps before, or 1."""
    layer = DeltaNet(1, 1, normalise=1e-30, residual="none").double()
    with torch.no_grad():
        layer.slow_net.weight.copy_(torch.tensor([[0.0], [0.0], [1.0], [0.0]]))
        layer.out_linear.weight.fill_(1)
    h, reset = torch.ones(1, 4, 1, dtype=torch.double), torch.tensor([[False, False, False, True]])
    out, state = layer(h, reset=reset)
    # m = 1: S = 1/2, read by 1. m = 1: S += (1 - S) / 2. m = 2, k = 1/2: S += (1/2) (2/2) (1 - S/2).
    torch.testing.assert_close(
        out.flatten(), torch.tensor([0.5, 0.75 / 2, (0.75 + 0.3125) / 3, 0.5]).double()
    )
    torch.testing.assert_close(state.flatten(), torch.tensor([0.5, 1]).double())


def test_options_are_shown():
    for layer, shown in (
        (DeltaNet(d_model, H), "DeltaNet(\n  12, n_heads=3, residual='pre_norm', eps=0.0\n"),
        (
            DeltaNet(d_model, H, normalise=1e-5, beta_range=2, scale=0.5),
            "eps=0.0, beta_range=2, normalise=1e-05, scale=0.5\n",
        ),
        (LinearAttention(d_model, H, normalise=1e-6, scale=0.5), "normalise=1e-06, scale=0.5\n"),
        (LinearAttention(d_model, H), "'pre_norm'\n"),
        (DeltaRNN(d_model, H, version=1), "'pre_norm', version=1\n"),
        (DeltaDelta(d_model, H, base_weights=True), "eps=0.0, base_weights=True\n"),
    ):
        assert shown in repr(layer)
