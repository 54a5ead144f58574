import pytest
import torch

from examples.rl.cores import Lstm, build_core
from srwm.nn import (
    SRWM,
    DeltaDelta,
    DeltaNet,
    DeltaRNN,
    FakeSR,
    LinearAttention,
    RecurrentDeltaNet,
    SRDelta,
)

B, L, N_INPUTS, D = 3, 9, 7, 8
PROGRAMMED = ("deltanet", "linear", "recurrent_delta", "delta_rnn", "delta_delta", "delta_cde")
CORES = (
    "feedforward",
    "lstm",
    "deeper",
    "srwm",
    "srwm_no_carry",
    "fake_sr",
    "sr_delta",
    *PROGRAMMED,
    "self_modifying_titans",
)
STATES = {"lstm": 1, "srwm": 2, "sr_delta": 2, "self_modifying_titans": 2} | dict.fromkeys(PROGRAMMED, 2)
each_core = pytest.mark.parametrize("name", CORES)


def small(name: str, **options):
    torch.manual_seed(0)
    sizes = {"n_layers": 2, "n_heads": 2, "d_model": D, "d_ff": 12, "lstm_size": D}
    return build_core(name, N_INPUTS, **{**sizes, **options}).double()


def inputs(*lead: int) -> torch.Tensor:
    return torch.randn(*lead, N_INPUTS, dtype=torch.double)


def no_ends(count: int = B, length: int = L) -> torch.Tensor:
    return torch.zeros(count, length, dtype=torch.bool)


def some_ends() -> torch.Tensor:
    dones = no_ends()
    dones[0, [0, 4]] = True
    dones[1, [4, 5, 8]] = True
    return dones


@each_core
def test_initial_states_are_those_of_no_states_at_all(name):
    core = small(name)
    states = core.initial_state(B)
    assert len(states) == core.n_states == STATES.get(name, 0)
    assert not any(state.any() or state.requires_grad for state in states)
    x = inputs(B, L)
    out, last = core(x, some_ends())
    assert out.shape == (B, L, core.n_outputs)
    assert [state.shape for state in last] == [state.shape for state in states]
    torch.testing.assert_close(core(x, some_ends(), states), (out, last))
    alone, none = core(x, some_ends(), states, return_states=False)
    assert none == []
    torch.testing.assert_close(alone, out)


def test_lstm_by_hand_forgets_where_an_episode_begins():
    core = small("lstm")
    weights, dones = core.state_dict(), some_ends()
    x, start = inputs(B, L), torch.randn(B, 2, D).double()
    (h, c), outs = start.unbind(1), []
    for t in range(L):
        h, c = (torch.where(dones[:, t, None], 0, a) for a in (h, c))
        gates = x[:, t] @ weights["lstm.weight_ih_l0"].T + weights["lstm.bias_ih_l0"]
        gates = gates + h @ weights["lstm.weight_hh_l0"].T + weights["lstm.bias_hh_l0"]
        i, f, g, o = gates.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outs.append(h)
    out, (state,) = core(x, dones, [start])
    torch.testing.assert_close(out, torch.stack(outs, 1))
    torch.testing.assert_close(state, torch.stack([h, c], 1))


def test_the_lstm_runs_in_one_stretch_where_no_episode_ends():
    core, stretches = small("lstm"), []
    core.lstm.register_forward_pre_hook(lambda _, received: stretches.append(received[0].shape[1]))
    core(inputs(B, L), no_ends())
    dones = no_ends()
    dones[2, 0] = True
    core(inputs(B, L), dones)
    core(inputs(B, L), some_ends())
    assert stretches == [9, 9, 4, 1, 3, 1]


def test_without_carry_an_srwm_is_a_feed_forward_layer():
    core = small("srwm_no_carry", n_layers=1)
    x = inputs(B, L).requires_grad_()
    out, states = core(x, no_ends())
    assert states == []
    (mixer,), (feed_forward,) = core.mixers, core.feed_forwards
    layer, h = mixer.layer, core.input_proj(x)
    y = torch.einsum("blhd,hde->blhe", h.unflatten(-1, (2, 4)).softmax(-1), layer.W[..., :4])
    by_hand, _ = feed_forward(h + y.flatten(-2) @ layer.out_linear.weight.T)
    torch.testing.assert_close(out, by_hand)
    cotangent = torch.randn_like(out)
    wanted = [x, *core.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(out, wanted, cotangent), torch.autograd.grad(by_hand, wanted, cotangent)
    )
    with torch.no_grad():
        layer.W[..., 4:].normal_()  # queries, keys and rates
    assert torch.equal(core(x, no_ends())[0], out)
    assert (core(x, no_ends(), return_states=False)[0] - small("srwm", n_layers=1)(x, no_ends())[0]).any()


def test_deeper_is_feed_forward_blocks_alone():
    core, x = small("deeper"), inputs(B, L)
    first, second = core.feed_forwards
    torch.testing.assert_close(core(x, no_ends())[0], second(first(core.input_proj(x))[0])[0])
    assert small("feedforward")(x, no_ends())[0] is x


def test_each_layer_is_followed_by_its_feed_forward_block():
    core, x = small("srwm"), inputs(B, L)
    h = core.input_proj(x)
    for mixer, feed_forward in zip(core.mixers, core.feed_forwards, strict=True):
        h, _ = feed_forward(mixer(h)[0])
    torch.testing.assert_close(core(x, no_ends())[0], h)


@each_core
def test_every_parameter_learns(name):
    core = small(name)
    out, _ = core(inputs(B, L), no_ends())
    for (parameter, weight), gradient in zip(
        core.named_parameters(),
        torch.autograd.grad(out.square().sum(), list(core.parameters())) if name != "feedforward" else (),
        strict=True,
    ):
        assert gradient.shape == weight.shape
        assert gradient.abs().max() > 1e-12, parameter


@pytest.mark.parametrize("name", ["srwm", "srwm_no_carry", "sr_delta"])
def test_options_reach_the_layers(name):
    plain = small(name, d_model=64)
    core = small(name, d_model=64, beta_init=3.0, q_scale=0.0, input_softmax=False, residual="pre_norm")
    layers, published = (
        [mixer.layer if name == "srwm_no_carry" else mixer for mixer in built.mixers]
        for built in (core, plain)
    )
    for layer in layers:
        assert type(layer) is (SRDelta if name == "sr_delta" else SRWM)
        assert layer.W[..., -4:].mean().item() == pytest.approx(3, abs=0.2)
        assert not layer.W[..., -68:-36].any()
        assert (layer.input_softmax, layer.residual) == (False, "pre_norm")
    for layer in published:
        assert (layer.input_softmax, layer.residual, layer.layer_norm) == (True, "plain", None)
        assert layer.W[..., -68:-36].any()
        assert layer.W[..., -4:].mean().item() == pytest.approx(0, abs=0.2)


def test_layers_of_the_other_cores():
    for mixer in small("fake_sr").mixers:
        assert (type(mixer), mixer.input_softmax, mixer.residual) == (FakeSR, False, "plain")
    for mixer in small("fake_sr", input_softmax=True, residual="norm_skip").mixers:
        assert (mixer.input_softmax, mixer.residual) == (True, "norm_skip")
    for name, kind in (("deltanet", DeltaNet), ("delta_delta", DeltaDelta)):
        for mixer in small(name).mixers:
            assert (type(mixer), mixer.eps) == (kind, 1e-5)
    for mixer in small("linear").mixers:
        phi = mixer.feature_map
        assert (type(mixer), phi.name, phi.sum_norm, phi.eps) == (LinearAttention, "elu", True, 1e-5)
        assert (mixer.normalise, mixer.scale) == (None, 1)
    for mixer in small("delta_rnn").mixers:
        assert (type(mixer), mixer.version, mixer.feature_map.name) == (DeltaRNN, 2, "softmax")
    assert [type(mixer) for mixer in small("recurrent_delta").mixers] == [RecurrentDeltaNet] * 2
    strong, weak = small("deeper", input_gain=20.0), small("deeper")
    torch.testing.assert_close(strong.input_proj.weight, 20 * weak.input_proj.weight)


@each_core
def test_states_keep_their_precision_under_autocast(name):
    core = small(name).float()
    with torch.autocast("cpu", torch.bfloat16):
        _, states = core(inputs(B, L).bfloat16(), some_ends())
        out, states = core(inputs(B, L).bfloat16(), some_ends(), states)
    assert {state.dtype for state in states} <= {torch.float32}
    if name != "feedforward":
        out.float().square().mean().backward()
        assert all(parameter.grad.isfinite().all() for parameter in core.parameters())


def test_cores_refuse_what_they_do_not_have():
    with pytest.raises(
        ValueError, match=r"build_core: core must be one of feedforward, lstm, .*, got 'gru'"
    ):
        build_core("gru", 3)
    with pytest.raises(
        ValueError, match=r"q_scale belongs to core srwm or srwm_no_carry or sr_delta, .*'lstm'"
    ):
        small("lstm", q_scale=0.01)
    with pytest.raises(ValueError, match=r"build_core: beta_init belongs to core srwm .* core 'fake_sr'"):
        small("fake_sr", beta_init=-1.0)
    with pytest.raises(ValueError, match=r"build_core: input_softmax belongs to .* core 'deltanet'"):
        small("deltanet", input_softmax=False)
    with pytest.raises(ValueError, match=r"build_core: residual belongs to .* core 'deeper'"):
        small("deeper", residual="pre_norm")
    with pytest.raises(ValueError, match=r"build_core: input_gain belongs to .* core 'feedforward'"):
        small("feedforward", input_gain=2.0)
    assert isinstance(build_core("lstm", 3, lstm_size=4), Lstm)
