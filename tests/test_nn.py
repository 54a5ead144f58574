"""The layers: residual forms, state, reset, parameters of the published code."""

from __future__ import annotations

import pytest
import torch

import srwm
from benchmarks.peers import eager_forward
from srwm.nn import SRWM, FeedForward

B, L, H, D = 3, 9, 4, 8
d_model = H * D


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def by_hand(layer, h, x, residual):
    """The layer's equations with the eager loop in the operator's place; x is the op's input."""
    x = x.reshape(B, L, H, D).transpose(1, 2)
    if layer.input_softmax:
        x = x.softmax(-1)
    y, _ = eager_forward(x, layer.W)
    return residual + y.transpose(1, 2).reshape(B, L, d_model) @ layer.out_linear.weight.T


@pytest.mark.parametrize("input_softmax", [False, True])
@pytest.mark.parametrize("residual", ["norm_skip", "plain", "pre_norm"])
def test_residual_forms(residual, input_softmax):
    layer = SRWM(d_model, H, residual=residual, input_softmax=input_softmax)
    if layer.layer_norm is not None:
        torch.nn.init.normal_(layer.layer_norm.weight)
    h = torch.randn(B, L, d_model, requires_grad=True)
    norm = layer.layer_norm
    expected = {
        "norm_skip": lambda: by_hand(layer, h, h, norm(h)),
        "plain": lambda: by_hand(layer, h, h, h),
        "pre_norm": lambda: by_hand(layer, h, norm(h), h),
    }[residual]()
    out, _ = layer(h)
    torch.testing.assert_close(out, expected)
    cotangent = torch.randn_like(out)
    wanted = (h, *layer.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(out, wanted, cotangent),
        torch.autograd.grad(expected, wanted, cotangent),
        rtol=1e-4,
        atol=1e-4,
    )


def test_two_segments_with_carried_state_are_the_whole():
    layer = SRWM(d_model, H).double()
    h = torch.randn(B, L, d_model, dtype=torch.double, requires_grad=True)
    out, state = layer(h)
    first, carried = layer(h[:, :4])
    second, last = layer(h[:, 4:], carried)
    torch.testing.assert_close(torch.cat([first, second], 1), out)
    torch.testing.assert_close(last, state)
    wanted = (h, *layer.parameters())
    cotangents = torch.randn_like(out), torch.randn_like(state)
    whole = torch.autograd.grad((out, state), wanted, cotangents)
    halves = torch.autograd.grad((torch.cat([first, second], 1), last), wanted, cotangents)
    torch.testing.assert_close(halves, whole)


def test_state_is_the_shift_from_the_parameters():
    layer = SRWM(d_model, H).double()
    h = torch.randn(B, L, d_model, dtype=torch.double)
    _, state = layer(h)
    before, _ = layer(h, state)
    with torch.no_grad():
        layer.W += 0.1  # an optimiser step between segments moves the effective weights
    x = h.unflatten(-1, (H, D)).transpose(1, 2)
    _, W_next = srwm.forward(x, layer.W + state, return_state=True)
    after, shifted = layer(h, state)
    torch.testing.assert_close(shifted, W_next - layer.W)
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("resets", [[0], [5], [0, 3, 8], []])
def test_reset_equals_stepping_with_the_state_dropped(resets):
    layer = SRWM(d_model, H).double()
    h = torch.randn(B, L, d_model, dtype=torch.double, requires_grad=True)
    start = (0.1 * torch.randn(B, H, D, 3 * D + 4, dtype=torch.double)).requires_grad_()
    reset = torch.zeros(B, L, dtype=torch.bool)
    reset[1, resets] = True
    out, last = layer(h, start, reset)
    outs, state = [], start
    for t in range(L):
        state = torch.where(reset[:, t, None, None, None], torch.zeros_like(state), state)
        one, state = layer(h[:, t : t + 1], state)
        outs.append(one)
    stepped = torch.cat(outs, 1)
    torch.testing.assert_close(out, stepped)
    torch.testing.assert_close(last, state)
    wanted = (h, start, *layer.parameters())
    cotangents = torch.randn_like(out), torch.randn_like(last)
    torch.testing.assert_close(
        torch.autograd.grad((out, last), wanted, cotangents),
        torch.autograd.grad((stepped, state), wanted, cotangents),
    )


def test_reset_without_a_state_and_one_step_at_a_time():
    layer = SRWM(d_model, H).double()
    h = torch.randn(B, L, d_model, dtype=torch.double)
    reset = torch.rand(B, L) < 0.3
    zero = torch.zeros(B, H, D, 3 * D + 4, dtype=torch.double)
    whole, last = layer(h, None, reset)
    torch.testing.assert_close(layer(h, zero, reset), (whole, last))
    state, outs = None, []
    for t in range(L):
        out, state = layer(h[:, t : t + 1], state, reset[:, t : t + 1])
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1), whole)
    torch.testing.assert_close(state, last)


def test_an_unwanted_state_changes_nothing_else():
    layer = SRWM(d_model, H).double()
    h = torch.randn(B, L, d_model, dtype=torch.double, requires_grad=True)
    start = 0.1 * torch.randn(B, H, D, 3 * D + 4, dtype=torch.double)
    reset = torch.rand(B, L) < 0.3
    for arguments in ((h,), (h, start), (h, None, reset), (h, start, reset), (h[:, :1], start)):
        out, _ = layer(*arguments)
        alone, none = layer(*arguments, return_state=False)
        assert none is None
        torch.testing.assert_close(alone, out, rtol=0, atol=0)
        wanted = (h, *layer.parameters())
        torch.testing.assert_close(
            torch.autograd.grad(alone.square().sum(), wanted),
            torch.autograd.grad(out.square().sum(), wanted),
        )


def test_leading_axes_of_state_broadcast():
    layer = SRWM(d_model, H).double()
    support = torch.randn(B, L, d_model, dtype=torch.double)
    queries = torch.randn(B, 5, 1, d_model, dtype=torch.double)
    _, state = layer(support)
    out, _ = layer(queries, state.unsqueeze(1))
    for i in range(5):
        torch.testing.assert_close(out[:, i], layer(queries[:, i], state)[0])


def test_published_parameter_names_load():
    layer, other = SRWM(d_model, H), SRWM(d_model, H)
    W_y, W_q, W_k, w_b = (block.unsqueeze(0) for block in srwm.unpack(layer.W.detach()))
    published = {
        "W_y": W_y,
        "W_q": W_q,
        "W_k": W_k,
        "w_b": w_b,
        "out_linear.weight": layer.out_linear.weight,
        "layer_norm.weight": layer.layer_norm.weight,
        "layer_norm.bias": layer.layer_norm.bias,
    }
    untouched = dict(published)
    other.load_state_dict(published)
    assert published.keys() == untouched.keys()
    for name, parameter in layer.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], parameter)
    stacked = torch.nn.Sequential(torch.nn.Identity(), other)
    stacked.load_state_dict({f"1.{name}": a for name, a in published.items()})
    plain = SRWM(d_model, H, residual="plain")
    plain.load_state_dict(published)  # with the layer norm that its published form has, unused
    torch.testing.assert_close(plain.W, layer.W)


def test_initial_weights():
    layer = SRWM(512, 4, beta_init=-1.0, q_scale=0.01)
    W_y, W_q, W_k, w_beta = srwm.unpack(layer.W.detach() * 128**0.5)
    assert W_y.std().item() == pytest.approx(1, rel=0.03)
    assert W_k.std().item() == pytest.approx(1, rel=0.03)
    assert W_q.std().item() == pytest.approx(0.01, rel=0.03)
    assert layer.W[..., -4:].mean().item() == pytest.approx(-1, abs=0.02)
    assert w_beta.std().item() == pytest.approx(1, rel=0.06)


def test_parameter_counts_of_the_paper():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(SRWM(256, 16)) == 79_360
    assert count(FeedForward(256, 4 * 256)) == 526_080
    assert count(FeedForward(256, 8 * 256)) == 1_051_392


def test_layer_compiles_as_one_graph():
    layer = SRWM(d_model, H)
    h, reset = torch.randn(B, L, d_model), torch.rand(B, L) < 0.2
    state = layer(h)[1].detach()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(h, state, reset), layer(h, state, reset))


def test_feed_forward_is_pre_norm():
    block = FeedForward(d_model, 50)
    h = torch.randn(B, L, d_model)
    first, last = block.ff_layers[0], block.ff_layers[3]
    torch.testing.assert_close(block(h), h + last(first(block.layer_norm(h)).relu()))


def test_layer_errors_name_the_argument():
    with pytest.raises(ValueError, match="SRWM: d_model: expected a multiple of n_heads = 5, got 32"):
        SRWM(32, 5)
    with pytest.raises(ValueError, match="SRWM: residual: expected one of norm_skip, plain, pre_norm"):
        SRWM(32, 4, residual="post_norm")
    with pytest.raises(ValueError, match=r"SRWM: h: expected shape .*d_model=32\), got \(3, 9, 31\)"):
        SRWM(32, 4)(torch.zeros(3, 9, 31))
