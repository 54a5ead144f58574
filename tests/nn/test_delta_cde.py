"""`DeltaCDE` alone: times, the two methods against hand values and each other, errors."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

import srwm
from srwm.nn import DeltaCDE, Stack
from srwm.nn.delta_cde import _rk4_as_delta_rule
from tests.nn.loops import assert_same, delta_cde_step, flat, random_state, randomised, start

d_model, H, D, B, L = 6, 2, 3, 3, 6
EACH = [(method, drive) for method in ("euler", "rk4") for drive in ("v1", "v2", "dx")]
each = pytest.mark.parametrize(("method", "drive"), EACH)
NAN = math.nan


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def made(method, drive):
    return randomised(DeltaCDE(d_model, H, method=method, drive=drive, residual="none"))


def of_times():
    """h with NaN at padding, resets, a mask, and times, which begin again at resets."""
    reset = torch.tensor([[0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 1, 0]]).bool()
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 1], [1, 1, 0, 1, 1, 1]]).bool()
    times = torch.tensor(
        [
            [5.0, 5.5, 7.0, 7.25, 8.0, 11.0],
            [NAN, -3.0, -2.5, NAN, NAN, 4.0],
            [9.0, 10.5, NAN, 11.0, 0.0, 0.5],
        ]
    ).double()
    h = torch.randn(B, L, d_model, dtype=torch.double)
    return h.masked_fill(~mask.unsqueeze(-1), NAN), reset, mask, times


def by_loop(layer, h, state, reset, mask, times):
    """Outputs and state, one sequence and one step after the other."""
    outs, states = torch.zeros(B, L, d_model, dtype=torch.double), []
    for i in range(B):
        carried = start(layer, state[i])
        for t in range(L):
            if not mask[i, t]:
                continue
            if reset[i, t]:
                carried = start(layer, None)
            y, carried = delta_cde_step(layer, h[i, t], carried, times[i, t] - carried[2])
            carried = (*carried[:2], times[i, t], carried[3])
            outs[i, t] = layer.out_linear(y.flatten())
        S, x, time, one = carried
        rest = [x.reshape(H, D, 1), torch.stack([time, one]).expand(H, D, 2)]
        states.append(torch.cat([S, *rest], -1))
    return outs, torch.stack(states)


@each
def test_times(method, drive):
    layer = made(method, drive)
    h, reset, mask, times = of_times()
    h.requires_grad_()
    state = random_state(layer, B, requires_grad=False)  # its ones are other numbers: a step was before
    state[..., -2] = torch.tensor([4.5, 0, 8.0])[:, None, None]
    state.requires_grad_()
    results = layer(h, state, reset, mask, times)
    assert results[1].isfinite().all()
    assert_same(results, by_loop(layer, h, state, reset, mask, times), [h, state, *layer.parameters()])


@each
def test_segments_and_steps_with_times_are_the_whole(method, drive):
    layer = made(method, drive)
    h, reset, mask, times = of_times()
    whole = layer(h, None, reset, mask, times)
    for cuts in ((0, 2, 2, 5, 6), tuple(range(L + 1))):
        outs, state = [], None
        for i, j in pairwise(cuts):
            out, state = layer(h[:, i:j], state, reset[:, i:j], mask[:, i:j], times[:, i:j])
            outs.append(out)
        torch.testing.assert_close((torch.cat(outs, 1), state), whole, rtol=1e-12, atol=1e-12)
    outs, state = [], None
    for t in range(L):
        out, state = layer.step(h[:, t], state, reset[:, t], mask[:, t], times[:, t])
        outs.append(out)
    torch.testing.assert_close((torch.stack(outs, 1), state), whole, rtol=1e-12, atol=1e-12)


@each
def test_unit_times_are_no_times(method, drive):
    layer = made(method, drive)
    h = torch.randn(B, L, d_model, dtype=torch.double)
    expected = layer(h)
    torch.testing.assert_close(layer(h, times=torch.arange(1.0, L + 1)), expected)
    out, state = layer(h, times=torch.arange(L) - 100.0)
    torch.testing.assert_close((out, state[..., :-2]), (expected[0], expected[1][..., :-2]))
    assert (state[0, 0, 0, -2:] == torch.tensor([L - 101, 1])).all()


@pytest.mark.parametrize("method", ["euler", "rk4"])
@pytest.mark.parametrize("drive", ["v1", "v2", "dx"])
def test_by_hand(method, drive):
    """D = 1: k = 1, and with large weights beta = v = 1. Each step begins with S = 0."""
    layer = DeltaCDE(1, 1, method=method, drive=drive, residual="none", dtype=torch.float64)
    with torch.no_grad():
        for net in (layer.slope_net, layer.path_net, layer.out_linear):
            if net is not None:
                net.weight.fill_(1 if net is layer.out_linear else 1e6)
    # A first step to 1; then one whose slope is 1 and whose path goes from 1 to 2, with a reset of S alone.
    h = torch.tensor([[1.0], [2.0]], dtype=torch.double)
    _, state = layer(h[:1])
    state = torch.cat([torch.zeros(1, 1, 1), state[..., 1:]], -1)
    out, _ = layer(h[1:], state)
    assert out.item() == pytest.approx({"euler": 1, "rk4": 0.625}[method], abs=1e-12)
    assert abs(out.item() - (1 - math.exp(-1))) < {"euler": 0.4, "rk4": 0.01}[method]


def test_rk4_of_a_constant_input_is_the_delta_rule_with_another_rate():
    k, v = torch.randn(2, 4, D, dtype=torch.double)
    S = torch.randn(D, D, dtype=torch.double)
    beta = torch.rand(4, dtype=torch.double)
    zeta = beta * k.square().sum(-1)
    effective = (zeta - zeta**2 / 2 + zeta**3 / 6 - zeta**4 / 24) / k.square().sum(-1)
    rate, value = _rk4_as_delta_rule(k, beta, [v, v, v])
    torch.testing.assert_close((rate, value), (effective, v))
    _, last = srwm.delta.forward(k, k, v, effective, S, return_state=True)
    for t in range(4):

        def change(S, t=t):
            return k[t, :, None] * (beta[t] * (v[t] - k[t] @ S))

        one = change(S)
        two = change(S + one / 2)
        three = change(S + two / 2)
        S = S + (one + 2 * two + 2 * three + change(S + three)) / 6
    torch.testing.assert_close(last, S)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("rk4", 4)])
@torch.no_grad()
def test_finer_steps_on_the_same_path_converge(method, order):
    """The path is straight: a step divided in n, whose inputs are on it, goes to the flow's result."""
    layer = randomised(DeltaCDE(d_model, H, method=method, residual="none", drive="v2"))
    begin, end = torch.randn(2, 1, d_model, dtype=torch.double)
    _, state = layer(begin, times=torch.zeros(1))

    def last(n):
        shares = torch.arange(1, n + 1).double()[:, None] / n
        return layer(begin + shares * (4 * (end - begin)), state, times=4 * shares[:, 0])[1][..., :D]

    layer.method = "rk4"
    truth = last(1024)
    layer.method = method
    coarse, fine = ((last(n) - truth).norm() for n in (16, 32))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


@each
def test_no_steps(method, drive):
    layer = made(method, drive)
    state = random_state(layer, B, requires_grad=False)
    out, last = layer(torch.empty(B, 0, d_model).double(), state, times=torch.empty(0))
    assert out.shape == (B, 0, d_model)
    torch.testing.assert_close(last[..., :-2], state[..., :-2])
    torch.testing.assert_close(last[..., -2:], state[:, :1, :1, -2:].expand_as(last[..., -2:]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@each
def test_halves(method, drive, dtype):
    layer = DeltaCDE(d_model, H, method=method, drive=drive, dtype=dtype)
    h, times = torch.randn(B, L, d_model).to(dtype), torch.rand(B, L).cumsum(-1)
    out, state = layer(h, times=times)
    assert (out.dtype, state.dtype) == (dtype, torch.float32)
    wide = DeltaCDE(d_model, H, method=method, drive=drive)
    wide.load_state_dict(layer.state_dict())
    expected, last = wide(h.float(), times=times)
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(state, last, rtol=0.05, atol=0.05)


def test_under_vmap_and_autocast():
    layer = made("rk4", "v1")
    h, reset, mask, times = of_times()
    expected = layer(h, None, reset, mask, times)
    got = torch.func.vmap(lambda *a: layer(a[0], None, *a[1:]))(h, reset, mask, times)
    torch.testing.assert_close(got, expected)
    layer = DeltaCDE(d_model, H, method="rk4", drive="v1")
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(B, L, d_model))[1].dtype == torch.float32


def wrong(kind, message, *arguments, call="DeltaCDE", **options):
    layer = DeltaCDE(d_model, H)
    with pytest.raises(kind, match=message) as error:
        (layer.step if call.endswith("step") else layer)(*arguments, **options)
    assert str(error.value).startswith(f"{call}: times: expected ")
    assert ";" in str(error.value)


def test_times_of_another_shape_or_kind(monkeypatch):
    monkeypatch.setattr(DeltaCDE, "_run", lambda *_, **__: pytest.fail("the layer began to compute"))
    h = torch.randn(4, L, d_model)
    wrong(TypeError, "one of torch.float16.*, got torch.int64; cast", h, times=torch.arange(L))
    wrong(TypeError, "a Tensor, got list", h, times=[1.0] * L)
    wrong(ValueError, r"shape \(\.\.\., L=6\)", h, times=torch.rand(4, L - 1))
    wrong(ValueError, r"shape \(\.\.\., L=6\)", h, times=torch.rand(()))
    wrong(ValueError, "axes that broadcast to those of h", h, times=torch.rand(5, L))
    wrong(ValueError, "on the device of h, cpu, got meta", h, times=torch.rand(L, device="meta"))
    step = {"call": "DeltaCDE.step"}
    wrong(ValueError, "axes that broadcast to those of h", h[:, 0], times=torch.rand(3), **step)


def test_times_that_do_not_increase(monkeypatch):
    h, up = torch.randn(2, 4, d_model), torch.arange(1.0, 5)
    layer = DeltaCDE(d_model, H)
    _, state = layer(h, times=up)
    with monkeypatch.context() as patch:
        patch.setattr(DeltaCDE, "_run", lambda *_, **__: pytest.fail("the layer began to compute"))
        for times in ([1.0, 2, 2, 3], [1.0, 3, 2, 4], [1.0, 2, NAN, 3], [NAN, 1, 2, 3]):
            wrong(ValueError, "increase strictly", h, times=torch.tensor(times))
        wrong(ValueError, "increase strictly", h, times=torch.stack([up, -up]))
        wrong(ValueError, "increase strictly", h, times=(2.0**24 + up / 8).double())
        wrong(ValueError, "increase strictly", h, state, times=up)
        wrong(ValueError, "increase strictly", h, state, times=up + 3)
        step = {"call": "DeltaCDE.step"}
        wrong(ValueError, "increase strictly", h[:, 0], state, times=torch.tensor(4.0), **step)
    reset = torch.tensor([False, False, True, False])
    layer(h, times=torch.tensor([1.0, 2, 1, 2]), reset=reset)
    layer(h, state, times=up, reset=torch.tensor([True, False, False, False]))
    layer(h, state, times=up + 4)
    with pytest.raises(ValueError, match="increase strictly"):  # a reset at padding is none
        layer(h, None, reset, ~reset, torch.tensor([1.0, 2, NAN, 2]))


def test_where_times_cannot_be_looked_at_the_results_are_nan():
    layer, h = DeltaCDE(d_model, H), torch.randn(2, 4, d_model)
    times = torch.tensor([[1.0, 2, 3, 4], [1, 2, 1.5, 3]])
    out, state = torch.func.vmap(lambda h, times: layer(h, times=times))(h, times)
    assert out[0].isfinite().all()
    assert state[0].isfinite().all()
    assert out[1, :2].isfinite().all()
    assert out[1, 2:].isnan().all()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert compiled(h, times=times)[0][1, 2:].isnan().all()
    torch.testing.assert_close(compiled(h, times=times[:1])[0], layer(h, times=times[:1])[0])


def test_in_a_stack_steps_are_of_one_unit():
    layer = DeltaCDE(d_model, H)
    h = torch.randn(2, 4, d_model)
    out, (state,) = Stack([layer])(h)
    torch.testing.assert_close(flat((out, state)), flat(layer(h)))
    assert "method='euler', drive='v2'" in repr(layer)
