"""`SRWM` and `SRDelta`: the state is a shift from W, published weights load, initial weights."""

from __future__ import annotations

import pytest
import torch

import srwm
from srwm.nn import SRWM, FakeSR, SRDelta
from tests.cases import growth_case

H, D = 4, 3
d_model = H * D

each_kind = pytest.mark.parametrize("kind", [SRWM, SRDelta])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_state_is_the_shift_from_the_parameters():
    layer = SRWM(d_model, H).double()
    h = torch.randn(2, 5, d_model, dtype=torch.double)
    _, state = layer(h)
    before, _ = layer(h, state)
    with torch.no_grad():
        layer.W += 0.1  # an optimiser step between segments moves the effective weights
    x = h.unflatten(-1, (H, D)).transpose(1, 2)
    _, W_next = srwm.forward(x, layer.W + state, return_state=True)
    after, shifted = layer(h, state)
    torch.testing.assert_close(shifted, W_next - layer.W)
    assert (after - before).abs().max() > 1e-3


@each_kind
def test_what_would_have_come_without_the_reset_may_be_infinite(kind):
    case = growth_case()
    layer = kind(16, 1, residual="plain", input_softmax=False)
    y, *rewriting = torch.tensor(case.W, dtype=torch.float32).split([16, 16, 16, 4], -1)
    outputs = [1e38 * y] * (layer.W.shape[-1] // 16 - 2)  # and every step makes it a little more
    if kind is SRDelta:
        outputs.append(torch.zeros(16, 1))
    start = (torch.cat([*outputs, *rewriting], -1) - layer.W.detach())[None]
    if kind is SRDelta:
        start = torch.cat([start, torch.zeros(1, 1, 16, 16)], -1)
    h = torch.tensor(case.x[None, :60], dtype=torch.float32, requires_grad=True)
    out, _ = layer(h, start, torch.arange(60)[None] == 1)
    assert not layer(h, start, return_state=False)[0].isfinite().all()
    for gradient in torch.autograd.grad(out[:, 1:].sum(), (h, *layer.parameters())):
        assert gradient.isfinite().all()


def published(layer, lead=(1,)):
    """The layer's state dict as the published code writes it."""
    weights = layer.state_dict()
    blocks = srwm.unpack(weights.pop("W"))
    named = zip(("W_y", "W_q", "W_k", "w_b"), blocks, strict=True)
    return {name: block.reshape(*lead, *block.shape) for name, block in named} | weights


@pytest.mark.parametrize("lead", [(), (1,)])
@each_kind
def test_published_parameter_names_load(kind, lead):
    layer, other = kind(d_model, H, residual="norm_skip"), kind(d_model, H, residual="norm_skip")
    weights = published(layer, lead)
    untouched = dict(weights)
    assert not any(other.load_state_dict(weights))
    assert weights.keys() == untouched.keys()
    for name, parameter in layer.state_dict().items():
        assert torch.equal(other.state_dict()[name], parameter)
    stacked = torch.nn.Sequential(torch.nn.Identity(), other)
    stacked.load_state_dict({f"1.{name}": a for name, a in weights.items()})
    stacked.load_state_dict({f"1.{name}": a for name, a in weights.items()}, assign=True)
    assert torch.equal(other.W, layer.W)
    plain = kind(d_model, H, residual="plain")
    plain.load_state_dict(weights)  # with the layer norm that its published form has, unused
    assert torch.equal(plain.W, layer.W)


@each_kind
def test_published_weights_of_another_size_name_the_key_and_both_sizes(kind):
    name, Do = kind.__name__, 3 if kind is SRWM else 10
    weights = {f"a.{key}": a for key, a in published(kind(16, H)).items()}  # D = 4
    layer = torch.nn.ModuleDict({"a": kind(d_model, H)})
    before = layer["a"].W.clone()
    with pytest.raises(RuntimeError) as error:
        layer.load_state_dict(weights)
    message = str(error.value)
    assert (
        f"{name}: a.W_q: expected a Tensor of shape (4, 3, 3) or (1, 4, 3, 3), got (1, 4, 4, 4)" in message
    )
    assert f"{name}: a.W_y: expected a Tensor of shape (4, 3, {Do})" in message
    assert (
        f"{name}: a.w_b: expected a Tensor of shape (4, 3, 4) or (1, 4, 3, 4), got (1, 4, 4, 4)" in message
    )
    assert "size mismatch for a.out_linear.weight" in message
    assert "Missing" not in message
    assert torch.equal(layer["a"].W, before)


@each_kind
def test_a_published_weight_of_the_same_number_of_entries_is_not_bent_into_shape(kind):
    layer = kind(d_model, H)
    weights = published(layer)
    weights["W_k"] = weights["W_k"].reshape(1, D, H, D)
    with pytest.raises(RuntimeError, match=r"W_k: expected .* \(4, 3, 3\) .*got \(1, 3, 4, 3\)"):
        layer.load_state_dict(weights)
    with pytest.raises(RuntimeError, match=r"w_b: expected a Tensor of shape .*, got type list"):
        layer.load_state_dict(published(layer) | {"w_b": [0.0]})


@each_kind
def test_missing_and_extra_weights_are_named(kind):
    layer = kind(d_model, H)
    weights = published(layer)
    del weights["w_b"]
    with pytest.raises(RuntimeError, match=r'Missing key.*: "w_b"') as error:
        layer.load_state_dict(weights)
    assert '"W"' not in str(error.value)
    assert "Unexpected" not in str(error.value)
    assert layer.load_state_dict(weights, strict=False).missing_keys == ["w_b"]
    with pytest.raises(RuntimeError, match=r'Unexpected key.*: "bias"'):
        layer.load_state_dict(published(layer) | {"bias": torch.zeros(3)})
    both = layer.state_dict() | published(layer)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*: "W_y", "W_q", "W_k", "w_b"'):
        layer.load_state_dict(both)
    del (own := layer.state_dict())["W"]
    with pytest.raises(RuntimeError, match=r'Missing key.*: "W"'):
        layer.load_state_dict(own)


def test_initial_weights():
    layer = SRWM(512, 4, beta_init=-1.0, q_scale=0.01)
    W_y, W_q, W_k, w_beta = srwm.unpack(layer.W.detach() * 128**0.5)
    assert W_y.std().item() == pytest.approx(1, rel=0.03)
    assert W_k.std().item() == pytest.approx(1, rel=0.03)
    assert W_q.std().item() == pytest.approx(0.01, rel=0.03)
    assert layer.W[..., -4:].mean().item() == pytest.approx(-1, abs=0.02)
    assert w_beta.std().item() == pytest.approx(1, rel=0.06)
    programming = SRDelta(512, 4, beta_init=-1.0, q_scale=0.01)
    W_y, W_q, W_k, w_beta = srwm.unpack(programming.W.detach() * 128**0.5)
    assert W_y.shape[-1] == 3 * 128 + 1
    assert W_y.std().item() == pytest.approx(1, rel=0.03)
    assert W_q.std().item() == pytest.approx(0.01, rel=0.03)
    assert programming.W[..., -4:].mean().item() == pytest.approx(-1, abs=0.02)


def test_published_forms_of_the_layers_are_the_default():
    forms = {
        kind: (kind(d_model, H).residual, kind(d_model, H).input_softmax)
        for kind in (SRWM, SRDelta, FakeSR)
    }
    assert forms == {SRWM: ("norm_skip", False), SRDelta: ("plain", True), FakeSR: ("plain", False)}


def test_initial_weights_of_follow_up_work():
    layer = SRWM(512, 4, init_scale=0.5, beta_init=-1.0, q_scale=0.01)
    W_y, W_q, W_k, w_beta = srwm.unpack(layer.W.detach() * 128**0.5)
    for block, expected in ((W_y, 0.5), (W_q, 0.01), (W_k, 0.5), (w_beta, 0.5)):
        assert block.std().item() == pytest.approx(expected, rel=0.06)
    assert layer.W[..., -4:].mean().item() == pytest.approx(-1, abs=0.02)
    layer = SRWM(512, 4, init="uniform", init_scale=0.5, q_scale=0.01)
    for block, expected in zip(srwm.unpack(layer.W.detach()), (0.5, 0.01, 0.5, 0.5), strict=True):
        assert block.abs().max().item() == pytest.approx(expected, rel=0.01)
        assert block.std().item() == pytest.approx(expected / 3**0.5, rel=0.06)
    with pytest.raises(
        ValueError, match=r"SRWM: beta_init: expected 0 with init 'uniform', .*got -1\.0; leave"
    ):
        SRWM(d_model, H, init="uniform", beta_init=-1.0)


@pytest.mark.parametrize("input_softmax", [False, True])
@pytest.mark.parametrize("read", ["raw", "softmax"])
def test_another_reader_changes_outputs_alone(read, input_softmax):
    layer = SRWM(d_model, H, residual="none", input_softmax=input_softmax, read=read)
    other = SRWM(d_model, H, residual="none", input_softmax=input_softmax)
    other.load_state_dict(layer.state_dict())
    h = torch.randn(2, 5, d_model)
    (out, state), (plain, same) = layer(h), other(h)
    torch.testing.assert_close(state, same)
    assert torch.equal(out, plain) == (input_softmax == (read == "softmax"))
    assert f"read='{read}'" in repr(layer)


def test_published_weights_with_a_norm_of_the_heads():
    layer = SRWM(d_model, H, input_softmax=True, head_norm=True, q_scale=0.01)
    with torch.no_grad():
        layer.y_lnorm.weight.normal_()
    weights = published(layer)
    assert {"y_lnorm.weight", "y_lnorm.bias"} <= weights.keys()
    other = SRWM(d_model, H, input_softmax=True, head_norm=True)
    assert not any(other.load_state_dict(weights))
    h = torch.randn(2, 5, d_model)
    assert torch.equal(other(h)[0], layer(h)[0])
    layer.reset_parameters()
    assert (layer.y_lnorm.weight == 1).all()
