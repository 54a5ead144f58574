import pytest
import torch

from examples.fewshot.cores import Lstm, build_core

N_INPUTS, N = 7, 3
CORES = (
    *("srwm", "deltanet", "fake_sr", "lstm", "linear", "recurrent_delta", "delta_rnn", "delta_delta"),
    *("delta_cde", "self_modifying_titans"),
)
each_core = pytest.mark.parametrize("name", CORES)


def small(name: str, **options):
    torch.manual_seed(0)
    sizes = {"n_layers": 2, "n_heads": 2, "d_model": 8, "ff_factor": 2}
    return build_core(name, N_INPUTS, N, **{**sizes, **options}).double()


def inputs(*lead: int) -> torch.Tensor:
    return torch.randn(*lead, N_INPUTS, dtype=torch.double)


def assert_same_gradients(results, others, wanted):
    cotangents = [torch.randn_like(result) for result in results]
    torch.testing.assert_close(
        torch.autograd.grad(results, wanted, cotangents), torch.autograd.grad(others, wanted, cotangents)
    )


@each_core
def test_segments_with_carried_states_are_the_whole(name):
    core = small(name)
    x = inputs(4, 9).requires_grad_()
    whole, last = core(x)
    outs, states = [], None
    for steps in (slice(0, 1), slice(1, 5), slice(5, 9)):
        out, states = core(x[:, steps], states)
        outs.append(out)
    assert len(last) == len(states) == (0 if name == "fake_sr" else 2)
    torch.testing.assert_close(torch.cat(outs, 1), whole)
    torch.testing.assert_close(states, last)
    assert_same_gradients((torch.cat(outs, 1), *states), (whole, *last), (x, *core.parameters()))


@each_core
def test_any_leading_axes_and_states_that_broadcast(name):
    core = small(name)
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
def test_no_sequences_at_all(name):
    core = small(name)
    logits, states = core(inputs(0, 4))
    again, _ = core(inputs(0, 5, 1), [state.unsqueeze(1) for state in states])
    assert logits.shape == (0, 4, N)
    assert again.shape == (0, 5, 1, N)


@each_core
def test_every_parameter_learns(name):
    core = small(name)
    _, states = core(inputs(4, 3))
    logits, _ = core(inputs(4, 1), states)  # a query after its support
    gradients = torch.autograd.grad(logits.square().sum(), list(core.parameters()))
    for (parameter, _), gradient in zip(core.named_parameters(), gradients, strict=True):
        assert gradient.abs().max() > 1e-12, parameter
    if name == "srwm":
        for mixer in core.mixers:  # among them what makes queries, keys and rates
            logits, _ = core(inputs(4, 1), core(inputs(4, 3))[1])
            (gW,) = torch.autograd.grad(logits.square().sum(), [mixer.W])
            for block in gW.split([4, 4, 4, 1, 1, 1, 1], -1)[:4]:
                assert block.abs().max() > 1e-12


def test_lstm_by_hand():
    core = small("lstm", n_layers=1)
    weights = core.state_dict()
    x, h, c, outs = inputs(2, 6), torch.zeros(2, 8).double(), torch.zeros(2, 8).double(), []
    for t in range(6):
        gates = x[:, t] @ weights["lstm.weight_ih_l0"].T + weights["lstm.bias_ih_l0"]
        gates = gates + h @ weights["lstm.weight_hh_l0"].T + weights["lstm.bias_hh_l0"]
        i, f, g, o = gates.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outs.append(h @ weights["out_layer.weight"].T + weights["out_layer.bias"])
    logits, (state,) = core(x)
    torch.testing.assert_close(logits, torch.stack(outs, 1))
    torch.testing.assert_close(state, torch.stack([h, c], -2))


@each_core
def test_dropout_drops_in_training_alone(name):
    core = small(name, dropout=0.5)
    x = inputs(4, 3)
    assert (core(x)[0] - core(x)[0]).abs().max() > 1e-3
    core.eval()
    assert torch.equal(core(x)[0], core(x)[0])


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
def test_input_gain_scales_what_meets_the_inputs(name):
    plain, strong = small(name), small(name, input_gain=20.0)
    names = [n for n, p in plain.named_parameters() if not torch.equal(p, strong.get_parameter(n))]
    assert names == ["lstm.weight_ih_l0" if name == "lstm" else "input_proj.weight"]
    torch.testing.assert_close(strong.get_parameter(names[0]), 20 * plain.get_parameter(names[0]))


def test_options_reach_the_layers():
    core = small("srwm", beta_init=3.0, q_scale=0.0, input_softmax=True)
    for mixer in core.mixers:
        assert mixer.W[..., -4:].mean().item() == pytest.approx(3, abs=0.5)
        assert not mixer.W[..., 4:8].any()
        assert mixer.input_softmax
    fake = small("fake_sr", input_softmax=True)
    assert [(mixer.input_softmax, mixer.residual) for mixer in fake.mixers] == [(True, "norm_skip")] * 2


@each_core
def test_states_keep_their_precision_under_autocast(name):
    core = small(name).float()
    with torch.autocast("cpu", torch.bfloat16):
        _, states = core(inputs(4, 3).bfloat16())
        logits, _ = core(inputs(4, 5, 1).bfloat16(), [state.unsqueeze(1) for state in states])
    logits.float().square().mean().backward()
    assert {state.dtype for state in states} <= {torch.float32}
    assert all(parameter.grad.isfinite().all() for parameter in core.parameters())


def test_cores_refuse_what_they_do_not_have():
    with pytest.raises(
        ValueError, match=r"build_core: core must be one of srwm, deltanet, lstm, fake_sr, linear, .*, got"
    ):
        build_core("gru", 3, 2)
    with pytest.raises(ValueError, match=r"build_core: q_scale belongs to core srwm, .* core 'lstm'"):
        small("lstm", q_scale=0.01)
    with pytest.raises(ValueError, match=r"build_core: beta_init belongs to core srwm, .* core 'deltanet'"):
        small("deltanet", beta_init=-1.0)
    with pytest.raises(ValueError, match="build_core: input_softmax belongs to core srwm or fake_sr"):
        small("deltanet", input_softmax=True)
    assert isinstance(build_core("lstm", 3, 2, d_model=4), Lstm)
