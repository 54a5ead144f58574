"""Matrices that grow: where undoing updates would lose their early values, the kernels replay them."""

from __future__ import annotations

import numpy as np
import pytest

from srwm._cy import launch
from srwm.operators.spec import SEGMENT
from tests.cuda_host import backend
from tests.operators import (
    CUDA_ON_HOST,
    DELTA,
    SRWM,
    TOLERANCE,
    assert_close,
    assert_same,
    each_operator_on_cuda,
    growth_case,
    long_keys_case,
    random_case,
    run,
    truth_of,
)
from tests.raw_kernels.test_kernels import CountingPlatform

# Without a C++ compiler no kernel can be built; in CI tests/operators.py fails for that.
pytestmark = pytest.mark.skipif(backend.unusable() is not None, reason=str(backend.unusable()))

# For each way in which the kernels are laid out a size, a dtype, the architecture whose limits they have.
VARIANTS = {
    "groups of one warp": (((9,), (9,), 40, 16, 16), "float32", 90),
    "a W of all sequences": (((9,), (), 40, 16, 16), "float32", 90),
    "a head of odd size": (((2, 3), (3,), 38, 9, 5), "float32", 90),
    "several warps": (((2,), (2, 1), 40, 32, 32), "float32", 90),
    "a state partly in shared memory": (((1,), (1,), 40, 128, 8), "float32", 90),
    "a state partly in working memory": (((2,), (1,), 36, 100, 3), "float64", 75),
    "sums in working memory": (((1,), (1,), 34, 160, 1), "float64", 60),
    "three segments": (((2,), (2,), 70, 8, 8), "float32", 90),
    "halves": (((3,), (), 34, 16, 16), "float16", 90),
}
each_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
IN_MEMORY = (
    "a state partly in shared memory",
    "a state partly in working memory",
    "sums in working memory",
)

# The sanitizers take long.
SANITIZED = ("groups of one warp", "several warps", "a state partly in working memory")
OFTEN = {SRWM: "groups of one warp", DELTA: "several warps"}


def running(variant, **how):
    return backend.running(device=launch.ARCHITECTURES[variant[2]]._replace(multiprocessors=1), **how)


def growing_case(row, variant, **options):
    """A matrix that grows at every step: by a fifth, or threefold; by less where halves would overflow."""
    size, dtype, _ = variant
    if row is SRWM:
        return growth_case(size, 1.2, **options).astype(dtype)
    return long_keys_case(1.45 if dtype == "float16" else 2, size, initial=True, **options).astype(dtype)


def assert_as_exact(case, factor=10, of=lambda name, a: a):
    """Every result of every sequence as exact as the reference, which stores all matrices, in that dtype.

    `of`: the part of a result that is compared.
    """
    truth, stored, got = truth_of(case), run(case, backend="reference"), CUDA_ON_HOST.run(case)
    # float64's truth is the reference itself: what is allowed beside it is some roundings
    least = 1e-6 if case.flat[0].dtype == np.float32 else 1e-13
    assert got.keys() == truth.keys()
    for name in truth:
        expected = of(name, truth[name])
        axes = tuple(range(1, expected.ndim))
        scale = np.maximum(1, np.abs(expected).max(axes))
        error, allowed = (
            (np.abs(of(name, results[name]) - expected).max(axes) / scale).max()
            for results in (got, stored)
        )
        assert error <= max(factor * allowed, least), name


@pytest.mark.slow_where(
    lambda start, variant: len(start) < 2 and variant in [VARIANTS[name] for name in IN_MEMORY]
)
@each_variant
@pytest.mark.parametrize("start", [{}, {"reset": True}, {"state": True, "reset": True}], ids=str)
@each_operator_on_cuda
def test_a_growing_matrix_is_as_exact_as_if_all_were_stored(row, start, variant):
    case = growing_case(row, variant, **start)
    with running(variant):
        if variant[1] == "float16":
            assert_close(CUDA_ON_HOST.run(case), truth_of(case), TOLERANCE["float16"])
        else:
            assert_as_exact(case)


@pytest.mark.parametrize("state_dtype", ["float16", "float32"])
@each_operator_on_cuda
def test_a_growing_state_beside_halves(row, state_dtype):
    case = growing_case(row, VARIANTS["halves"], state=True).astype(np.float16, state_dtype)
    assert_close(CUDA_ON_HOST.run(case), truth_of(case), TOLERANCE["float16"])


@pytest.mark.slow_where(lambda row, name: OFTEN[row] != name)
@pytest.mark.parametrize("mode", ["race", "bounds"])
@pytest.mark.parametrize("name", SANITIZED)
@each_operator_on_cuda
def test_no_race_and_nothing_out_of_bounds(row, name, mode):
    variant = VARIANTS[name]
    case = growing_case(row, variant, state=True, reset=True)
    with running(variant, mode=mode):
        assert_close(CUDA_ON_HOST.run(case), truth_of(case), TOLERANCE[variant[1]])


@each_variant
@each_operator_on_cuda
def test_bitwise_the_same_in_any_order_of_threads(row, variant):
    case = growing_case(row, variant, reset=True)
    with running(variant):
        expected = CUDA_ON_HOST.run(case)
    with running(variant, order="random", seed=1):
        assert_same(CUDA_ON_HOST.run(case), expected)


@pytest.mark.parametrize("growth", [1e4 ** (1 / 48), 1e6 ** (1 / 70)])
@pytest.mark.parametrize("D", [16, 32])
def test_a_matrix_that_grows_up_to_a_millionfold(growth, D):
    L = 48 if growth > 1.21 else 70
    case = growth_case(((2,), (2,), L, D, D + 3), growth)
    assert_as_exact(case.astype(np.float32))
    assert_as_exact(case)


@pytest.mark.parametrize("first", [1, 5])
def test_a_matrix_that_grows_after_a_reset_to_a_small_one(first):
    """What it is compared with is what it was after the reset, not the large state of before."""
    case = growth_case(((3,), (3,), 32, 16, 16), 1.22, state=True)
    state = case["state"].copy()
    state[..., :16] *= 1e4
    reset = np.zeros((3, 32), bool)
    reset[:2, first] = True
    grad_y, grad_W_next = (g.copy() for g in case.incoming)
    grad_y[:, first + 7 :], grad_W_next[...] = 0, 0  # of what is small alone
    case = case.with_(state=state, reset=reset).with_incoming(grad_y, grad_W_next).astype(np.float32)
    assert_as_exact(case, of=lambda name, a: a[:2, first : first + 7] if name == "gx" else a)


@pytest.mark.parametrize("length", [1.0, 2.0, 2.5, 3.0])
@pytest.mark.parametrize("D", [1, 4, 16, 64])
def test_long_keys(length, D):
    case = long_keys_case(length, ((2,), (2,), 32, D, D))
    assert_as_exact(case)
    assert_as_exact(case.astype(np.float32))


@pytest.mark.parametrize("L", [1, 2, 3, 4, 5, 31, 33, 36, 37, 70])
def test_long_keys_at_any_length(L):
    case = long_keys_case(3 if L < 40 else 2, ((2,), (2,), L, 4, 7), initial=True)
    assert_as_exact(case)
    assert_as_exact(case.astype(np.float32))


def test_rates_that_are_no_rates():
    case = long_keys_case(1.0, ((2,), (2,), 40, 5, 5), initial=True)
    beta = np.where(np.arange(40) % 2, -1.0, 2.5) * case["beta"]
    assert_as_exact(case.with_(beta=beta).astype(np.float32))


@pytest.mark.parametrize("D", [4, 32])
def test_one_step_that_multiplies_a_millionfold(D):
    case = long_keys_case(1.0, ((2,), (2,), 20, D, D), initial=True)
    k = case["k"].copy()
    k[..., 11, :] *= 1e3
    assert_as_exact(case.with_(k=k).astype(np.float32))


@pytest.mark.parametrize("D", [6, 33])
def test_long_keys_of_one_sequence_alone_and_between_resets(D):
    """Sequences of one block, of which some stretches grow."""
    case = long_keys_case(1.0, ((5,), (5,), 75, D, D), initial=True)
    k = case["k"].copy()
    k[1, 35:60] *= 3
    k[3, 2:9] *= 2
    reset = np.zeros((5, 75), bool)
    reset[0, [5, 33]] = reset[1, [20, 40, 60]] = reset[3, [0, 6, 32, 64]] = True
    case = case.with_(q=k, k=k, reset=reset)
    assert_as_exact(case)
    assert_as_exact(case.astype(np.float32))


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("step", [1, 20, 40])
def test_values_of_another_size(step, initial):
    """Additions make S grow too: what a step reads before it must not drown in what undoing them leaves."""
    case = long_keys_case(1.0, ((2,), (2,), 70, 8, 8), initial=initial)
    v, (grad_y, grad_S_next) = case["v"].copy(), (g.copy() for g in case.incoming)
    v[..., step:, :] *= 1e6
    grad_y[..., step:, :], grad_S_next[...] = 0, 0
    case = case.with_(v=v).with_incoming(grad_y, grad_S_next).astype(np.float32)
    got, truth = CUDA_ON_HOST.run(case), truth_of(case)
    for name in ("gq", "gk", "gv"):
        before, expected = got[name][..., :step, :], truth[name][..., :step, :]
        error = np.abs(before - expected).max(-1) / np.abs(expected).max(-1)
        assert error.max() < 1e-4, name


def test_what_is_no_number_is_no_trouble():
    for row in (SRWM, DELTA):
        case = random_case(row, ((2,), (2,), 70, 5, 3), reset=True)
        first = case.flat[0].copy()
        first[0, 20] = np.nan
        got = CUDA_ON_HOST.run(case.with_(**{row.op.names[0]: first}).astype(np.float32))
        assert np.isnan(got["y"][0]).any()
        assert not np.isnan(got["y"][1]).any()


def syncs_of_backward(case):
    """Warp-wide barriers of the backward kernel. Every matrix that is read or replayed takes some."""
    counted = {}
    with backend.on(CountingPlatform(counted)):
        CUDA_ON_HOST.run(case.astype(np.float32))
    return counted[f"{case.row.op.name}_backward"]["syncwarp"]


@pytest.mark.parametrize("D", [4, 16, 32])
def test_matrices_that_do_not_grow_are_undone(D):
    size = ((16,), (16,), 3 * SEGMENT, D, D)
    case = random_case(SRWM, size)
    least = syncs_of_backward(case.with_(x=np.zeros_like(case["x"])))  # q = k: no update at all
    for scale in (1, 3, 10):
        assert syncs_of_backward(case.with_(W=scale * case["W"])) < 1.02 * least
    assert syncs_of_backward(growth_case(size, 1.15)) > 2 * least
    case = long_keys_case(1.0, size)
    least = syncs_of_backward(case.with_(beta=np.zeros_like(case["beta"])))
    padded = {name: case[name].copy() for name in ("v", "beta")}
    padded["v"][:, :7], padded["beta"][:, :7] = 0, 0  # as padding at the left is
    for length, S in ((1.0, 0.0), (1.0, 0.1), (1.4, 1.0)):
        case = long_keys_case(length, size, initial=True)
        assert syncs_of_backward(case.with_(S=S * case["S"], **padded)) < 1.02 * least
    assert syncs_of_backward(long_keys_case(2.0, size)) > 2 * least
