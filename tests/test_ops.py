"""The public operator on arrays: results, purity, strides, broadcasting, dtypes, carried state."""

from __future__ import annotations

import re
import subprocess
import sys

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import srwm
from tests.cases import TOLERANCE, assert_close, each_reset, random_case, relative_error, run

each_backend = pytest.mark.parametrize("backend", ["cython", "reference"])


@st.composite
def cases(draw):
    """Cases of random sizes: leading axes that broadcast, any L, D, Do, from 0 or 1 on."""
    lead = draw(st.lists(st.integers(0, 3), max_size=3))

    def part_of(axes):
        axes = [draw(st.sampled_from((1, n))) for n in axes]
        return tuple(axes[draw(st.integers(0, len(axes))) :])

    size = (
        part_of(lead),
        part_of(lead),
        draw(st.sampled_from((0, 1, 2, 3, 17, 40))),
        draw(st.integers(1, 20)),
        draw(st.integers(1, 20)),
    )
    return random_case(size, with_reset=draw(st.booleans()), seed=draw(st.integers(0, 9)))


def with_strides(draw, a):
    """The same array behind other strides: permuted, reversed, with gaps, or broadcast in memory."""
    axes = draw(st.permutations(range(a.ndim)))
    steps = [draw(st.sampled_from((1, -1, 2, -3))) for _ in axes]
    spread = np.full([n * abs(step) for n, step in zip(a.shape, steps, strict=True)], True, a.dtype)
    spread = spread.transpose(axes).copy().transpose(np.argsort(axes))
    view = spread[tuple(slice(None, None, step) for step in steps)]
    view[...] = a
    assert view.shape == a.shape
    return view


@given(cases(), st.data())
def test_any_shapes_and_strides(case, data):
    truth = run(srwm, case, backend="reference")
    strided = case._replace(
        **{k: with_strides(data.draw, a) for k, a in case._asdict().items() if a is not None}
    )
    for a in strided:
        if a is not None:
            a.flags.writeable = False
    assert_close(run(srwm, strided, backend="cython"), truth, TOLERANCE["float64"])


@each_backend
def test_inputs_are_not_modified(backend):
    case = random_case(((2, 3), (3,), 40, 5, 7), with_reset=True)
    before = case._replace(**{k: a.copy() for k, a in case._asdict().items()})
    srwm.forward(case.x, case.W, reset=case.reset, return_state=True, backend=backend)
    run(srwm, case, backend=backend)
    srwm.backward(case.x, case.W, case.grad_y, case.grad_W_next, reset=case.reset, backend=backend)
    for name, a, b in zip(case._fields, case, before, strict=True):
        np.testing.assert_array_equal(a, b, name)


@each_backend
def test_pullback_does_not_see_what_becomes_of_arguments_and_results(backend):
    case = random_case(((2,), (), 40, 5, 7), with_reset=True)
    truth = run(srwm, case, backend="reference")
    x, W, reset = case.x.copy(), case.W.copy(), case.reset.copy()
    (y, W_next), pullback = srwm.vjp(x, W, reset=reset, backend=backend)
    for a in (x, W, y, W_next):
        a[...] = 7
    reset[...] = True
    for _ in range(2):  # as often as one likes
        gx, gW = pullback(case.grad_y, case.grad_W_next)
        assert_close({"gx": gx, "gW": gW}, {n: truth[n] for n in ("gx", "gW")}, 1e-11)


@each_backend
@each_reset
def test_two_halves_with_carried_state_are_the_whole(backend, with_reset):
    case = random_case(((2, 3), (2, 3), 50, 6, 5))
    cut = 23
    reset = None
    if with_reset:  # a reset in the second half would lead back to the half's own start
        reset = np.zeros((2, 3, 50), bool)
        reset[0, 1, [4, 20]] = reset[1, :, 7] = True
    whole = run(srwm, case._replace(reset=reset), backend=backend)
    first_reset = None if reset is None else reset[..., :cut]
    (y1, W1), back1 = srwm.vjp(case.x[..., :cut, :], case.W, reset=first_reset, backend=backend)
    (y2, W2), back2 = srwm.vjp(case.x[..., cut:, :], W1, backend=backend)
    gx2, gW1 = back2(case.grad_y[..., cut:, :], case.grad_W_next)
    gx1, gW = back1(case.grad_y[..., :cut, :], gW1)
    got = {
        "y": np.concatenate([y1, y2], axis=-2),
        "W_next": W2,
        "gx": np.concatenate([gx1, gx2], axis=-2),
        "gW": gW,
    }
    assert_close(got, whole, 1e-12)


@each_backend
def test_halves_are_stored_and_computed_in_float32(backend):
    for dtype in (np.float16, ml_dtypes.bfloat16):
        name = np.dtype(dtype).name
        case = random_case(((2, 3), (3,), 40, 16, 8), with_reset=True).astype(dtype)
        truth = run(srwm, case.astype(np.float64), backend="reference")
        got = run(srwm, case, backend=backend)
        assert all(a.dtype == dtype for a in got.values())
        assert_close(got, truth, TOLERANCE[name], name)


@each_backend
def test_gradients_of_what_is_not_given_are_zero(backend):
    case = random_case(((2,), (), 7, 3, 2))
    got = srwm.backward(case.x, case.W, case.grad_y, backend=backend)
    zero = np.zeros_like(case.grad_W_next)
    expected = srwm.backward(case.x, case.W, case.grad_y, zero, backend=backend)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@each_backend
@pytest.mark.parametrize("lead", [(0,), (2, 0), (3,)])
def test_axes_of_length_zero(backend, lead):
    x, W = np.ones((*lead, 0, 4)), np.ones((4, 3 + 2 * 4 + 4))
    (y, W_next), pullback = srwm.vjp(x, W, backend=backend)
    assert y.shape == (*lead, 0, 3)
    np.testing.assert_array_equal(W_next, np.broadcast_to(W, (*lead, 4, 15)))
    grad_W_next = np.random.default_rng(0).standard_normal(W_next.shape)
    gx, gW = pullback(np.zeros_like(y), grad_W_next)
    assert gx.shape == x.shape
    sequences = tuple(range(len(lead)))
    np.testing.assert_allclose(gW, grad_W_next.sum(sequences), rtol=1e-14, atol=1e-14)


@each_backend
def test_nan_and_inf_propagate(backend):
    case = random_case(((4,), (), 20, 6, 5))
    clean = srwm.forward(case.x, case.W, backend=backend)
    x = case.x.copy()
    x[1, 7, 2], x[2, 7, 2], x[3, 7, 2] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        y = srwm.forward(x, case.W, backend=backend)
        gx, _ = srwm.backward(x, case.W, case.grad_y, backend=backend)
    np.testing.assert_allclose(y[0], clean[0], rtol=1e-12)
    np.testing.assert_allclose(y[:, :7], clean[:, :7], rtol=1e-12)
    assert np.isnan(y[1, 7:]).all()
    for n in (2, 3):
        assert not np.isfinite(y[n, 7]).any()
        assert np.isnan(y[n, 8:]).all()
    assert np.isnan(gx[1:, 7]).all()
    assert np.isfinite(gx[0]).all()


@each_backend
def test_saturated_gates_are_exact(backend):
    # softmax and sigmoid of +-1000: no overflow, and exactly 0 and 1.
    W = np.zeros((1, 2, 2 + 4 + 4))
    W[..., :2] = [[1.0, 2.0], [3.0, 5.0]]
    W[..., 0, 2], W[..., 0, 5], W[..., 0, 6] = 1000.0, 1000.0, 1000.0  # q on 0, k on 1, beta_0 = 1
    W[..., 0, 7:] = -1000.0
    for dtype in ("float32", "float64"):
        x = np.array([[[1.0, 0.0], [0.0, 1.0]]], dtype)
        y = srwm.forward(x, W.astype(dtype), backend=backend)
        # y_2 is row 1 of W_y after adding (row 0 - row 1) to it: row 0
        np.testing.assert_array_equal(y, [[[1.0, 2.0], [1.0, 2.0]]])


def test_arrays_of_another_library_come_back_as_such():
    case = random_case(((2,), (), 5, 3, 2), with_reset=True)
    expected = run(srwm, case)
    other = case._replace(**{k: array_api_strict.asarray(a) for k, a in case._asdict().items()})
    got = run(srwm, other)
    y = srwm.forward(other.x, other.W, reset=other.reset)
    for name, a in got.items():
        assert type(a) is type(other.x)
        np.testing.assert_array_equal(np.asarray(a), expected[name], name)
    np.testing.assert_array_equal(np.asarray(y), expected["y"])


def test_misaligned_arrays():
    case = random_case(((2,), (), 5, 3, 2))
    raw = np.zeros(case.x.nbytes + 1, np.uint8)
    x = raw[1:].view(np.float64).reshape(case.x.shape)
    x[...] = case.x
    assert not x.flags.aligned
    np.testing.assert_array_equal(srwm.forward(x, case.W), srwm.forward(case.x, case.W))


def test_pack_and_unpack_are_inverse():
    rng = np.random.default_rng(0)
    blocks = [rng.standard_normal((2, 3, n)) for n in (5, 3, 3, 4)]
    W = srwm.pack(*blocks)
    assert W.shape == (2, 3, 5 + 3 + 3 + 4)
    for a, b in zip(srwm.unpack(W), blocks, strict=True):
        np.testing.assert_array_equal(a, b)
    broadcast = srwm.pack(blocks[0], *(b[:1] for b in blocks[1:]))
    np.testing.assert_array_equal(broadcast[1, :, 5:], W[0, :, 5:])


def test_a_long_sequence_in_float32_is_as_good_as_its_precision():
    case = random_case(((1,), (), 4000, 8, 8))
    truth = srwm.forward(case.x, case.W, backend="reference")
    y = srwm.forward(case.x.astype(np.float32), case.W.astype(np.float32))
    assert relative_error(y, truth) < TOLERANCE["float32"]


def test_show_config_names_every_backend_and_why_not(capsys):
    srwm.show_config()
    printed = capsys.readouterr().out
    assert f"srwm {srwm.__version__}" in printed
    assert f"numpy {np.__version__}" in printed
    assert re.search(r"^(cupy\S* \d|cupy not installed$)", printed, re.M)
    assert "backend cython: usable" in printed
    assert "backend reference: usable" in printed
    assert re.search("^backend cuda: (usable|CuPy cannot|CUDA finds no|there is no CUDA)", printed, re.M)


def test_calls_from_many_threads_do_not_meet():
    from concurrent.futures import ThreadPoolExecutor

    some = [random_case(((4,), (), 30, D, 5), seed=D) for D in range(1, 13)]
    expected = [run(srwm, case) for case in some]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: run(srwm, some[i % 12]), range(120)))
    for i, results in enumerate(got):
        for name, a in results.items():
            np.testing.assert_array_equal(a, expected[i % 12][name])


def test_works_in_a_forked_child():
    code = (
        "import numpy as np, os, srwm\n"
        "x, W = np.ones((64, 300, 8)), np.ones((8, 28)) / 8\n"
        "y = srwm.forward(x, W, num_threads=2)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os._exit(0 if (srwm.forward(x, W, num_threads=1) == y).all() else 1)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
