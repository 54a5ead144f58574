"""What all layers share: equal to a loop over steps, with state, reset and mask; segments, single steps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from srwm import nn
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
    Stack,
)
from tests.nn.layers import OPERATORS_OF_LAYERS
from tests.nn.loops import assert_same, by_loop, flat, random_state, randomised

ROOT = Path(__file__).parents[2]

B, L, H, D = 5, 6, 2, 3
d_model = H * D

RESIDUALS = ["norm_skip", "plain", "pre_norm", "none"]


def stack(**options):
    return Stack([SRWM(d_model, H, **options), FeedForward(d_model, 5), DeltaNet(d_model, H)])


MAKERS = {
    "SRWM": lambda **options: SRWM(d_model, H, **options),
    "DeltaNet": lambda **options: DeltaNet(d_model, H, **options),
    "normalised DeltaNet": lambda **options: DeltaNet(d_model, H, normalise=1e-5, **options),
    "LinearAttention": lambda **options: LinearAttention(d_model, H, **options),
    "normalised LinearAttention": lambda **options: LinearAttention(
        d_model, H, normalise=1e-6, scale=D**-0.5, **options
    ),
    "RecurrentDeltaNet": lambda **options: RecurrentDeltaNet(d_model, H, **options),
    "DeltaRNN": lambda **options: DeltaRNN(d_model, H, **options),
    "DeltaDelta": lambda **options: DeltaDelta(d_model, H, **options),
    "DeltaDelta with base weights": lambda **options: DeltaDelta(d_model, H, base_weights=True, **options),
    "SRDelta": lambda **options: SRDelta(d_model, H, **options),
    "FakeSR": lambda **options: FakeSR(d_model, H, **options),
    "SelfModifyingTitans": lambda **options: SelfModifyingTitans(
        d_model, H, **{"rate_scale": 0.5} | options
    ),
    "DeltaCDE": lambda **options: DeltaCDE(d_model, H, **options),
    "FeedForward": lambda **options: FeedForward(d_model, 5, **options),
    "Stack": stack,
}


def every_call():
    """Each layer with each choice of state, reset and mask, and its other forms with none and with all."""
    choices = [set(), {"state"}, {"reset"}, {"mask"}, {"state", "reset"}, {"state", "mask"}]
    choices += [{"reset", "mask"}, {"state", "reset", "mask"}]
    for name in MAKERS:
        for given in choices:
            yield pytest.param(name, {}, given, id="-".join([name, *sorted(given)]))
        if name in WITHOUT_OPTIONS:
            continue
        for residual in RESIDUALS:
            for form in FORMS[name]:
                options = {"residual": residual, **form}
                for given in (choices[0], choices[-1]):
                    label = "-".join([name, residual, *map(str, form.values()), *sorted(given)])
                    yield pytest.param(name, options, given, id=label)
    others = [{"read": read, "input_softmax": s} for read in ("raw", "softmax") for s in (False, True)]
    others.append({"head_norm": True})
    titans = [{"objective": objective} for objective in ("l2_doubled", "dot", "dot_printed")]
    titans += [{"keys": "softmax", "rate": "sigmoid"}, {"eps": 0.5}]
    cdes = [{"drive": drive, "method": m} for drive in ("v1", "dx") for m in ("euler", "rk4")]
    for name, more in {"SRWM": others, "SelfModifyingTitans": titans, "DeltaCDE": cdes}.items():
        for options in more:
            yield pytest.param(name, options, choices[-1], id="-".join([name, *map(str, options.values())]))


WITHOUT_OPTIONS = ("FeedForward", "Stack")
MIXERS = [name for name in MAKERS if name not in WITHOUT_OPTIONS]
WITH_SOFTMAX = [{"input_softmax": False}, {"input_softmax": True}]
# "favor" draws no projection in evaluation, which the loop is compared in.
DPFP, FAVOR = {"feature_map": "dpfp", "nu": 2}, {"feature_map": "favor", "n_features": 4}
FORMS = {
    "SRWM": WITH_SOFTMAX,
    "SelfModifyingTitans": [{"adaptive_query": False}, {"adaptive_query": True}],
    "DeltaCDE": [{"method": "euler"}, {"method": "rk4"}],
    "DeltaNet": [
        {"eps": 0.0},
        {"eps": 0.5},
        {"sum_norm": False, "scale": 0.5},
        DPFP,
        FAVOR,
        {"feature_map": "softmax"},
        {"feature_map": "l2", "beta_range": 2},
        {"feature_map": "identity"},
    ],
    "normalised DeltaNet": [
        {"scale": 0.5, "beta_range": 2},
        {"eps": 0.5},
        {"sum_norm": False},
        FAVOR,
        {"feature_map": "softmax"},
    ],
    "LinearAttention": [{"scale": 0.5}, {"sum_norm": True, "eps": 0.5}, DPFP, FAVOR, {"feature_map": "l2"}],
    "normalised LinearAttention": [{"sum_norm": True}, DPFP | {"sum_norm": True}, FAVOR],
    "RecurrentDeltaNet": [{}],
    "DeltaRNN": [{"version": 1}, {"feature_map": "softmax"}, {"eps": 0.5}],
    "DeltaDelta": [{"eps": 0.0}, {"eps": 0.5}],
    "DeltaDelta with base weights": [{"eps": 0.0}, {"eps": 0.5}],
    "SRDelta": WITH_SOFTMAX,
    "FakeSR": WITH_SOFTMAX,
}


each_layer = pytest.mark.parametrize("name", MAKERS)
each_mixer = pytest.mark.parametrize("name", MIXERS)
each_with_state = pytest.mark.parametrize("name", [n for n in MAKERS if n not in ("FakeSR", "FeedForward")])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def inputs(*lead):
    return torch.randn(*lead, d_model, dtype=torch.double)


def padding_of_every_kind():
    """Sequences padded before, behind, in the middle, not at all, and throughout."""
    return ~torch.tensor(
        [
            [1, 1, 0, 0, 0, 0],
            [0, 0, 0, 1, 1, 1],
            [0, 1, 0, 1, 1, 0],
            [0, 0, 0, 0, 0, 0],
            [1, 1, 1, 1, 1, 1],
        ],
        dtype=torch.bool,
    )


def some_resets():
    """At the first step, in the middle, several, none; at padding too."""
    return torch.tensor(
        [
            [1, 0, 1, 0, 0, 0],
            [0, 1, 0, 0, 1, 0],
            [0, 1, 1, 1, 0, 1],
            [0, 0, 0, 0, 0, 0],
            [0, 0, 1, 0, 0, 0],
        ],
        dtype=torch.bool,
    )


@pytest.mark.parametrize(("name", "options", "given"), list(every_call()))
def test_layer_equals_a_loop(name, options, given):
    layer = randomised(MAKERS[name](**options)).eval()
    h, mask = inputs(B, L), None
    if "mask" in given:
        mask = padding_of_every_kind()
        h[~mask] = torch.nan
    h.requires_grad_()
    state = random_state(layer, B) if "state" in given else None
    reset = some_resets() if "reset" in given else None
    results = layer(h, state, reset, mask)
    expected = by_loop(layer, h, state, reset, mask)
    cotangents = [torch.randn_like(result) for result in flat(results)]
    if mask is not None:
        cotangents[0][~mask] = torch.nan
        assert not results[0][~mask].any()
    assert_same(results, expected, [h, *flat(state), *layer.parameters()], cotangents)


@each_layer
def test_padding_at_the_end_changes_no_bit(name, monkeypatch):
    # The bits of torch's own product of a row depend on how many rows there are.
    monkeypatch.setattr(
        torch.nn.Linear,
        "forward",
        lambda self, x: (x.unsqueeze(-2) * self.weight).sum(-1) + (0 if self.bias is None else self.bias),
    )
    layer = randomised(MAKERS[name]())
    h, state, reset = inputs(B, 40), random_state(layer, B), torch.rand(B, 40) < 0.1
    mask = torch.ones(B, 40, dtype=torch.bool)
    mask[:, 33:] = False
    out, last = layer(h[:, :33], state, reset[:, :33])
    h[:, 33:] = torch.inf
    padded, padded_last = layer(h, state, reset, mask)
    for got, expected in zip(flat((padded[:, :33], padded_last)), flat((out, last)), strict=True):
        assert torch.equal(got, expected)


@each_layer
def test_a_mask_that_is_true_changes_no_bit(name):
    layer = randomised(MAKERS[name]())
    h, state, reset = inputs(B, L), random_state(layer, B), some_resets()
    wanted = [*flat(state), *layer.parameters()]
    results = flat(layer(h, state, reset)), flat(layer(h, state, reset, torch.ones(L, dtype=torch.bool)))
    gradients = (
        torch.autograd.grad(
            [a.square().sum() for a in r], wanted, allow_unused=True, materialize_grads=True
        )
        for r in results
    )
    for pairs in (zip(*results, strict=True), zip(*gradients, strict=True)):
        assert all(torch.equal(a, b) for a, b in pairs)


@each_layer
def test_segments_are_the_whole(name):
    layer = randomised(MAKERS[name]())
    h, reset, mask = inputs(B, L).requires_grad_(), some_resets(), padding_of_every_kind()
    whole = layer(h, None, reset, mask)
    outs, state = [], None
    for steps in (slice(0, 1), slice(1, 1), slice(1, 4), slice(4, 6)):
        out, state = layer(h[:, steps], state, reset[:, steps], mask[:, steps])
        outs.append(out)
    assert_same((torch.cat(outs, 1), state), whole, [h, *layer.parameters()])


@each_layer
def test_single_steps_are_the_whole(name):
    layer = randomised(MAKERS[name]())
    h, reset, mask = inputs(B, L).requires_grad_(), some_resets(), padding_of_every_kind()
    start = random_state(layer, B)
    whole = layer(h, start, reset, mask)
    outs, state = [], start
    for t in range(L):
        out, state = layer.step(h[:, t], state, reset[:, t], mask[:, t])
        assert out.shape == (B, d_model)
        outs.append(out)
    assert_same((torch.stack(outs, 1), state), whole, [h, *flat(start), *layer.parameters()])


@each_layer
def test_a_step_of_one_sequence_has_no_axes_but_its_own(name):
    layer = randomised(MAKERS[name]())
    h = inputs()
    out, state = layer.step(h, layer.initial_state(), torch.tensor(True), torch.tensor(True))
    whole, last = layer(h[None])
    torch.testing.assert_close((out, flat(state)), (whole[0], flat(last)))
    alone, none = layer.step(h, return_state=False)
    assert torch.equal(alone, out)
    assert flat(none) == []


@each_layer
def test_hooks_run_at_a_step_too(name):
    layer, calls = MAKERS[name](), []
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    layer.step(torch.randn(d_model))
    assert calls == [1]


@each_layer
def test_the_initial_state_is_that_of_no_state_at_all(name):
    layer = randomised(MAKERS[name]())
    h, reset = inputs(2, 3, L), torch.rand(2, 3, L) < 0.2
    state = layer.initial_state(2, 3)
    assert not any(own.any() or own.requires_grad for own in flat(state))
    out, last = layer(h, None, reset)
    assert [own.shape for own in flat(state)] == [own.shape for own in flat(last)]
    assert_same(layer(h, state, reset), (out, last), list(layer.parameters()))
    none, untouched = layer(h[:, :, :0], None, reset[..., :0])
    assert none.shape == (2, 3, 0, d_model)
    torch.testing.assert_close(flat(untouched), flat(state))


@each_layer
def test_an_unwanted_state_changes_nothing_else(name):
    layer = randomised(MAKERS[name]())
    h, start, reset = inputs(B, L).requires_grad_(), random_state(layer, B), some_resets()
    for arguments in (
        (h,),
        (h, start),
        (h, None, reset),
        (h, start, reset),
        (h, start, reset, padding_of_every_kind()),
        (h[:, :1], start),
    ):
        out, _ = layer(*arguments)
        alone, none = layer(*arguments, return_state=False)
        assert none is None
        torch.testing.assert_close(alone, out, rtol=0, atol=0)
        assert_same(alone, out, [h, *layer.parameters()])


@each_layer
def test_any_leading_axes_and_those_that_broadcast(name):
    layer = randomised(MAKERS[name]())
    h, reset, mask = inputs(2, 3, L), torch.rand(3, L) < 0.2, torch.rand(2, 1, L) < 0.7
    start = random_state(layer, 3)
    out, state = layer(h, start, reset, mask)
    for i in range(2):
        for j in range(3):
            own = tuple(None if s is None else s[j] for s in start) if name == "Stack" else start
            own = start[j] if isinstance(start, torch.Tensor) else own
            one, last = layer(h[i, j], own, reset[j], mask[i, 0])
            torch.testing.assert_close(out[i, j], one)
            torch.testing.assert_close([s[i, j] for s in flat(state)], flat(last))


@each_with_state
def test_gradients_through_a_carried_state(name):
    layer = randomised(MAKERS[name]())
    h = inputs(2, 3).requires_grad_()
    start = flat(random_state(layer, 2))
    reset = torch.tensor([[False, True, False], [False, False, False]])
    mask = torch.tensor([[True, True, True], [False, True, True]])

    def results(h, *states):
        state = states[0] if len(states) == 1 else (states[0], None, states[1])
        return tuple(flat(layer(h, state, reset, mask)))

    assert torch.autograd.gradcheck(results, (h, *start))


@each_mixer
def test_outputs_of_another_size(name):
    layer = randomised(MAKERS[name](residual="none", d_out=4))
    h = inputs(B, L).requires_grad_()
    out, state = layer(h)
    assert out.shape == (B, L, layer.d_out) == (B, L, 4)
    assert_same((out, state), by_loop(layer, h), [h, *layer.parameters()])
    assert "d_out=4" in repr(layer)


@each_mixer
def test_dropout_is_on_what_is_added(name):
    for residual in RESIDUALS:
        layer = MAKERS[name](dropout=0.5, residual=residual)
        h = torch.randn(20, L, d_model)
        skip = {"norm_skip": layer.layer_norm, "none": torch.zeros_like}.get(residual, lambda h: h)(h)
        added, whole = layer(h)[0] - skip, layer.eval()(h)[0] - skip
        dropped = added.abs() < 1e-6
        assert 0.4 < dropped.float().mean() < 0.6
        torch.testing.assert_close(added[~dropped], 2 * whole[~dropped], rtol=1e-4, atol=1e-5)


@each_layer
def test_the_operator_runs_once(name, monkeypatch):
    from srwm import _call

    runs, forward = [], _call.forward
    monkeypatch.setattr(_call, "forward", lambda op, *rest: runs.append(op.name) or forward(op, *rest))
    layer = randomised(MAKERS[name]())
    layer(inputs(B, L), random_state(layer, B), some_resets(), padding_of_every_kind())
    assert runs == {**OPERATORS_OF_LAYERS, "Stack": ["srwm", "delta"]}.get(name, [])


@each_layer
def test_arguments_are_not_changed(name):
    layer = randomised(MAKERS[name]())
    arguments = [inputs(B, L), random_state(layer, B), some_resets(), padding_of_every_kind()]
    before = [own.detach().clone() for own in flat(tuple(arguments))]
    layer(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(flat(tuple(arguments)), before, strict=True))


def test_all_public_names_are_there():
    import srwm

    assert set(nn.__all__) == {
        "SRWM",
        "DeltaCDE",
        "DeltaDelta",
        "DeltaNet",
        "DeltaRNN",
        "FakeSR",
        "FeedForward",
        "LinearAttention",
        "RecurrentDeltaNet",
        "Residual",
        "SRDelta",
        "SelfModifyingTitans",
        "Stack",
        "maps",
    }
    with pytest.raises(AttributeError, match="module 'srwm' has no attribute 'layers'"):
        srwm.layers  # noqa: B018


def test_srwm_knows_its_layers_without_loading_torch_before():
    program = """
import sys
import srwm
assert "torch" not in sys.modules
print(srwm.nn.SRWM(4, 2))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("SRWM(")


def test_parameter_counts_of_the_paper():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(SRWM(256, 16)) == 79_360
    assert count(DeltaNet(256, 16)) == 266_752
    assert count(FakeSR(256, 16)) == 256 * 16 + 256**2
    assert count(SRDelta(128, 8)) == 8 * (16 * 49 + 2 * 16**2 + 4 * 16) + 128**2
    d, H, D, F = 128, 8, 16, 512
    assert count(LinearAttention(d, H)) == 4 * d**2 + 2 * d
    assert count(DeltaNet(d, H)) == 4 * d**2 + H * d + 2 * d
    assert count(RecurrentDeltaNet(d, H)) == 4 * d**2 + H * d + 2 * d + 3 * d * D + d
    assert count(DeltaRNN(d, H)) == count(DeltaDelta(d, H)) == 6 * d**2 + 2 * H * d + 2 * d
    assert count(DeltaDelta(d, H, base_weights=True)) - count(DeltaDelta(d, H)) == d * (3 * D + 1)
    assert count(FeedForward(d, F)) == 2 * d * F + F + 3 * d
    assert count(SRWM(128, 8)) == 128**2 + 2 * 128 + 8 * (3 * 16**2 + 4 * 16)
    assert count(SRWM(128, 8, head_norm=True)) == count(SRWM(128, 8)) + 2 * 16
    for adaptive_query in (True, False):
        titans = SelfModifyingTitans(128, 8, adaptive_query=adaptive_query)
        assert count(titans) == 128**2 + 2 * 128 + 8 * (4 * 16**2 + 2 * 16)
    for drive in ("v1", "v2", "dx"):  # as DeltaNet
        assert count(DeltaCDE(128, 8, drive=drive)) == 4 * 128**2 + 8 * 128 + 2 * 128
    assert count(FeedForward(256, 256)) == 132_096
    assert count(FeedForward(256, 4 * 256)) == 526_080
    assert count(FeedForward(256, 8 * 256)) == 1_051_392
