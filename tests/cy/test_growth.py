"""States that grow: where undoing updates would lose their early values, backward computes them again."""

from __future__ import annotations

import numpy as np
import pytest

from srwm._cy import backend, cpu
from srwm.operators.spec import SEGMENT, segments
from tests.cases import growth_case
from tests.cy.calls import (
    DELTA,
    SRWM,
    as_dtype,
    forget,
    random_gradients,
    random_operands,
    reference,
    run,
    save,
    sizes_of,
)


def long_keys(lead, L, D, length, *, Do=None, S=0.0, seed=0):
    """Operands of the delta rule, q = k of this length, beta = 1: S grows by |1 - length^2| a step."""
    rng = np.random.default_rng(seed)
    k = rng.standard_normal((*lead, L, D))
    k *= length / np.linalg.norm(k, axis=-1, keepdims=True)
    v = rng.standard_normal((*lead, L, Do or D))
    S = S * rng.standard_normal((*lead, D, Do or D))
    return [k, k, v, np.ones((*lead, L)), S, None, None]


def assert_as_exact(op, flat, gradients, dtype, threads, factor=10):
    """Every result, of every sequence, as exact as the reference is in the same precision."""
    flat, gradients = as_dtype(flat, dtype), as_dtype(gradients, dtype)
    truth = reference(op, as_dtype(flat, np.float64), as_dtype(gradients, np.float64))
    stored = reference(op, flat, gradients)
    got = run(op, flat, gradients, num_threads=threads)
    # float64's truth is the reference itself: what is allowed beside it is some roundings
    least = 1e-6 if dtype == "float32" else 1e-13
    for name in truth:
        axes = tuple(range(1, truth[name].ndim))
        scale = np.maximum(1, np.abs(truth[name]).max(axes))
        error, allowed = ((np.abs(a[name] - truth[name]).max(axes) / scale).max() for a in (got, stored))
        assert error <= max(factor * allowed, least), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("D", [4, 16, 64])
@pytest.mark.parametrize("length", [1.0, 2.0, 2.5, 3.0])
def test_long_keys(arrangement, lead, length, D, dtype):
    flat = long_keys(lead, 32, D, length)
    assert_as_exact(DELTA, flat, random_gradients(DELTA, *sizes_of(DELTA, flat)), dtype, arrangement)


@pytest.mark.parametrize("L", [1, 2, 3, 4, 5, 31, 33, 36, 37, 70])
def test_long_keys_at_any_length(arrangement, lead, L):
    flat = long_keys(lead, L, 4, 3 if L < 40 else 2, S=1.0)
    gradients = random_gradients(DELTA, *sizes_of(DELTA, flat))
    for dtype in ("float32", "float64"):
        assert_as_exact(DELTA, flat, gradients, dtype, arrangement)


def test_rates_that_are_no_rates(arrangement, lead):
    flat = long_keys(lead, 40, 5, 1.0, S=1.0)
    flat[3] = np.where(np.arange(40) % 2, -1.0, 2.5) * flat[3]
    assert_as_exact(DELTA, flat, random_gradients(DELTA, *sizes_of(DELTA, flat)), "float32", arrangement)


def test_one_step_that_multiplies_a_millionfold(arrangement, lead):
    flat = long_keys(lead, 20, 4, 1.0, S=1.0)
    flat[1] = flat[1].copy()
    flat[1][..., 11, :] *= 1e3
    gradients = random_gradients(DELTA, *sizes_of(DELTA, flat))
    assert_as_exact(DELTA, flat, gradients, "float32", arrangement)


def test_long_keys_of_one_sequence_alone_and_between_resets(arrangement, lead):
    flat = long_keys(lead, 75, 6, 1.0, S=1.0)
    flat[0] = flat[1] = flat[1].copy()
    flat[1][1, 35:60] *= 3
    flat[6] = np.zeros((*lead, 75), bool)
    flat[6][0, [5, 33]] = flat[6][1, [20, 40, 60]] = True
    gradients = random_gradients(DELTA, *sizes_of(DELTA, flat))
    for dtype in ("float32", "float64"):
        assert_as_exact(DELTA, flat, gradients, dtype, arrangement)


@pytest.mark.parametrize("S", [0.0, 1.0])
@pytest.mark.parametrize("step", [1, 20, 40])
def test_values_of_another_size(arrangement, lead, step, S):
    # Additions make S grow too: what a step reads before it must not drown in what undoing them leaves.
    flat = long_keys(lead, 70, 8, 1.0, S=S)
    flat[2][..., step:, :] *= 1e6
    gradients = random_gradients(DELTA, *sizes_of(DELTA, flat))
    gradients[0][..., step:, :], gradients[1][...] = 0, 0
    flat, gradients = as_dtype(flat, np.float32), as_dtype(gradients, np.float32)
    truth = reference(DELTA, as_dtype(flat, np.float64), as_dtype(gradients, np.float64))
    got = run(DELTA, flat, gradients, num_threads=arrangement)
    for name in ("g_q", "g_k", "g_v"):
        before, expected = got[name][..., :step, :], truth[name][..., :step, :]
        error = np.abs(before - expected).max(-1) / np.abs(expected).max(-1)
        assert error.max() < 1e-4, name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_matrix_that_grows_by_a_quarter_at_every_step(arrangement, lead, dtype):
    case = growth_case(steps=64, growth=1.2**64)
    flat = [np.stack([a] * lead[0]) for a in (case.x, case.W)]
    flat = [*flat, None, None]
    gradients = [np.stack([a] * lead[0]) for a in (case.grad_y, case.grad_W_next)]
    assert_as_exact(SRWM, flat, gradients, dtype, arrangement)


def test_a_matrix_that_grows_after_a_reset_to_a_small_one(arrangement, lead):
    # What it is compared with is what it was after the reset, not the large state of before.
    case = growth_case(steps=32, growth=1.22**32)
    flat = [np.stack([a] * lead[0]) for a in (case.x, case.W)]
    state = flat[1].copy()
    state[..., :16] *= 1e4
    reset = np.zeros((*lead, 32), bool)
    reset[:, 1] = True
    gradients = [np.stack([a] * lead[0]) for a in (case.grad_y, case.grad_W_next)]
    gradients[0][:, 8:], gradients[1][...] = 0, 0  # of what is small alone
    flat, gradients = as_dtype([*flat, state, reset], np.float32), as_dtype(gradients, np.float32)
    truth = reference(SRWM, as_dtype(flat, np.float64), as_dtype(gradients, np.float64))
    stored = reference(SRWM, flat, gradients)
    got = run(SRWM, flat, gradients, num_threads=arrangement)
    error, allowed = (np.abs(a["g_x"] - truth["g_x"])[:, 1:8].max() for a in (got, stored))
    assert error < 10 * allowed


def grown_segments(op, flat, threads):
    """Whether forward says of each segment of each sequence that the state may have grown."""
    _, sizes = sizes_of(op, flat)
    saved = save(op, flat, num_threads=threads)[2]
    one = backend.kernels(saved.dtype.name, "one").layout(op.name, sizes["D"], sizes["Do"], SEGMENT)
    before = sizes["L"] * one[0] + segments(sizes["L"]) * one[1]
    number = -(-sizes["L"] // SEGMENT)
    return saved[..., before : before + number * one[2]].reshape(*saved.shape[:-1], number, -1).any(-1)


@pytest.mark.parametrize("D", [1, 4, 16, 64])
def test_states_that_do_not_grow_are_undone(monkeypatch, D):
    monkeypatch.setattr(cpu, "most_bytes", lambda layout, save: 0)
    forget()
    lead, sizes = (64,), {"D": D, "Do": D, "M": 3 * D + 4, "L": 100}
    for scale in (1, 3, 10):
        x, W, *_ = random_operands(SRWM, lead, sizes)
        assert grown_segments(SRWM, [x, scale * W, None, None], 1).mean() < 0.02
    for length, S in ((1.0, 0.0), (1.0, 0.1), (1.4, 1.0)):
        flat = long_keys(lead, 100, D, length, S=S)
        flat[2][:, :7], flat[3][:, :7] = 0, 0  # as padding at the left is
        assert grown_segments(DELTA, flat, 1).mean() < 0.02
    assert grown_segments(DELTA, long_keys(lead, 100, D, 2.0), 1).all()
    forget()


def test_what_is_no_number_is_no_trouble(arrangement, lead):
    for op in (SRWM, DELTA):
        sizes = {"D": 5, "Do": 3, "M": 17, "L": 70}
        flat = random_operands(op, lead, sizes, without=("state",))
        flat[0][0, 20], flat[1][1] = np.nan, np.inf
        got = run(op, flat, random_gradients(op, lead, sizes), num_threads=arrangement)
        assert np.isnan(got["y"][0]).any()
