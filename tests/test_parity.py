"""Every backend against the float64 reference, in one suite: the same cases, names and tolerances.

"cuda-on-host" is the CUDA backend with its kernels run on the CPU (tests/cuda_host); "cuda" runs where
there is a device: `pytest -m gpu`, or `make gpu-check` for its owner.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.cases import (
    SIZES,
    TOLERANCE,
    Case,
    DeltaCase,
    assert_close,
    each_reset,
    growth_case,
    random_case,
    random_delta_case,
    relative_error,
    run,
    run_delta,
)
from tests.parity import CUDA, REFERENCE, each_backend

# Beside the table of sizes: those at which the published backward is wrong (heads of 32 and 64, more
# than a segment of steps), heads wider than a warp, outputs wider than heads and narrower.
GPU_SIZES = [
    *SIZES,
    ((2,), (), 300, 16, 16),
    ((1,), (1,), 600, 32, 32),
    ((1,), (1,), 200, 64, 64),
    ((1,), (1,), 200, 128, 128),
    ((2,), (2,), 200, 40, 40),
    ((1,), (1,), 37, 16, 300),
    ((1,), (1,), 5, 256, 3),
    ((1,), (1,), 5, 70, 1024),
    ((1500,), (), 2, 2, 1),  # more sequences of one weight than pieces in which its gradient is summed
]
each_size = pytest.mark.parametrize("size", GPU_SIZES, ids=lambda s: "-".join(map(str, s)))


def truth_of(case: Case) -> dict[str, Any]:
    return run(REFERENCE, case)


@each_backend
@each_reset
@each_size
def test_float32_equals_the_float64_reference(backend, size, with_reset):
    case = random_case(size, with_reset=with_reset).astype(np.float32)
    assert_close(run(backend, case), truth_of(case.astype(np.float64)), TOLERANCE["float32"])


@each_backend
@each_reset
@each_size
def test_float64_equals_the_reference(backend, size, with_reset):
    case = random_case(size, with_reset=with_reset)
    assert_close(run(backend, case), truth_of(case), TOLERANCE["float64"])


@each_backend
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize(
    "size",
    [((2, 3), (3,), 34, 16, 16), ((3,), (), 20, 33, 5), ((), (2,), 9, 64, 64)],
    ids=["own", "shared W", "shared x"],
)
def test_halves_are_stored_so_and_computed_in_float32(backend, size, dtype):
    if backend is CUDA and dtype is ml_dtypes.bfloat16:
        # It has no array of that dtype to be called with.
        pytest.skip("CuPy has no bfloat16; torch tensors on a device have, see test_gpu.py")
    case = random_case(size, with_reset=True).astype(dtype)
    got = run(backend, case)
    assert all(a.dtype == dtype for a in got.values())
    assert_close(got, truth_of(case.astype(np.float64)), TOLERANCE[np.dtype(dtype).name])


@each_backend
def test_growing_state_costs_no_accuracy(backend):
    case = growth_case()
    got = run(backend, case.astype(np.float32))
    assert_close(got, truth_of(case.astype(np.float32).astype(np.float64)), TOLERANCE["float32"])


@each_backend
@pytest.mark.parametrize("lead", [((0,), ()), ((), (0,)), ((0, 2), (1, 2)), ((2,), (2,))])
@pytest.mark.parametrize("L", [0, 3])
def test_empty_axes(backend, lead, L):
    case = random_case((*lead, L, 4, 3))
    assert_close(run(backend, case), truth_of(case), TOLERANCE["float64"])


@each_backend
@pytest.mark.parametrize("steps", [31, 32, 33, 36, 37, 64, 65])
def test_resets_beside_the_ends_of_segments(backend, steps):
    case = random_case(((4,), (4,), steps, 16, 16))
    reset = np.zeros((4, steps), bool)
    reset[0, 0] = reset[1, -1] = reset[2, steps // 2] = reset[3, 31 % steps] = reset[3, 32 % steps] = True
    case = case._replace(reset=reset)
    assert_close(run(backend, case), truth_of(case), TOLERANCE["float64"])


@each_backend
def test_any_strides(backend):
    case = random_case(((3, 2), (2,), 12, 5, 7), with_reset=True)
    strided = Case(
        x=np.moveaxis(np.ascontiguousarray(np.moveaxis(case.x, -1, 0)), 0, -1),
        W=np.repeat(case.W, 2, axis=-1)[..., ::2],
        reset=np.asfortranarray(case.reset),
        grad_y=np.broadcast_to(case.grad_y[:, :1, :1, :], case.grad_y.shape),
        grad_W_next=case.grad_W_next.swapaxes(-1, -2).copy().swapaxes(-1, -2),
    )
    truth = truth_of(Case(*(np.ascontiguousarray(a) for a in strided)))
    assert_close(run(backend, strided), truth, TOLERANCE["float64"])


@each_backend
def test_leading_axes_that_do_not_merge(backend):
    rng = np.random.default_rng(0)
    case = Case(
        x=rng.standard_normal((2, 1, 3, 1, 2, 4, 5)),
        W=rng.standard_normal((1, 2, 1, 3, 1, 5, 16)),
        reset=rng.random((2, 1, 1, 3, 1, 4)) < 0.2,
        grad_y=rng.standard_normal((2, 2, 3, 3, 2, 4, 2)),
        grad_W_next=rng.standard_normal((2, 2, 3, 3, 2, 5, 16)),
    )
    assert_close(run(backend, case), truth_of(case), TOLERANCE["float64"])


@each_backend
def test_two_halves_with_carried_state_are_the_whole(backend):
    case = random_case(((2,), (2,), 50, 16, 16))
    whole = run(backend, case)
    first = case._replace(x=case.x[:, :23], grad_y=case.grad_y[:, :23])
    (y_1, state), pull_first = backend.vjp(first.x, first.W)
    (y_2, last), pull_second = backend.vjp(case.x[:, 23:], state)
    gx_2, g_state = pull_second(case.grad_y[:, 23:], case.grad_W_next)
    gx_1, gW = pull_first(first.grad_y, g_state)
    y, gx = np.concatenate([y_1, y_2], 1), np.concatenate([gx_1, gx_2], 1)
    halves = {"y": y, "W_next": last, "gx": gx, "gW": gW}
    assert_close(halves, whole, TOLERANCE["float64"])


@each_backend
def test_no_gradient_of_the_state_is_a_zero_one(backend):
    case = random_case(((2,), (2,), 9, 8, 8))
    _, pullback = backend.vjp(case.x, case.W)
    without, zero = pullback(case.grad_y), pullback(case.grad_y, np.zeros_like(case.grad_W_next))
    for a, b in zip(without, zero, strict=True):
        assert relative_error(a, b) < 1e-14


@each_backend
def test_bitwise_the_same_from_run_to_run(backend):
    case = random_case(((40,), (), 20, 16, 16), with_reset=True).astype(np.float32)
    first, second = run(backend, case), run(backend, case)
    for name in first:
        assert np.array_equal(first[name], second[name]), name


@each_backend
@each_reset
@each_size
def test_delta_rule_float32_equals_the_float64_reference(backend, size, with_reset):
    case = random_delta_case(size, with_reset=with_reset).astype(np.float32)
    truth = run_delta(REFERENCE, case.astype(np.float64))
    assert_close(run_delta(backend, case), truth, TOLERANCE["float32"])


@each_backend
@each_reset
@each_size
def test_delta_rule_float64_equals_the_reference(backend, size, with_reset):
    case = random_delta_case(size, with_reset=with_reset)
    assert_close(run_delta(backend, case), run_delta(REFERENCE, case), TOLERANCE["float64"])


@each_backend
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("size", [((2, 3), (3,), 34, 16, 16), ((), (2,), 9, 33, 64)])
def test_delta_rule_in_halves(backend, size, dtype):
    if backend is CUDA and dtype is ml_dtypes.bfloat16:
        # It has no array of that dtype to be called with.
        pytest.skip("CuPy has no bfloat16; torch tensors on a device have, see test_gpu.py")
    case = random_delta_case(size, with_reset=True).astype(dtype)
    got = run_delta(backend, case)
    assert all(a.dtype == dtype for a in got.values())
    assert_close(got, run_delta(REFERENCE, case.astype(np.float64)), TOLERANCE[np.dtype(dtype).name])


@each_backend
def test_delta_rule_of_operands_that_all_broadcast_and_stride(backend):
    rng = np.random.default_rng(0)
    case = random_delta_case(((3, 2), (), 37, 5, 7), with_reset=True)._replace(
        q=rng.standard_normal((2, 5, 37)).swapaxes(-1, -2),
        k=rng.standard_normal((3, 1, 37, 10))[..., ::2] / 3,
        beta=rng.random((2, 74))[:, ::2],
        grad_y=np.broadcast_to(rng.standard_normal(7), (3, 2, 37, 7)),
    )
    whole = DeltaCase(*(np.ascontiguousarray(a) for a in case))
    assert_close(run_delta(backend, case), run_delta(REFERENCE, whole), TOLERANCE["float64"])


@each_backend
@pytest.mark.parametrize("lead", [((0,), ()), ((), (0,)), ((2,), (2,))])
@pytest.mark.parametrize("L", [0, 3])
def test_delta_rule_of_empty_axes(backend, lead, L):
    case = random_delta_case((*lead, L, 4, 3))
    assert_close(run_delta(backend, case), run_delta(REFERENCE, case), TOLERANCE["float64"])


@each_backend
def test_delta_rule_without_a_state_begins_at_zero(backend):
    case = random_delta_case(((2,), (2,), 9, 8, 5))
    zero = run_delta(backend, case._replace(S=np.zeros_like(case.S)))
    without = run_delta(backend, case._replace(S=None))
    assert "gS" not in without
    assert_close(without, {name: zero[name] for name in without}, 1e-14)


@each_backend
@pytest.mark.parametrize("steps", [31, 32, 33, 36, 37, 65])
def test_delta_rule_resets_beside_the_ends_of_segments(backend, steps):
    reset = np.zeros((4, steps), bool)
    reset[0, 0] = reset[1, -1] = reset[2, steps // 2] = reset[3, 31 % steps] = reset[3, 32 % steps] = True
    case = random_delta_case(((4,), (4,), steps, 16, 16))._replace(reset=reset)
    assert_close(run_delta(backend, case), run_delta(REFERENCE, case), TOLERANCE["float64"])
