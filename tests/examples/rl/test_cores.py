"""The cores that are of agents alone; what holds for all is in tests/examples/training/test_cores.py."""

import pytest
import torch

from examples.rl.cores import build_core

B, L, N_INPUTS, D = 3, 9, 7, 8


def small(name: str, **options):
    torch.manual_seed(0)
    sizes = {"n_layers": 2, "n_heads": 2, "d_model": D, "d_ff": 12, "lstm_size": 6}
    return build_core(name, N_INPUTS, **{**sizes, **options}).double()


def inputs() -> torch.Tensor:
    return torch.randn(B, L, N_INPUTS, dtype=torch.double)


@pytest.mark.parametrize("name", ["feedforward", "srwm_no_carry"])
def test_nothing_is_carried(name):
    core, x, resets = small(name), inputs(), torch.rand(B, L) < 0.5
    out, states = core(x)
    assert out.shape == (B, L, core.n_outputs)
    assert states == core.initial_state(B) == []
    assert core.n_states == 0
    assert torch.equal(core(x, states, resets, return_states=False)[0], out)
    if name == "feedforward":
        assert out is x
        assert list(core.parameters()) == []


def test_without_carry_an_srwm_is_a_feed_forward_layer():
    core = small("srwm_no_carry", n_layers=1)
    x = inputs().requires_grad_()
    out, _ = core(x)
    layer, feed_forward = core.core.stack.layers
    h = core.core.input_proj(x)
    y = torch.einsum("blhd,hde->blhe", h.unflatten(-1, (2, 4)).softmax(-1), layer.W[..., :4])
    by_hand, _ = feed_forward(h + y.flatten(-2) @ layer.out_linear.weight.T)
    torch.testing.assert_close(out, by_hand)
    cotangent, wanted = torch.randn_like(out), [x, *core.parameters()]
    found, expected = (torch.autograd.grad(result, wanted, cotangent) for result in (out, by_hand))
    torch.testing.assert_close(found, expected)
    carrying = small("srwm", n_layers=1)
    assert all(torch.equal(*pair) for pair in zip(core.parameters(), carrying.parameters(), strict=True))
    assert (out - carrying(x)[0]).abs().max() > 1e-9
    with torch.no_grad():
        layer.W[..., 4:].normal_()  # queries, keys and rates
    assert torch.equal(core(x)[0], out)


def test_options_reach_the_cores():
    core = small("srwm_no_carry", residual="pre_norm", input_softmax=False, input_gain=20.0).core
    assert [(m.input_softmax, m.residual) for m in core.stack.layers[::2]] == [(False, "pre_norm")] * 2
    torch.testing.assert_close(core.input_proj.weight, 20 * small("srwm").input_proj.weight)
    lstm = small("lstm")
    assert (lstm.n_outputs, lstm.n_states) == (6, 1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("transformer", {}, "core must be one of feedforward, lstm, .*, got 'transformer'"),
        ("feedforward", {"input_gain": 2.0}, "input_gain belongs to .* core 'feedforward'"),
        ("feedforward", {"residual": "pre_norm"}, "residual belongs to .* core 'feedforward'"),
        ("lstm", {"q_scale": 0.01}, "q_scale belongs to core srwm .*'lstm'"),
    ],
)
def test_cores_refuse_what_they_do_not_have(name, options, message):
    with pytest.raises(ValueError, match=f"build_core: {message}"):
        small(name, **options)
