"""What must not meet: two sides of a reset, sequences beside each other, padding, memory used before.

What is beside a value that is no number may differ in its last bits: its state grew, which decides how the
states of the sequences beside it are brought back.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.cases import TOLERANCE, assert_close
from tests.cy.calls import DELTA, SRWM, random_gradients, random_operands, run

L, RESET = 9, 4
each_operator = pytest.mark.parametrize("op", [SRWM, DELTA], ids=lambda op: op.name)
each_size = pytest.mark.parametrize("D", [1, 3, 8, 16, 17])
each_value = pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)


def operands(op, lead, D, steps=L):
    """Random operands with a state; a reset of all sequences, and one more of the first."""
    flat = random_operands(op, lead, {"L": steps, "D": D, "Do": D + 1, "M": 3 * D + 5})
    flat[-1][...] = False
    flat[-1][:, RESET] = flat[-1][0, RESET + 2] = True
    return flat


def gradients_of(op, lead, D, steps=L):
    """Random gradients of the results."""
    return random_gradients(op, lead, {"L": steps, "D": D, "Do": D + 1, "M": 3 * D + 5})


def of_steps(op):
    """The names of the results that have a row for each step."""
    return ["y", *(f"g_{operand.name}" for operand in op.flat if operand.role == "data")]


def assert_same(got, expected, names, steps=slice(None), sequences=slice(None)):
    """These results, or these steps of them, are the same but for roundings."""
    tolerance = TOLERANCE[str(expected["y"].dtype)]
    picked = ({name: a[name][sequences, steps] for name in names} for a in (got, expected))
    assert_close(*picked, tolerance)


def put(a, step, value):
    """The value, in all rows of one step."""
    a[:, step, ...] = value


@each_operator
@each_size
@each_value
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_of_later_steps_crosses_a_reset(arrangement, lead, op, D, value, dtype):
    clean = [a.astype(dtype) if a.dtype != bool else a for a in operands(op, lead, D)]
    gradients = [a.astype(dtype) for a in gradients_of(op, lead, D)]
    expected = run(op, clean, gradients, num_threads=arrangement)
    before = slice(0, RESET)
    for i, operand in enumerate(op.flat):
        if operand.role == "data":
            for step in (RESET, L - 1):
                flat = [a.copy() for a in clean]
                put(flat[i], step, value)
                got = run(op, flat, gradients, num_threads=arrangement)
                assert_same(got, expected, of_steps(op), before)
                assert_same(got, expected, ["g_state"])
    for step in (RESET, L - 1):
        grad_y = gradients[0].copy()
        put(grad_y, step, value)
        got = run(op, clean, [grad_y, gradients[1]], num_threads=arrangement)
        assert_same(got, expected, of_steps(op), before)
        assert_same(got, expected, ["g_state"])
    got = run(op, clean, [gradients[0], np.full_like(gradients[1], value)], num_threads=arrangement)
    assert_same(got, expected, of_steps(op), before)
    assert_same(got, expected, ["g_state"])


@each_operator
@each_size
@each_value
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_of_earlier_steps_crosses_a_reset(arrangement, lead, op, D, value, dtype):
    clean = [a.astype(dtype) if a.dtype != bool else a for a in operands(op, lead, D)]
    gradients = [a.astype(dtype) for a in gradients_of(op, lead, D)]
    expected = run(op, clean, gradients, num_threads=arrangement)
    after = slice(RESET, L)
    for i, operand in enumerate(op.flat):
        for step in (0, RESET - 1):
            flat = [a.copy() for a in clean]
            if operand.role == "data":
                put(flat[i], step, value)
            elif operand.role == "state":
                flat[i][...] = value
            got = run(op, flat, gradients, num_threads=arrangement)
            assert_same(got, expected, of_steps(op), after)
            assert_same(got, expected, ["after"])
    grad_y = gradients[0].copy()
    put(grad_y, RESET - 1, value)
    got = run(op, clean, [grad_y, gradients[1]], num_threads=arrangement)
    assert_same(got, expected, of_steps(op), after)


@each_operator
@pytest.mark.parametrize("D", [3, 16])
@each_value
def test_nothing_crosses_between_sequences(arrangement, op, D, value):
    lead = (40,)
    clean = operands(op, lead, D, 50)
    gradients = gradients_of(op, lead, D, 50)
    expected = run(op, clean, gradients, num_threads=arrangement)
    others = np.delete(np.arange(40), [13, 21])
    for i, operand in enumerate(op.flat):
        if operand.role != "flag":
            flat = [a.copy() for a in clean]
            flat[i][13, ...] = flat[i][21, -1, ...] = value
            got = run(op, flat, gradients, num_threads=arrangement)
            assert_same(got, expected, expected, sequences=others)
    for i in range(2):
        spoilt = [g.copy() for g in gradients]
        spoilt[i][13, ...] = spoilt[i][21, -1, ...] = value
        got = run(op, clean, spoilt, num_threads=arrangement)
        assert_same(got, expected, expected, sequences=others)


@each_operator
@pytest.mark.parametrize("D", [3, 8, 17])
def test_a_gradient_that_is_no_number_stops_at_the_reset(arrangement, lead, op, D):
    """The report: reset before step 3 of 6, the last gradient of y no number."""
    flat = random_operands(op, lead, {"L": 6, "D": D, "Do": D, "M": 3 * D + 4}, without=("state",))
    flat[-1][...] = np.arange(6) == 3
    grad_y = np.ones((*lead, 6, D))
    grad_y[:, 5] = np.nan
    got = run(op, flat, [grad_y, np.zeros_like(flat[op.places("initial")[0]])], num_threads=arrangement)
    for name in of_steps(op):
        assert np.isfinite(got[name][:, :3]).all(), name
        assert name == "y" or np.isnan(got[name][:, 3:]).any(), name
