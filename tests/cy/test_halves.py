"""Halves as the kernels read and write them: every value, and the rounding of float32 to them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import srwm

each_half = pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])


def products(x, W_y):
    """x W_y (N,) by the operator, of one step with D = Do = 1: computed in float32, rounded once."""
    W = np.zeros((len(x), 1, 7), x.dtype)
    W[:, 0, 0] = W_y
    return srwm.forward(x[:, None, None], W)[:, 0, 0]


def assert_same_bits(got, expected):
    both_nan = np.isnan(got) & np.isnan(expected)
    np.testing.assert_array_equal(got.view(np.uint16)[~both_nan], expected.view(np.uint16)[~both_nan])


@each_half
def test_every_value_comes_back(dtype):
    values = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    got = products(np.ones_like(values), values)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        wide, got_wide = values.astype(np.float32), got.astype(np.float32)
    is_nan = np.isnan(wide)
    # -0 + 0 is 0: the sum begins with it
    np.testing.assert_array_equal(got_wide[~is_nan], wide[~is_nan] + np.float32(0))
    assert np.isnan(got_wide[is_nan]).all()


@each_half
@pytest.mark.parametrize("scale", [1, 1e-3, 1e-7, 300], ids=str)
def test_results_are_rounded_to_nearest_and_ties_to_even(dtype, scale):
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((2, 200_000), dtype=np.float32) * np.float32(scale**0.5)
    a, b = factors.astype(dtype)
    with np.errstate(over="ignore"):
        expected = (a.astype(np.float32) * b.astype(np.float32) + np.float32(0)).astype(dtype)
    assert_same_bits(products(a, b), expected)


@each_half
def test_ties_themselves(dtype):
    # (1 + odd units) * 1.5 and the like lie half-way between two neighbours often
    units = np.arange(1, 200, 2)
    a = (1 + units * float(ml_dtypes.finfo(dtype).eps)).astype(dtype)
    b = np.full_like(a, 1.5)
    assert_same_bits(products(a, b), (a.astype(np.float32) * b.astype(np.float32)).astype(dtype))


@each_half
def test_halves_that_are_not_aligned(dtype):
    packed = np.zeros(21 * 2 + 1, np.uint8)[1:].view(dtype).reshape(3, 7)
    packed[...] = np.arange(21).reshape(3, 7) / 8
    x = np.ones((1, 3), dtype) / dtype(4)
    W = np.concatenate([packed, packed[:, :4]], axis=1)
    unaligned = np.zeros(W.nbytes + 1, np.uint8)[1:].view(dtype).reshape(W.shape)
    unaligned[...] = W
    assert not unaligned.flags.aligned
    np.testing.assert_array_equal(srwm.forward(x, unaligned), srwm.forward(x, W))
