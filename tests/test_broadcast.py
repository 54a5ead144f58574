"""Leading axes: against NumPy's own broadcasting."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from srwm import _broadcast

LEADS = [(), (1,), (3,), (2, 3), (2, 1), (1, 3), (2, 2, 3), (0,), (2, 0)]


@pytest.mark.parametrize(("x_lead", "W_lead", "reset_lead"), list(product(LEADS, LEADS, LEADS[:4])))
def test_leading_shape_is_numpys(x_lead, W_lead, reset_lead):
    x, W, reset = np.zeros((*x_lead, 4, 2)), np.zeros((*W_lead, 2, 9)), np.zeros((*reset_lead, 4))
    try:
        expected = np.broadcast_shapes(x_lead, W_lead, reset_lead)
    except ValueError:
        with pytest.raises(ValueError, match="broadcast"):
            _broadcast.leading_shape("op", x, W, reset)
    else:
        assert _broadcast.leading_shape("op", x, W, reset) == expected


@pytest.mark.parametrize(("shape", "lead"), [((3, 1, 4), (2, 3, 5, 4)), ((4,), (7, 4)), ((2, 4), (2, 4))])
def test_sum_to_shape_is_the_transpose_of_broadcasting(shape, lead):
    rng = np.random.default_rng(0)
    a, g = rng.standard_normal(shape), rng.standard_normal(lead)
    summed = _broadcast.sum_to_shape(np, g, shape)
    assert summed.shape == shape
    assert np.sum(summed * a) == pytest.approx(np.sum(g * np.broadcast_to(a, lead)), rel=1e-12)


@pytest.mark.parametrize(
    ("lead", "W_lead"), [((2, 3), (3,)), ((2, 3), (2, 1)), ((4,), ()), ((2, 0), (2, 1))]
)
def test_sequences_by_weight_finds_each_weights_readers(lead, W_lead):
    weight_of = np.broadcast_to(np.arange(np.prod(W_lead, dtype=int)).reshape(W_lead), lead).ravel()
    order = _broadcast.sequences_by_weight(lead, W_lead)
    for weight, readers in enumerate(order):
        np.testing.assert_array_equal(readers, np.flatnonzero(weight_of == weight))
