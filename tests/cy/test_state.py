"""`state`, with which sequences start: against the reference, in every layout, with resets, broadcast."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.cases import TOLERANCE, assert_close
from tests.cy.calls import (
    DELTA,
    SRWM,
    as_dtype,
    random_gradients,
    random_operands,
    reference,
    run,
    save,
    sizes_of,
)

each_operator = pytest.mark.parametrize("op", [SRWM, DELTA], ids=lambda op: op.name)


def sizes(L, D, Do):
    """The sizes of all letters."""
    return {"L": L, "D": D, "Do": Do, "M": Do + 2 * D + 4}


def assert_equals_reference(op, flat, threads, dtype="float64"):
    flat = as_dtype(flat, dtype)
    gradients = as_dtype(random_gradients(op, *sizes_of(op, flat)), dtype)
    truth = reference(op, as_dtype(flat, np.float64), as_dtype(gradients, np.float64))
    assert_close(run(op, flat, gradients, num_threads=threads), truth, TOLERANCE[dtype], dtype)


@each_operator
@pytest.mark.parametrize("L", [0, 1, 2, 4, 5, 33, 70])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_length(arrangement, lead, op, L, dtype):
    assert_equals_reference(op, random_operands(op, lead, sizes(L, 5, 3)), arrangement, dtype)
    without = random_operands(op, lead, sizes(L, 5, 3), without=("reset",))
    assert_equals_reference(op, without, arrangement, dtype)


@each_operator
@pytest.mark.parametrize("first", ["none", "some", "all"])
def test_resets_before_the_first_step_lead_elsewhere(arrangement, lead, op, first):
    for L in (1, 3, 40):
        flat = random_operands(op, lead, sizes(L, 8, 8))
        flat[-1][:, 0] = {"none": False, "all": True, "some": np.arange(lead[0]) % 2 == 0}[first]
        assert_equals_reference(op, flat, arrangement)


# Leading axes of the data, of the initial matrix, of the state: shared by all, by some, in another order.
LEADS = [
    ((23,), (23,), ()),
    ((23,), (), (23,)),
    ((9, 4), (4,), (9, 1)),
    ((9, 4), (9, 1), (4,)),
    ((9, 4), (4,), (9, 4)),
    ((9, 4), (9, 4), (1, 1)),
    ((1, 4), (), (9, 1)),
    ((2, 3, 5), (3, 1), (2, 1, 5)),
    ((0, 3), (3,), (0, 3)),
]


@each_operator
@pytest.mark.parametrize("leads", LEADS, ids=str)
def test_leading_axes_broadcast(arrangement, op, leads):
    data, initial, state = leads
    initial_name = op.initials[0].name
    flat = random_operands(op, data, sizes(37, 6, 5), own={initial_name: initial, "state": state})
    assert_equals_reference(op, flat, arrangement)


def test_many_sequences_share_a_state():
    # More of them than a chunk, whose sums are added up afterwards.
    own = {"W": (5,), "state": (300, 1)}
    assert_equals_reference(SRWM, random_operands(SRWM, (300, 5), sizes(6, 4, 4), own=own), 1)
    own = {"W": (300, 1), "state": (5,)}
    assert_equals_reference(SRWM, random_operands(SRWM, (300, 5), sizes(6, 4, 4), own=own), 2)


def test_no_fast_weights_but_a_state(arrangement, lead):
    flat = random_operands(DELTA, lead, sizes(40, 6, 9), without=("S",))
    assert_equals_reference(DELTA, flat, arrangement)
    neither = random_operands(DELTA, lead, sizes(40, 6, 9), without=("S", "state"))
    assert_equals_reference(DELTA, neither, arrangement)


@each_operator
@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("is_wide", [False, True], ids=["half", "float32"])
def test_halves(arrangement, lead, op, half, is_wide):
    """The state, the one returned and the gradients of both may be float32 beside halves."""
    flat = as_dtype(random_operands(op, lead, sizes(34, 6, 5)), half)
    gradients = as_dtype(random_gradients(op, lead, sizes(34, 6, 5)), half)
    place = op.places("state")[0]
    if is_wide:
        flat[place], gradients[1] = flat[place].astype(np.float32) / 3, gradients[1].astype(np.float32) / 3
    truth = reference(op, as_dtype(flat, np.float64), as_dtype(gradients, np.float64))
    got = run(op, flat, gradients, num_threads=arrangement)
    for name in truth:
        wide = is_wide and name in ("after", "g_state")
        assert got[name].dtype == (np.float32 if wide else half), name
        tolerance = TOLERANCE["float32" if wide else np.dtype(half).name]
        assert_close({name: got[name]}, {name: truth[name]}, tolerance)


@each_operator
def test_steps_one_by_one_equal_one_call(arrangement, lead, op):
    flat = random_operands(op, lead, sizes(9, 6, 5), without=("reset",))
    y, after, _ = save(op, flat, num_threads=arrangement)
    place, initial = op.places("state")[0], op.places("initial")[0]
    steps, state = [], flat[place]
    for t in range(9):
        step = [a[:, t : t + 1] if op.flat[i].role == "data" else a for i, a in enumerate(flat)]
        step[place], step[initial] = state, flat[initial] * np.nan
        y_t, state, _ = save(op, step, num_threads=arrangement)
        steps.append(y_t)
    assert_close({"y": np.concatenate(steps, 1), "after": state}, {"y": y, "after": after}, 1e-12)
