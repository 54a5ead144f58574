"""The reference against what can be computed without it: by hand, and by central differences."""

from __future__ import annotations

from math import log

import array_api_strict
import numpy as np
import pytest

import srwm
from tests.cases import assert_close, random_case, run

LN3 = log(3)


def test_two_steps_by_hand():
    # D = 2, Do = 1. At both steps q^ = (ln 3, 0), k^ = 0, b^ = (ln 3, 0, 0, 0), so that
    # q = (3/4, 1/4), k = (1/2, 1/2), beta = (3/4, 1/2, 1/2, 1/2), q - k = (1/4, -1/4).
    #             y   q^        k^    b^
    W = np.array([[2, LN3, 0, 0, 0, LN3, 0, 0, 0], [10, 0, 0, 0, 0, 0, 0, 0, 0]])
    x = np.array([[1.0, 0.0], [0.0, 16.0]])
    # Delta_y = (2 - 10) / 4 = -2, u_y = -3/2: both rows of y fall by 3/4, at each step.
    # Delta_q = Delta_b = ln 3 / 4, times 1/2: both rows of q^'s and b^'s first column rise by ln 3 / 16.
    y, W_next = srwm.forward(x, W, return_state=True, backend="reference")
    np.testing.assert_allclose(y, [[2.0], [16 * 9.25]], rtol=1e-14)
    a, b = 18 / 16 * LN3, 2 / 16 * LN3
    expected = [[0.5, a, 0, 0, 0, a, 0, 0, 0], [8.5, b, 0, 0, 0, b, 0, 0, 0]]
    np.testing.assert_allclose(W_next, expected, rtol=1e-14)


def test_reset_returns_to_the_initial_matrix_before_its_step():
    case = random_case(((2,), (), 5, 4, 3))
    reset = np.array([[False, False, True, False, False], [False] * 5])
    y = srwm.forward(case.x, case.W, reset=reset, backend="reference")
    fresh = srwm.forward(case.x[0, 2:], case.W, backend="reference")
    carried = srwm.forward(case.x, case.W, backend="reference")
    np.testing.assert_array_equal(y[0, 2:], fresh)
    np.testing.assert_array_equal(y[0, :2], carried[0, :2])
    np.testing.assert_array_equal(y[1], carried[1])
    assert np.abs(y[0, 2:] - carried[0, 2:]).max() > 0.1


@pytest.mark.parametrize("with_reset", [False, True])
def test_backward_against_central_differences(with_reset):
    case = random_case(((2, 1), (3,), 6, 3, 2), with_reset=with_reset, seed=1)

    def loss(x, W):
        y, W_next = srwm.forward(x, W, reset=case.reset, return_state=True, backend="reference")
        return np.sum(y * case.grad_y) + np.sum(W_next * case.grad_W_next)

    def differences(a, of):
        g, step = np.empty_like(a), 1e-6
        for i in np.ndindex(a.shape):
            up, down = a.copy(), a.copy()
            up[i] += step
            down[i] -= step
            g[i] = (of(up) - of(down)) / (2 * step)
        return g

    gx, gW = srwm.backward(
        case.x, case.W, case.grad_y, case.grad_W_next, reset=case.reset, backend="reference"
    )
    truth = {
        "gx": differences(case.x, lambda x: loss(x, case.W)),
        "gW": differences(case.W, lambda W: loss(case.x, W)),
    }
    assert_close({"gx": gx, "gW": gW}, truth, 1e-7)


def test_any_array_namespace():
    case = random_case(((2, 1), (3,), 6, 3, 2), with_reset=True)
    strict = case._replace(**{name: array_api_strict.asarray(a) for name, a in case._asdict().items()})
    from srwm import _reference

    lead = (2, 3)
    y, W_next, kept = _reference.forward(strict.x, strict.W, strict.reset, lead, keep=True)
    gx, gW = _reference.backward(
        strict.x, strict.W, strict.reset, lead, kept, strict.grad_y, strict.grad_W_next
    )
    got = {"y": y, "W_next": W_next, "gx": gx, "gW": gW}
    assert all(type(a) is type(strict.x) for a in got.values())
    assert_close(got, run(srwm, case, backend="reference"), 1e-14)
