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
    ROWS,
    SELF_MODIFYING,
    SELF_MODIFYING_QUERY,
    SIZES,
    SRWM,
    TOLERANCE,
    assert_close,
    by_autograd,
    each_backend,
    each_operator,
    each_operator_and_start,
    growth_case,
    random_case,
    relative_error,
    run,
    self_modifying_step,
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


def test_two_steps_of_the_sum_rule_by_hand():
    q, k = np.array([[1.0, 1.0], [2.0, 1.0]]), np.array([[1.0, 0.0], [1.0, 1.0]])
    v, ones = np.array([[1.0, 2.0], [3.0, -1.0]]), np.ones((2, 2))
    # S = ((1, 2), (0, 0)), then ((4, 1), (3, -1)); z = (1, 0), then (2, 1); q . z = 1, then 5
    y, S = srwm.sum_rule.forward(q, k, v, return_state=True)
    assert np.array_equal(y, [[1, 2], [11, 1]])
    assert np.array_equal(S, [[4, 1], [3, -1]])
    y, (S, z) = srwm.sum_rule.forward(q, k, v, normalise=0, return_state=True)
    np.testing.assert_allclose(y, [[1, 2], [2.2, 0.2]], rtol=1e-15)
    assert np.array_equal(z, [2, 1])
    gq, gk, gv, gS, gz = srwm.sum_rule.backward(q, k, v, np.zeros((2, 2)), None, ones)
    assert np.array_equal(gq, [[3, 0], [5, 2]])
    assert np.array_equal(gk, [[9, 6], [4, 2]])
    assert np.array_equal(gv, [[3, 3], [3, 3]])
    assert np.array_equal(gS, [[3, 3], [2, 2]])
    assert gz is None
    gq, _, _, gS, gz = srwm.sum_rule.backward(q, k, v, None, None, ones)
    assert gS is gz is None
    # The published kernel has (3, 0) also with fast weights at the start.
    for given in ({"S": np.eye(2)}, {"S": None, "state": np.eye(2)}):
        (_, pull) = srwm.sum_rule.vjp(q, k, v, **given)
        assert np.array_equal(pull(ones)[0][0], [4, 1])
    # scale is a factor of the outputs
    assert np.array_equal(srwm.sum_rule.forward(q, k, v, scale=0.5), [[0.5, 1], [5.5, 0.5]])
    scaled = srwm.sum_rule.backward(q, k, v, None, None, ones, scale=0.5)
    assert np.array_equal(scaled[1], [[4.5, 3], [2, 1]])


def test_two_steps_of_the_recurrent_delta_net_by_hand():
    zero, one = np.zeros((1, 1)), np.ones((1, 1))
    data = np.zeros((2, 1)), np.zeros((2, 1)), np.array([[2.0], [1.0]]), np.zeros(2)
    parameters = zero, zero, one, np.zeros(1)
    (y, (S, last)), pullback = srwm.recurrent_delta.vjp(*data, *parameters, zero, np.zeros(1))
    # y_1 = 1; v_2 = 1 + tanh(1) = 1.761594, y_2 = (y_1 + v_2) / 2
    np.testing.assert_allclose(y[:, 0], [1, 1.380797], atol=5e-7)
    np.testing.assert_array_equal(S[0], y[1])
    np.testing.assert_array_equal(last, y[1])
    gq, gk, gv, gb, gR_q, gR_k, gR_v, gr_b, gS, gy = pullback(np.array([[0.0], [1.0]]))
    for of_softmax in (gq, gk, gR_q, gR_k):  # of one entry
        assert not of_softmax.any()
    np.testing.assert_allclose(gv[:, 0], [0.354994, 0.5], atol=5e-7)
    np.testing.assert_allclose(gb, [0.354994, 0.190399], atol=5e-7)
    np.testing.assert_allclose(gR_v, [[0.380797]], atol=5e-7)
    np.testing.assert_allclose(gr_b, [0.145006], atol=5e-7)
    np.testing.assert_allclose(gS, [[0.354994]], atol=5e-7)
    np.testing.assert_allclose(gy, [gv[0, 0]], rtol=1e-14)  # tanh' = 1 at 0, R_v = 1


def test_two_steps_of_the_delta_rnn_by_hand():
    k, v = np.eye(2), np.array([[2.0, 4.0], [6.0, 0.0]])
    beta, zero, last = np.array([1.0, 0.5]), np.zeros((2, 2)), np.array([[0.0, 0.0], [1.0, 0.0]])
    # R = ((2, 4), (0, 0)), whose mean row is (1, 2); then ((2, 4), (3, 0))
    z = np.array([[-1.0, -2.0], [0.0, 0.0]])
    (h, (R, end)), pullback = srwm.delta_rnn.vjp(z, k, v, beta, zero, np.zeros(2))
    np.testing.assert_allclose(h, [[0, 0], [2.5, 2]], atol=3e-6)
    assert np.array_equal(R, [[2, 4], [3, 0]])
    assert np.array_equal(end, h[1])
    gz, gk, gv, gbeta, gR, gh = pullback(last)
    np.testing.assert_allclose(gz, [[-0.25, 0.25], [1, 0]], atol=3e-6)
    np.testing.assert_allclose(gk, [[1.25, 0.75], [1, 1.5]], atol=1e-5)
    np.testing.assert_allclose(gv, [[0.375, 0.125], [0.25, 0]], atol=3e-6)
    np.testing.assert_allclose(gbeta, [1.25, 3], atol=1e-5)
    z = np.array([[0.0, 0.0], [-2.5, -2.0]])
    (h, _), pullback = srwm.delta_rnn.vjp(z, k, v, beta, version=1)
    np.testing.assert_allclose(h, [[0.5, 0.5]] * 2, rtol=1e-15)
    gz, gk, gv, gbeta, gR, gh = pullback(last)
    np.testing.assert_allclose(gz[0], [-0.3125, 0.3125], rtol=1e-14)
    np.testing.assert_allclose(gbeta, [-0.25, 0.75], rtol=1e-14)
    assert gR is gh is None


@pytest.mark.parametrize(
    ("a", "c", "second", "last"),
    [
        (1, 2, 3, [7.5, 3.75, 15]),
        (1, 1, 4, None),
        (-1, 1, -4, None),
        (2, 3, 6, None),
    ],
    ids=["L2", "dot", "as printed", "squared distance"],
)
def test_two_steps_of_a_memory_that_modifies_itself_by_hand(a, c, second, last):
    # W = (2, 1, 4, 0, 0), alpha = eta = 1/2, k = 1, v = 4: W <- W (1/2 + (4 a - c) / 2)
    W, ones = np.array([[2.0, 1.0, 4.0, 0.0, 0.0]]), np.ones((2, 1))
    settings = {"a": a, "c": c, "rate": "sigmoid", "query": ones}
    y = srwm.self_modifying.forward(ones, W, **settings)
    np.testing.assert_array_equal(y[:, 0], [2, second])
    if last is not None:  # v = 6: times 1/2 + (6 - 2) / 2
        _, W_next = srwm.self_modifying.forward(ones, W, **settings, return_state=True)
        np.testing.assert_array_equal(W_next[0, :3], last)
        # With softplus, eta is ln 2.
        y = srwm.self_modifying.forward(ones, W, a=a, c=c, query=ones)
        np.testing.assert_allclose(y[1], 2 * (0.5 + 2 * log(2)), rtol=1e-15)


def test_reading_by_another_input():
    case = random_case(SRWM)
    x, W = case["x"], case["W"]
    y, end = srwm.forward(x, W, return_state=True)
    same, same_end = srwm.forward(x, W, read=x, return_state=True, backend="reference")
    assert_close({"y": same, "end": same_end}, {"y": y, "end": end}, TOLERANCE["float64"])
    other, other_end = srwm.forward(x, W, read=x[..., ::-1], return_state=True, backend="reference")
    np.testing.assert_array_equal(other_end, same_end)
    assert relative_error(other, y) > 0.1


MEMORIES = [row for row in ROWS if row.functions is srwm.self_modifying]

# How much of a memory stays at a step: nothing, to the bit; nearly nothing; nearly all; and one that grows.
KEPT = {
    "0": {"alpha": -1000.0},
    "1e-6": {"alpha": log(1e-6)},
    "1 - 1e-3": {"alpha": log(1e3)},
    "growing": {"alpha": 40.0, "growth": 3.0},
}


@each_backend
@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("row", MEMORIES, ids=repr)
def test_a_memory_of_any_retention(row, kept, backend):
    """Gradients are those of a plain loop; nothing is divided by what stays."""
    case = random_case(row, ((3,), (), 40, 6, 5), state=True)
    D = 6
    alpha = -1 if "query" in case.row.op.names else -1 - D
    for name in ("W", "state"):
        W = case[name]
        W[..., alpha] = 0
        W[..., 0, alpha] = kept["alpha"]
        if "growth" in kept:  # values that are read with their own key
            v = W.shape[-1] + alpha - 1 - D
            W[..., v : v + D] = 0
            W[..., 0, v : v + D] = kept["growth"]
    case["x"][:] = np.abs(case["x"])
    got, truth = backend.run(case), by_autograd(case)
    assert all(np.isfinite(a).all() for a in truth.values())
    assert_close(got, truth, TOLERANCE["float64"])


@each_backend
@pytest.mark.parametrize("rate", ["softplus", "sigmoid"])
@pytest.mark.parametrize("keys", ["l2", "softmax"])
@pytest.mark.parametrize(("a", "c"), [(1, 2), (2, 3), (1, 1), (-1, 1)])
@pytest.mark.parametrize("row", [SELF_MODIFYING, SELF_MODIFYING_QUERY], ids=repr)
def test_a_memory_of_any_objective_keys_and_rates(row, a, c, keys, rate, backend):
    """Each (a, c) of the objectives, beside the loop over `self_modifying_step`."""

    def step(x_t, *rest):
        W, query_t = rest[-1], rest[0] if len(rest) > 1 else None
        return self_modifying_step(x_t, W, query_t, a, c, keys, rate, 0.3)

    settings = {**row.op.by_setting, "a": a, "c": c, "keys": keys, "rate": rate, "rate_scale": 0.3}
    row = replace(row, op=row.op.at(tuple(settings.values())), torch_step=step)
    case = random_case(row, ((3,), (), 9, 4, 3), **EVERYTHING)
    assert_close(backend.run(case), by_autograd(case), TOLERANCE["float64"])


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
