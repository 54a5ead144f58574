"""Leading axes: against NumPy's own broadcasting."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from srwm import _checks
from srwm._cy import cpu
from srwm.reference import loop
from tests.operators import EVERYTHING, each_operator, random_case

LEADS = [(), (1,), (3,), (2, 3), (2, 1), (1, 3), (2, 2, 3), (0,), (2, 0), (5, 1, 1)]


@pytest.mark.parametrize(("a", "b"), list(product(LEADS, LEADS)))
def test_broadcast_of_two_is_numpys(a, b):
    try:
        expected = np.broadcast_shapes(a, b)
    except ValueError:
        expected = None
    assert _checks.broadcast_pair(a, b) == expected


@each_operator
def test_leading_axes_of_all_operands_are_numpys(row):
    """Of every operand in turn beside every other one."""
    case = random_case(row, ((), (), 4, 2, 3), **EVERYTHING)
    for (i, a), (j, b) in product(enumerate(LEADS), enumerate(LEADS[:6])):
        flat = list(case.flat)
        first, second = i % len(flat), (i + j + 1) % len(flat)
        for place, lead in ((first, a), (second, b)):
            flat[place] = np.broadcast_to(case.flat[place], (*lead, *case.flat[place].shape))
        own = [a for place, a in ((first, a), (second, b))] if first != second else [b]
        try:
            expected = np.broadcast_shapes(*own)
        except ValueError:
            with pytest.raises(ValueError, match="expected leading axes that broadcast"):
                _checks.operands(row.op, "op", flat)
        else:
            assert _checks.operands(row.op, "op", flat)[0] == expected


@pytest.mark.parametrize(
    ("shape", "lead"),
    [((3, 1, 4), (2, 3, 5, 4)), ((4,), (7, 4)), ((2, 4), (2, 4)), ((1,), (0,)), ((), (2, 3))],
)
def test_sum_to_shape_is_the_transpose_of_broadcasting(shape, lead):
    rng = np.random.default_rng(0)
    a, g = rng.standard_normal(shape), rng.standard_normal(lead)
    summed = loop.sum_to_shape(np, g, shape)
    assert summed.shape == shape
    assert np.sum(summed * a) == pytest.approx(np.sum(g * np.broadcast_to(a, lead)), rel=1e-12)


@pytest.mark.parametrize(
    ("lead", "W_lead"), [((2, 3), (3,)), ((2, 3), (2, 1)), ((4,), ()), ((2, 0), (2, 1))]
)
def test_sequences_by_weight_finds_each_weights_readers(lead, W_lead):
    weight_of = np.broadcast_to(np.arange(np.prod(W_lead, dtype=int)).reshape(W_lead), lead).ravel()
    order = cpu.by_entry(lead, W_lead)
    for weight, readers in enumerate(order):
        np.testing.assert_array_equal(readers, np.flatnonzero(weight_of == weight))
