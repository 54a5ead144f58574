"""The reference against what can be computed without it: by hand, by central differences, by autograd."""

from __future__ import annotations

from dataclasses import replace
from math import log

import array_api_strict
import numpy as np
import pytest

import srwm
from tests.operators import (
    CYTHON,
    EVERYTHING,
    SIZES,
    SRWM,
    TOLERANCE,
    assert_close,
    by_autograd,
    each_operator,
    each_operator_and_start,
    growth_case,
    random_case,
    relative_error,
    run,
    size_id,
)

LN3 = log(3)


def test_two_steps_of_srwm_by_hand():
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
    # As a state beside another W the same matrix gives the same steps, until a reset leads to that W.
    beside = -W
    y, W_next = srwm.forward(x, beside, W, return_state=True, backend="reference")
    np.testing.assert_allclose(y, [[2.0], [16 * 9.25]], rtol=1e-14)
    np.testing.assert_allclose(W_next, expected, rtol=1e-14)
    y = srwm.forward(x, beside, W, reset=np.array([False, True]), backend="reference")
    np.testing.assert_allclose(y, [[2.0], [-160.0]], rtol=1e-14)
    y = srwm.forward(x, beside, W, reset=np.array([True, True]), backend="reference")
    np.testing.assert_allclose(y, [[-2.0], [-160.0]], rtol=1e-14)


def test_two_steps_of_the_delta_rule_by_hand():
    q = np.array([[1.0, 0.0], [1.0, 2.0]])
    k = np.array([[0.0, 2.0], [1.0, 1.0]])
    v = np.array([[3.0], [5.0]])
    beta = np.array([0.5, 0.25])
    S = np.array([[4.0], [1.0]])
    # v_bar = 2, u = 0.5 (3 - 2): S = (4, 2), y = 4;  then v_bar = 6, u = 0.25 (5 - 6): S = (3.75, 1.75)
    y, S_next = srwm.delta.forward(q, k, v, beta, S, return_state=True, backend="reference")
    assert np.array_equal(y, [[4.0], [3.75 + 2 * 1.75]])
    assert np.array_equal(S_next, [[3.75], [1.75]])
    # S as a state, with nothing to return to: a reset before step 2 makes the fast weights zero, so that
    # v_bar = 0, u = 0.25 * 5
    reset = np.array([False, True])
    y, S_next = srwm.delta.forward(
        q, k, v, beta, None, S, reset=reset, return_state=True, backend="reference"
    )
    assert np.array_equal(y, [[4.0], [3 * 1.25]])
    assert np.array_equal(S_next, [[1.25], [1.25]])


@pytest.mark.parametrize("size", SIZES, ids=size_id)
@each_operator_and_start
def test_equals_autograd_of_a_plain_loop(row, size, start):
    case = random_case(row, size, **start, seed=5)
    assert_close(run(case, backend="reference"), by_autograd(case), TOLERANCE["float64"])


@each_operator_and_start
def test_one_incoming_gradient_alone(row, start):
    case = random_case(row, **start)
    for i in range(len(case.incoming)):
        alone = replace(case, incoming=tuple(g if i == j else None for j, g in enumerate(case.incoming)))
        if i:  # that of the output is always given
            alone = replace(alone, incoming=(0 * case.incoming[0], *alone.incoming[1:]))
        assert_close(run(alone, backend="reference"), by_autograd(alone), TOLERANCE["float64"])


@each_operator_and_start
def test_central_differences(row, start):
    case = random_case(row, ((2, 1), (3,), 6, 3, 2), **start, seed=1)
    got = run(case, backend="reference")

    def loss(flat):
        results = row.forward(flat, backend="reference")
        return sum(np.sum(r * g) for r, g in zip(results, case.incoming, strict=True))

    for i in case.places:
        a, step = case.flat[i], 1e-5
        g = np.empty_like(a)
        for j in np.ndindex(a.shape):
            h = np.zeros_like(a)
            h[j] = step
            ends = [loss((*case.flat[:i], a + d, *case.flat[i + 1 :])) for d in (h, -h)]
            g[j] = (ends[0] - ends[1]) / (2 * step)
        name = f"g{row.op.flat[i].name}"
        assert_close({name: got[name]}, {name: g}, 1e-7)


@each_operator
def test_a_reset_leads_to_the_initial_matrix_and_not_to_the_state(row):
    case = random_case(row, ((2,), (), 5, 4, 3), state=True)
    reset = np.array([[False, False, True, False, False], [False] * 5])
    y = row.forward(case.with_(reset=reset).flat, backend="reference")[0]
    fresh = row.forward(case.steps(2, None).with_states(None).flat, backend="reference")[0]
    carried = row.forward(case.flat, backend="reference")[0]
    np.testing.assert_array_equal(y[0, 2:], fresh[0])
    np.testing.assert_array_equal(y[0, :2], carried[0, :2])
    np.testing.assert_array_equal(y[1], carried[1])
    assert np.abs(y[0, 2:] - carried[0, 2:]).max() > 0.01


@each_operator_and_start
def test_a_reset_at_the_first_step_leaves_the_state_unused(row, start):
    case = random_case(row, ((2,), (2,), 5, 4, 3), **start).with_(reset=np.array([True] + [False] * 4))
    if "mask" in start:
        case["mask"][:, 0] = True  # a reset at padding is none
    nan = [np.full_like(g, np.nan) for g in case.incoming[1:]]
    got = run(case.with_states(nan), backend="reference")
    assert not any(got.pop(f"g{name}").any() for name in row.states)
    expected = run(case.with_states(None), backend="reference")
    assert_close(got, expected, 1e-14)


@each_operator_and_start
def test_any_array_namespace(row, start):
    case = random_case(row, ((2, 1), (3,), 6, 3, 2), **start)
    strict = case.map(array_api_strict.asarray)
    got = run(strict, backend="reference")
    assert {type(a) for a in got.values()} == {type(strict.flat[0])}
    assert_close(got, run(case, backend="reference"), 1e-14)


def float32_errors(case):
    """(our, autograd's) relative errors by name, both in float32, from autograd's in float64."""
    truth = by_autograd(case)
    single = case.astype(np.float32)
    ours, theirs = run(single), by_autograd(single)
    return tuple({n: relative_error(r[n], truth[n]) for n in truth} for r in (ours, theirs))


@pytest.mark.parametrize(
    "case",
    [
        random_case(SRWM, ((4,), (4,), 600, 16, 16)),
        random_case(SRWM, ((2,), (2,), 300, 64, 64), state=True),
        random_case(SRWM, ((4,), (4,), 26, 16, 16), state=True),
        growth_case(),
    ],
    ids=["16", "64", "short", "growth"],
)
def test_float32_is_as_exact_as_autograd_in_float32(case):
    ours, theirs = float32_errors(case)
    for name, error in ours.items():
        assert error <= 2 * theirs[name], f"{name}: {error} beside {theirs[name]}"


# Beyond the table of sizes: those whose published gradients are wrong, and the longest.
LARGE = [((1,), (), 600, 128, 128), ((2,), (2,), 600, 64, 64), ((2,), (2,), 200, 40, 40)]


@pytest.mark.parametrize("size", LARGE, ids=size_id)
@each_operator
def test_large_sizes_equal_autograd(row, size):
    CYTHON.require(row.op)
    case = random_case(row, size, state=True, seed=5)
    truth = by_autograd(case)
    assert_close(run(case), truth, TOLERANCE["float64"])
    assert_close(run(case.astype(np.float32)), truth, TOLERANCE["float32"])


@each_operator
def test_hundred_thousand_steps_stay_finite_and_repeatable(row):
    CYTHON.require(row.op)
    case = random_case(row, ((1,), (), 100_000, 4, 4), **EVERYTHING)
    first, second = run(case), run(case)
    for name, a in first.items():
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, second[name], name)
