"""Halves, autocast, large numbers: states in float32, and nothing that becomes NaN."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

import srwm
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
    _layer,
)
from srwm.nn.maps import positive
from tests.nn.loops import flat

d_model, H, D = 12, 3, 4


class NormalisedDeltaNet(DeltaNet):
    def __init__(self, *sizes, **options):
        super().__init__(*sizes, normalise=1e-3, scale=0.5, **options)


class NormalisedLinearAttention(LinearAttention):
    def __init__(self, *sizes, **options):
        super().__init__(*sizes, normalise=1e-3, scale=0.5, **options)


class DeltaDeltaWithBaseWeights(DeltaDelta):
    def __init__(self, *sizes, **options):
        super().__init__(*sizes, base_weights=True, **options)


WITH_STATE = [
    SRWM,
    DeltaNet,
    NormalisedDeltaNet,
    LinearAttention,
    NormalisedLinearAttention,
    RecurrentDeltaNet,
    DeltaRNN,
    DeltaDelta,
    DeltaDeltaWithBaseWeights,
    SRDelta,
    SelfModifyingTitans,
    DeltaCDE,
]
each_with_state = pytest.mark.parametrize("kind", WITH_STATE)
each_half = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def error(a, b):
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


@each_half
@each_with_state
def test_states_are_float32_beside_halves(kind, dtype):
    layer = kind(d_model, H, dtype=dtype)
    h, reset = torch.randn(5, 9, d_model).to(dtype), torch.rand(5, 9) < 0.2
    start = layer.initial_state(5)
    assert start.dtype == torch.float32
    for state in (None, start, torch.randn_like(start)):
        for begins in (None, reset):
            out, last = layer(h, state, begins)
            assert (out.dtype, last.dtype) == (dtype, torch.float32)
            assert layer.step(h[:, 0], last)[1].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(layer(h), layer(h, start), strict=True))
    start = start.requires_grad_()
    out, last = layer(h, start, reset)
    wanted = [start, *layer.parameters()]
    gradients = torch.autograd.grad((out.sum(), last.sum()), wanted)
    assert [g.dtype for g in gradients] == [torch.float32] + [dtype] * (len(wanted) - 1)


@each_half
@each_with_state
@torch.no_grad()
def test_single_steps_in_halves_lose_nothing_against_one_call(kind, dtype):
    layer = kind(d_model, H, dtype=dtype)
    h = (2 * torch.randn(1, 100, d_model)).to(dtype)
    _, whole = layer(h)
    state = None
    for t in range(100):
        _, state = layer.step(h[:, t], state)
    truth = copy.deepcopy(layer).double()(h.double())[1]
    assert error(state, whole) < 1e-5
    assert error(state, truth) < 4e-3  # what halves lose on the way to the operator


@each_with_state
def test_the_gradients_of_a_layer_in_halves_are_those_of_its_float32_copy(kind):
    layer = kind(d_model, H, dtype=torch.bfloat16)
    wide = copy.deepcopy(layer).float()
    h, reset = torch.randn(2, 20, d_model).bfloat16(), torch.rand(2, 20) < 0.1
    start = torch.randn_like(layer.initial_state(2)) / 4
    if getattr(layer, "normalise", None) is not None:
        start[..., -1].abs_()  # a sum of keys
    got, expected = (
        torch.autograd.grad(
            sum(result.float().square().mean() for result in own(x, start, reset)), list(own.parameters())
        )
        for own, x in ((layer, h), (wide, h.float()))
    )
    for a, b in zip(got, expected, strict=True):
        assert error(a, b) < 0.05


@each_half
@pytest.mark.parametrize("kind", [*WITH_STATE, FakeSR])
def test_the_state_keeps_the_parameters_precision_under_autocast(kind, dtype):
    layer, h = kind(d_model, H, residual="pre_norm"), torch.randn(3, 9, d_model)
    mask = torch.rand(3, 9) < 0.8
    with torch.autocast("cpu", dtype):
        for x in (h, h.to(dtype)):
            _, state = layer(x, None, None, mask)
            out, state = layer(x, state, torch.rand(3, 9) < 0.2, mask)
            assert kind is FakeSR or state.dtype == torch.float32
            out.float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in layer.parameters())
    plain, under = kind(d_model, H, residual="pre_norm", dtype=dtype), []
    with torch.autocast("cpu", dtype):
        under = flat(plain(h.to(dtype)))
    assert under[1:] == [] or under[1].dtype == torch.float32


@pytest.mark.parametrize("kind", [SRWM, SRDelta, SelfModifyingTitans])
def test_what_autocast_hands_over_in_halves_is_computed_in_float32(kind):
    options = {} if kind is SelfModifyingTitans else {"input_softmax": True}
    layer = kind(d_model, H, residual="plain", **options)
    h, start = torch.randn(2, 5, d_model).bfloat16(), torch.randn_like(layer.initial_state(2)) / 4
    with torch.autocast("cpu", torch.bfloat16):
        _, state = layer(h, start)
    assert torch.equal(state, layer(h.float(), start)[1])


def test_what_a_linear_map_gives_under_autocast_is_computed_in_float32():
    layer = DeltaNet(d_model, H, residual="plain")
    h = torch.randn(2, 5, d_model)
    columns = torch.nn.functional.linear(h.bfloat16(), layer.slow_net.weight.bfloat16()).float()
    q, k, v, b = columns.unflatten(-1, (H, -1)).transpose(1, 2).split([D, D, D, 1], -1)
    _, expected = srwm.delta.forward(
        *(positive(q, 0), positive(k, 0), v, b.squeeze(-1).sigmoid()), return_state=True
    )
    with torch.autocast("cpu", torch.bfloat16):
        _, state = layer(h)
    assert torch.equal(state, expected)


def elu_shares(a, eps):
    """elu(a) + 1 divided by its sum, in float64."""
    a = a.double()
    a = torch.where(a < 0, a.exp(), 1 + a)
    return a / (a.sum(-1, keepdim=True) + eps)


@pytest.mark.parametrize("eps", [0.0, 1e-5, 0.5])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_positive_features_at_any_size(dtype, eps):
    greatest = torch.finfo(dtype).max
    rows = [
        [-30.0, -31.0, -60.0, -80.0],
        [30.0, 31.0, 60.0, 80.0],
        [0.0, 1.0, -1.0, 0.5],
        [-100.0, -101.0, -102.0, -600.0],  # in float32 each exp(a) is 0
        [60000.0, 60000.0, 60000.0, -60000.0],  # the sum is too much for float16
        [greatest, greatest, greatest, -greatest],  # and this one for the dtype itself
        [-greatest] * 4,
    ]
    a = torch.tensor(rows, dtype=dtype, requires_grad=True)
    got = positive(a, eps)
    assert got.dtype == dtype
    assert got.isfinite().all()
    # Halves are rounded once, at the end.
    digits = (4 if dtype in (torch.float32, torch.float64) else 0.51) * torch.finfo(dtype).eps
    tolerance = {"rtol": digits, "atol": 1e-7 if dtype == torch.float16 else 1e-30}
    small = a[:4].detach().double()
    if eps == 0:
        torch.testing.assert_close(
            got.sum(-1), torch.ones(7, dtype=dtype), rtol=16 * torch.finfo(dtype).eps, atol=0
        )
        thirds = torch.tensor([1 / 3, 1 / 3, 1 / 3, 0], dtype=dtype)
        torch.testing.assert_close(got[4:6], thirds.expand(2, 4), **tolerance)
        torch.testing.assert_close(got[6], torch.full((4,), 0.25, dtype=dtype), **tolerance)
    torch.testing.assert_close(got[:4].double(), elu_shares(small, eps), **tolerance)
    weights = torch.tensor([1.0, 2.0, -3.0, 0.5], dtype=dtype)
    (gradient,) = torch.autograd.grad((got * weights).sum(), a)
    assert gradient.isfinite().all()
    exact = small.requires_grad_()
    (expected,) = torch.autograd.grad((elu_shares(exact, eps) * weights.double()).sum(), exact)
    # A difference of weights of about 1, times what the shares lose.
    torch.testing.assert_close(
        gradient[:4].double(), expected, rtol=32 * torch.finfo(dtype).eps, atol=32 * torch.finfo(dtype).eps
    )


def test_positive_features_can_be_differentiated_twice():
    a = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    for eps in (0.0, 0.5):
        assert torch.autograd.gradgradcheck(lambda a, eps=eps: positive(a, eps), (a,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_delta_net_with_large_keys_stays_finite(dtype):
    layer = DeltaNet(d_model, H, dtype=dtype)
    h = torch.randn(3, 20, d_model).to(dtype)
    # In float16 sums of entries this large overflow, and each exp underflows where all are negative.
    for size in (300.0, 8000.0):
        with torch.no_grad():
            keys = layer.slow_net.weight.unflatten(0, (H, -1))[:, : 2 * D]
            keys.fill_(0)
            keys[..., 0] = size
        for sign in (1, -1):
            steps = h.clone()
            steps[..., 0], steps[..., 1:] = 6 * sign, 0  # normed: about 3.3 and -0.3
            out, state = layer(steps, torch.randn_like(layer.initial_state(3)))
            assert out.isfinite().all()
            assert state.isfinite().all()
            gradients = torch.autograd.grad((out.float().sum(), state.sum()), list(layer.parameters()))
            assert all(g.isfinite().all() for g in gradients)


@pytest.fixture
def not_warned(monkeypatch):
    monkeypatch.setattr(_layer, "_has_warned", False)


@pytest.mark.usefixtures("not_warned")
@each_with_state
def test_a_state_that_is_not_finite_is_warned_of_once(kind):
    layer, h = kind(d_model, H), torch.randn(2, 3, d_model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, state = layer(h)
        layer(h, torch.full_like(state, 3e38) * torch.randn_like(state).sign(), return_state=False)
    h[1, 1] = torch.nan
    with pytest.warns(RuntimeWarning, match=f"{kind.__name__}: state: expected finite numbers") as caught:
        layer(h)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(h)


@pytest.mark.usefixtures("not_warned")
@pytest.mark.parametrize(
    "call", ["layer", "step", "stack", "stack's step", "hooked", "functional_call", "checkpoint"]
)
def test_the_warning_points_at_the_callers_line(call):
    layer, h = SRWM(d_model, H), torch.full((2, d_model), torch.nan)
    stack = Stack([Stack([layer]), FeedForward(d_model, 5)])
    calls = {
        "layer": lambda: layer(h),
        "step": lambda: layer.step(h),
        "stack": lambda: stack(h),
        "stack's step": lambda: stack.step(h),
        "hooked": lambda: stack.step(h),
        "functional_call": lambda: torch.func.functional_call(stack, {}, (h,)),
        "checkpoint": lambda: torch.utils.checkpoint.checkpoint(layer, h, use_reentrant=False),
    }
    if call == "hooked":
        stack.register_forward_hook(lambda *_: None)
    with pytest.warns(RuntimeWarning, match="SRWM: state: expected finite numbers") as caught:
        calls[call]()
    line = calls[call].__code__.co_firstlineno
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, line)]


@pytest.mark.usefixtures("not_warned")
def test_a_finite_state_whose_sum_is_not_is_no_reason_to_warn():
    _layer._warn_unless_finite("SRWM", torch.full((2, 2), 3e38))
    assert not _layer._has_warned


@pytest.mark.usefixtures("not_warned")
def test_nothing_looks_at_states_under_transforms_and_compilers(monkeypatch):
    layer = Stack([SRWM(d_model, H), FeedForward(d_model, 5)])
    h = torch.full((2, 3, d_model), torch.nan)
    torch.func.vmap(lambda h: layer(h)[1][0])(h)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    compiled(h)
    assert not _layer._has_warned
    monkeypatch.setattr(_layer, "_has_warned", True)
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(h)
