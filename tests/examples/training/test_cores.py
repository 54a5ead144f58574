"""What holds for every core of every program, with resets and padding; and what each is made of."""

import math
from typing import get_args

import pytest
import torch
from torch import nn

from examples.training.cores import CoreName, build_core
from srwm.nn import (
    SRWM,
    DeltaCDE,
    DeltaDelta,
    DeltaNet,
    DeltaRNN,
    FakeSR,
    FeedForward,
    LinearAttention,
    RecurrentDeltaNet,
    SelfModifyingTitans,
    SRDelta,
)

B, L, N_INPUTS, N, D, H = 3, 9, 7, 3, 8, 2
# The layer of each core, in the published learners and in the published agents.
MIXERS = {
    "srwm": (
        lambda: SRWM(D, H, residual="norm_skip"),
        lambda: SRWM(D, H, residual="plain", input_softmax=True),
    ),
    "srwm_read": (
        lambda: SRWM(D, H, residual="norm_skip", input_softmax=True, read="raw"),
        lambda: SRWM(D, H, residual="plain", input_softmax=True, read="raw"),
    ),
    "sr_delta": (
        lambda: SRDelta(D, H, residual="norm_skip", input_softmax=False),
        lambda: SRDelta(D, H, residual="plain", input_softmax=True),
    ),
    "fake_sr": (lambda: FakeSR(D, H, residual="norm_skip"), lambda: FakeSR(D, H, residual="plain")),
    "deltanet": (lambda: DeltaNet(D, H), lambda: DeltaNet(D, H, eps=1e-5)),
    "deltanet_negative": (
        lambda: DeltaNet(D, H, beta_range=2),
        lambda: DeltaNet(D, H, beta_range=2, eps=1e-5),
    ),
    "linear": (lambda: LinearAttention(D, H), lambda: LinearAttention(D, H, sum_norm=True, eps=1e-5)),
    "recurrent_delta": (lambda: RecurrentDeltaNet(D, H),),
    "delta_rnn": (lambda: DeltaRNN(D, H), lambda: DeltaRNN(D, H, feature_map="softmax")),
    "delta_delta": (lambda: DeltaDelta(D, H), lambda: DeltaDelta(D, H, eps=1e-5)),
    "delta_cde": (lambda: DeltaCDE(D, H),),
    "self_modifying_titans": (lambda: SelfModifyingTitans(D, H),),
    "deeper": (lambda: None,),
}
PUBLISHED = ("few_shot", "agents")
STACKS = [(name, published) for name, own in MIXERS.items() for published in PUBLISHED[: len(own)]]
RECURRENT = [*STACKS, ("lstm", "few_shot")]
CORES = [*RECURRENT, ("transformer", "few_shot")]
STATELESS = ("deeper", "fake_sr", "transformer")
each_recurrent_core = pytest.mark.parametrize(("name", "published"), RECURRENT)
each_core = pytest.mark.parametrize(("name", "published"), CORES)


def small(name: str, published: str = "few_shot", n_outputs: int | None = N, **options):
    torch.manual_seed(0)
    sizes = {"n_layers": 2, "n_heads": H, "d_model": D, "d_ff": 12}
    return build_core(name, N_INPUTS, n_outputs, published=published, **{**sizes, **options}).double()


def inputs(*lead: int) -> torch.Tensor:
    return torch.randn(*lead, N_INPUTS, dtype=torch.double)


def some_resets() -> torch.Tensor:
    resets = torch.zeros(B, L, dtype=torch.bool)
    resets[0, [0, 4]] = True
    resets[1, [4, 5, 8]] = True
    return resets


def some_padding() -> torch.Tensor:
    """A mask: false before, between and behind the steps, and at resets."""
    mask = torch.ones(B, L, dtype=torch.bool)
    mask[0, [0, 1, 5]] = False
    mask[1, [5, 7, 8]] = False
    return mask


FLAGS = {
    "whole": {},
    "resets": {"resets": some_resets()},
    "padding": {"mask": some_padding()},
    "both": {"resets": some_resets(), "mask": some_padding()},
}
with_flags = pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)


def assert_same_gradients(results, others, wanted):
    cotangents = [torch.randn_like(result) for result in results]
    torch.testing.assert_close(
        torch.autograd.grad(results, wanted, cotangents), torch.autograd.grad(others, wanted, cotangents)
    )


def test_the_table_has_every_core():
    assert {name for name, _ in CORES} == set(get_args(CoreName))


@pytest.mark.parametrize(("name", "published"), STACKS)
@pytest.mark.parametrize("n_outputs", [N, None])
def test_layers_and_initial_weights_by_hand(name, published, n_outputs):
    """With a seed the weights are drawn in the order of the published results."""
    core, x = small(name, published, n_outputs), inputs(B, L)
    torch.manual_seed(0)
    first = nn.Linear(N_INPUTS, D)
    mixers = [MIXERS[name][PUBLISHED.index(published)]() for _ in range(2)]
    blocks = [FeedForward(D, 12) for _ in range(2)]
    last = nn.Identity() if n_outputs is None else nn.Linear(D, N)
    h = first.double()(x)
    for mixer, block in zip(mixers, blocks, strict=True):
        h = h if mixer is None else mixer.double()(h)[0]
        h, _ = block.double()(h)
    assert torch.equal(core(x)[0], last.double()(h))
    assert (core.n_inputs, core.n_outputs) == (N_INPUTS, n_outputs or D)


def step_by_step(core, x, states, resets=None, mask=None):
    """Outputs (steps that count, N) and last states of each row by itself, a step at a time."""
    outs, ends = [], []
    for row in range(B):
        carried = None if states is None else [state[row] for state in states]
        for t in range(L):
            if mask is not None and not mask[row, t]:
                continue
            if resets is not None and resets[row, t]:
                carried = None
            out, carried = core(x[row, t : t + 1], carried)
            outs.append(out)
        ends.append(core.initial_state() if carried is None else carried)
    return torch.cat(outs), [torch.stack(parts) for parts in zip(*ends, strict=True)]


@pytest.mark.parametrize("carried", [False, True])
@each_recurrent_core
@with_flags
def test_a_call_is_each_row_by_itself_a_step_at_a_time(name, published, flags, carried):
    core, x = small(name, published), inputs(B, L)
    states = [state.detach().requires_grad_() for state in core(inputs(B, 5))[1]] if carried else None
    mask = flags.get("mask", torch.ones(B, L, dtype=torch.bool))
    x[~mask] = math.nan
    x.requires_grad_()
    out, last = core(x, states, **flags)
    steps, ends = step_by_step(core, x, states, **flags)
    assert out.shape == (B, L, N)
    assert out.isfinite().all()
    torch.testing.assert_close((out[mask], last), (steps, ends))
    assert_same_gradients((out[mask], *last), (steps, *ends), (x, *(states or []), *core.parameters()))
    alone, none = core(x, states, **flags, return_states=False)
    assert none == []
    torch.testing.assert_close(alone[mask], out[mask])
    zeros = core.initial_state(B)
    assert len(zeros) == core.n_states == (0 if name in STATELESS else 2)
    assert not any(state.any() or state.requires_grad for state in zeros)


@each_recurrent_core
def test_steps_that_are_all_padding_change_no_state(name, published):
    core = small(name, published)
    _, states = core(inputs(B, L))
    resets = torch.ones(1, 4, dtype=torch.bool)
    _, again = core(inputs(B, 4), states, resets, torch.zeros(4, dtype=torch.bool))
    torch.testing.assert_close(again, states)


def test_padding_of_a_transformer_is_as_if_it_were_not_there():
    core, mask, x = small("transformer"), some_padding(), inputs(B, L)
    x[~mask] = math.nan
    out, states = core(x.requires_grad_(), mask=mask)
    assert states == []
    assert out.isfinite().all()
    alone = torch.cat([core(x[row][mask[row]])[0] for row in range(B)])
    torch.testing.assert_close(out[mask], alone)
    assert_same_gradients([out[mask]], [alone], (x, *core.parameters()))


@each_recurrent_core
def test_any_leading_axes_and_states_that_broadcast(name, published):
    core = small(name, published)
    support, queries = inputs(2, 3, 4), inputs(2, 3, 5, 1)
    _, states = core(support)
    answers, none = core(queries, [state.unsqueeze(2) for state in states], return_states=False)
    assert none == []
    assert answers.shape == (2, 3, 5, 1, N)
    for i in range(2):
        for j in range(3):
            one, own = core(support[i, j])  # no leading axis at all
            assert one.shape == (4, N)
            for state, all_states in zip(own, states, strict=True):
                torch.testing.assert_close(all_states[i, j], state)
            for q in range(5):
                alone, _ = core(queries[i, j, q], own)
                torch.testing.assert_close(answers[i, j, q], alone)


@each_core
def test_no_sequences_at_all(name, published):
    core = small(name, published)
    outputs, states = core(inputs(0, 4))
    assert outputs.shape == (0, 4, N)
    if name != "transformer":
        again, _ = core(inputs(0, 5, 1), [state.unsqueeze(1) for state in states])
        assert again.shape == (0, 5, 1, N)


@each_core
@pytest.mark.parametrize("n_outputs", [N, None])
def test_every_parameter_learns(name, published, n_outputs):
    core = small(name, published, n_outputs)
    states = None if name == "transformer" else core(inputs(4, 3))[1]
    outputs, _ = core(inputs(4, 1 if states else 3), states)  # a query after its support
    gradients = torch.autograd.grad(outputs.square().sum(), list(core.parameters()))
    for (parameter, _), gradient in zip(core.named_parameters(), gradients, strict=True):
        if parameter.endswith("self_attn.in_proj_bias"):  # a shift of all keys moves no softmax
            gradient = torch.cat([gradient[:D], gradient[2 * D :]])
        assert gradient.abs().max() > 1e-12, parameter
    if name == "srwm":
        for mixer in core.stack.layers[::2]:  # among them what makes queries, keys and rates
            outputs, _ = core(inputs(4, 1), core(inputs(4, 3))[1])
            (gW,) = torch.autograd.grad(outputs.square().sum(), [mixer.W])
            for block in gW.split([4, 4, 4, 1, 1, 1, 1], -1)[:4]:
                assert block.abs().max() > 1e-12


@pytest.mark.parametrize("n_outputs", [N, None])
def test_an_lstm_by_hand_forgets_where_a_sequence_begins(n_outputs):
    core = small("lstm", n_layers=1, n_outputs=n_outputs)
    weights, resets = core.state_dict(), some_resets()
    x, start = inputs(B, L), torch.randn(B, 2, D).double()
    (h, c), outs = start.unbind(1), []
    for t in range(L):
        h, c = (torch.where(resets[:, t, None], 0, a) for a in (h, c))
        gates = x[:, t] @ weights["lstm.weight_ih_l0"].T + weights["lstm.bias_ih_l0"]
        gates = gates + h @ weights["lstm.weight_hh_l0"].T + weights["lstm.bias_hh_l0"]
        i, f, g, o = gates.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outs.append(h if n_outputs is None else core.out_layer(h))
    out, (state,) = core(x, [start], resets)
    torch.testing.assert_close(out, torch.stack(outs, 1))
    torch.testing.assert_close(state, torch.stack([h, c], 1))


def test_an_lstm_runs_in_as_few_stretches_as_resets_and_padding_leave():
    core, stretches = small("lstm"), []
    core.lstm.register_forward_pre_hook(lambda _, received: stretches.append(received[0].shape[1]))
    resets, behind = torch.zeros(B, L, dtype=torch.bool), torch.arange(L) < torch.tensor([[9], [4], [6]])
    for options in (
        {},
        {"resets": resets},
        {"resets": resets | (torch.arange(L) == 0)},
        {"mask": behind, "return_states": False},
    ):
        core(inputs(B, L), **options)
        assert stretches == [9], options
        stretches.clear()
    for options, expected in (
        ({"resets": some_resets()}, [4, 1, 3, 1]),
        ({"mask": behind}, [4, 2, 3]),
        ({"mask": behind, "resets": some_resets(), "return_states": False}, [4, 5]),
    ):
        core(inputs(B, L), **options)
        assert stretches == expected, options
        stretches.clear()


def test_a_transformer_against_torchs_encoder():
    core, x = small("transformer"), inputs(2, B, L)
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(D, H, 12, 0.0, batch_first=True, norm_first=True),
        2,
        nn.LayerNorm(D),
        enable_nested_tensor=False,
    ).double()
    first, second = core.layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)
    for own, theirs in zip([*core.layers, core.norm], [*encoder.layers, encoder.norm], strict=True):
        theirs.load_state_dict(own.state_dict())
    positions = torch.tensor(
        [[f(t * 10_000 ** (-i / 4)) for f in (math.sin, math.cos) for i in range(4)] for t in range(L)]
    ).double()
    h = (core.input_proj(x) + positions).flatten(0, 1)
    future = torch.ones(L, L, dtype=torch.bool).triu(1)
    expected = core.out_layer(encoder(h, future)).unflatten(0, (2, B))
    torch.testing.assert_close(core(x)[0], expected, rtol=1e-5, atol=1e-6)
    core.eval()
    with torch.no_grad():  # torch has another way then
        torch.testing.assert_close(core(x)[0], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="build_core: d_model must be a multiple of n_heads = 3, got 8"):
        small("transformer", n_heads=3)
    assert small("transformer", n_heads=1, d_model=5)(x)[0].shape == (2, B, L, N)


@each_core
def test_dropout_drops_in_training_alone(name, published):
    core = small(name, published, dropout=0.5)
    x = inputs(4, 3)
    assert (core(x)[0] - core(x)[0]).abs().max() > 1e-3
    core.eval()
    assert torch.equal(core(x)[0], core(x)[0])
    assert {m.p for m in core.modules() if isinstance(m, nn.Dropout)} == {0.5}


def test_dropout_of_the_lstm_is_between_its_layers_and_before_the_output():
    x = inputs(4, 3)
    seen = []
    one = small("lstm", n_layers=1, dropout=0.5)
    one.out_layer.register_forward_pre_hook(lambda _, received: seen.append(received[0]))
    (state, again) = (one(x)[1][0] for _ in range(2))
    assert torch.equal(state, again)
    assert 0.2 < (seen[0] == 0).double().mean() < 0.8
    two = small("lstm", n_layers=2, dropout=0.5)
    (lower, upper), (lower_again, upper_again) = two(x)[1], two(x)[1]
    assert torch.equal(lower, lower_again)
    assert not torch.equal(upper, upper_again)


@each_core
def test_input_gain_scales_what_meets_the_inputs(name, published):
    plain, strong = small(name, published), small(name, published, input_gain=20.0)
    names = [n for n, p in plain.named_parameters() if not torch.equal(p, strong.get_parameter(n))]
    assert names == ["lstm.weight_ih_l0" if name == "lstm" else "input_proj.weight"]
    torch.testing.assert_close(strong.get_parameter(names[0]), 20 * plain.get_parameter(names[0]))


@pytest.mark.parametrize("published", PUBLISHED)
@pytest.mark.parametrize("name", ["srwm", "srwm_read", "sr_delta"])
def test_options_reach_the_layers(name, published):
    options = {} if name == "srwm_read" else {"input_softmax": published == "few_shot"}
    changed = {"beta_init": 3.0, "q_scale": 0.0, "residual": "pre_norm", **options}
    core, usual = (small(name, published, d_model=64, **given) for given in (changed, {}))
    for mixer in core.stack.layers[::2]:
        assert mixer.W[..., -4:].mean().item() == pytest.approx(3, abs=0.2)
        assert not mixer.W[..., -68:-36].any()
        assert mixer.residual == "pre_norm"
        assert mixer.input_softmax == options.get("input_softmax", True)
    for mixer in usual.stack.layers[::2]:
        assert mixer.W[..., -68:-36].any()
        assert mixer.W[..., -4:].mean().item() == pytest.approx(0, abs=0.2)


def test_options_reach_a_layer_that_never_writes():
    core = small("fake_sr", input_softmax=True, residual="pre_norm")
    assert [(m.input_softmax, m.residual) for m in core.stack.layers[::2]] == [(True, "pre_norm")] * 2


@each_core
def test_states_keep_their_precision_under_autocast(name, published):
    core, resets = small(name, published).float(), None if name == "transformer" else some_resets()
    with torch.autocast("cpu", torch.bfloat16):
        outputs, states = core(inputs(B, L).bfloat16(), None, resets)
        if resets is not None:
            outputs, states = core(inputs(B, L).bfloat16(), states, resets)
            one_more, _ = core(inputs(B, 5, 1).bfloat16(), [state.unsqueeze(1) for state in states])
            outputs = torch.cat([outputs, one_more.squeeze(2)], 1)
    outputs.float().square().mean().backward()
    assert {state.dtype for state in states} <= {torch.float32}
    assert all(parameter.grad.isfinite().all() for parameter in core.parameters())


def test_cores_refuse_options_that_they_do_not_have():
    with pytest.raises(
        ValueError, match=r"build_core: core must be one of srwm, srwm_read, .*, transformer, got 'gru'"
    ):
        build_core("gru", 3, 2)
    for core, option, value, owners in (
        ("lstm", "q_scale", 0.01, "srwm or srwm_read or sr_delta,"),
        ("deltanet", "beta_init", -1.0, "srwm or srwm_read or sr_delta,"),
        ("fake_sr", "beta_init", -1.0, "srwm or srwm_read or sr_delta,"),
        ("deltanet", "input_softmax", False, "srwm or sr_delta or fake_sr,"),
        ("srwm_read", "input_softmax", True, "srwm or sr_delta or fake_sr,"),
        ("deeper", "residual", "pre_norm", "srwm or srwm_read or sr_delta or fake_sr,"),
        ("transformer", "residual", "pre_norm", "srwm or srwm_read or sr_delta or fake_sr,"),
    ):
        with pytest.raises(
            ValueError, match=rf"build_core: {option} belongs to core {owners} .* {core!r};"
        ):
            small(core, **{option: value})


def test_calls_refuse_what_does_not_fit():
    flags = torch.ones(B, L, dtype=torch.bool)
    for name in ("srwm", "lstm", "transformer"):
        core, x = small(name), inputs(B, L)
        with pytest.raises(
            ValueError, match=r"core: inputs must be \(\.\.\., L, n_inputs = 7\), got \(7,\)"
        ):
            core(x[0, 0])
        with pytest.raises(ValueError, match=r"core: inputs must be .*, got \(3, 9, 6\)"):
            core(x[..., 1:])
        with pytest.raises(TypeError, match=r"core: mask must be bool, got torch\.float32; compare"):
            core(x, mask=flags.float())
        for wrong in (flags[:, 1:], flags[:, :1], flags[1:], flags[None], flags[0, 0]):
            with pytest.raises(
                ValueError, match=r"core: resets must be \(\.\.\., L = 9\) and broadcast to"
            ):
                core(x, resets=wrong)
    with pytest.raises(ValueError, match=r"core: states must be 2 tensors, got 1; pass what"):
        small("srwm")(x, small("srwm").initial_state(B)[1:])
    with pytest.raises(ValueError, match=r"core: states must be 0 tensors, got 2; pass what"):
        small("deeper")(x, small("srwm").initial_state(B))
    for states in (small("srwm").initial_state(B), small("lstm").initial_state(B + 1)):
        with pytest.raises(
            ValueError, match=r"core: states of an LSTM must be \(\.\.\., 2, D = 8\), to go"
        ):
            small("lstm")(x, states)
    for given in ({"states": []}, {"resets": flags}):
        with pytest.raises(ValueError, match="core: a transformer carries nothing from one segment"):
            small("transformer")(x, **given)
    assert small("transformer").initial_state(B) == []
