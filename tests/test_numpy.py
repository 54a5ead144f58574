"""The operators on arrays: purity, strides, broadcasting, dtypes, other libraries, threads and forks."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import srwm
from srwm import _dispatch, _numpy
from srwm._cy.exchange import unpack
from srwm._layouts import CUDA, Layout
from srwm._plan import Plan
from tests.devices import require_bfloat16_of_cupy
from tests.operators import (
    CYTHON,
    DELTA,
    EVERYTHING,
    ROWS,
    SRWM,
    TOLERANCE,
    assert_close,
    assert_same,
    each_operator,
    each_operator_and_start,
    random_case,
    relative_error,
    run,
    starts_of,
    truth_of,
    vjp,
)

ROOT = Path(__file__).parents[1]
each_backend = pytest.mark.parametrize("backend", [None, "reference"])


def torch_of(a):
    """A tensor; without torch, as where the installed wheel is tested, the array."""
    torch = pytest.importorskip("torch")
    return torch.from_numpy(np.array(a))


# ---- any shapes and strides


@st.composite
def cases(draw):
    """Cases of random sizes: leading axes of each operand that broadcast, any L, D, Do, from 0 or 1 on."""
    row = draw(st.sampled_from(ROWS))
    lead = draw(st.lists(st.integers(0, 3), max_size=3))

    def part_of(axes):
        axes = [draw(st.sampled_from((1, n))) for n in axes]
        return tuple(axes[draw(st.integers(0, len(axes))) :])

    sizes = (
        draw(st.sampled_from((0, 1, 2, 3, 17, 40))),
        draw(st.integers(1, 20)),
        draw(st.integers(1, 20)),
    )
    return random_case(
        row,
        ((), (), *sizes),
        state=draw(st.booleans()),
        initial=draw(st.booleans()),
        reset=draw(st.booleans()),
        mask=draw(st.booleans()),
        leads={operand.name: part_of(lead) for operand in row.op.flat},
        seed=draw(st.integers(0, 9)),
    )


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
    truth = truth_of(case)
    strided = case.map(lambda a: with_strides(data.draw, a))
    for a in (*strided.flat, *strided.incoming):
        if a is not None:
            a.flags.writeable = False
    assert_close(run(strided), truth, TOLERANCE["float64"])
    gradients = {name: a.shape for name, a in run(strided).items() if name.startswith("g")}
    shapes = {f"g{case.row.op.flat[i].name}": case.flat[i].shape for i in case.places}
    assert gradients == shapes


@each_backend
@each_operator_and_start
def test_misaligned_arrays(row, start, backend):
    case = random_case(row, ((2,), (), 5, 3, 2), **start)

    def misaligned(a):
        raw = np.zeros(a.nbytes + 1, np.uint8)
        moved = raw[1:].view(a.dtype).reshape(a.shape)
        moved[...] = a
        assert not moved.flags.aligned or a.itemsize == 1
        return moved

    assert_close(run(case.map(misaligned), backend=backend), run(case, backend=backend), 1e-13)
    half = case.astype(np.float16)
    assert_close(
        run(half.map(misaligned), backend=backend), run(half, backend=backend), TOLERANCE["float16"]
    )


@each_operator
def test_strides_that_are_no_whole_entries(row):
    """A field of a record: its strides are no multiple of its size."""

    def of_record(a):
        records = np.zeros(a.shape, np.dtype([("before", "i1"), ("a", a.dtype), ("behind", "i1")]))
        records["a"] = a
        return records["a"]

    case = random_case(row, ((2,), (), 5, 3, 2), **EVERYTHING)
    assert_close(run(case.map(of_record)), run(case), 1e-13)


@pytest.mark.parametrize("to", [np.asarray, torch_of], ids=["numpy", "torch"])
@each_operator
def test_as_many_axes_as_arrays_have(row, to):
    plain = random_case(row, ((), (), 3, 2, 2))

    def with_leading_axes(n):
        return plain.map(lambda a: to(a.reshape((1,) * n + a.shape)))

    most = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32  # axes of an array
    got = run(with_leading_axes(most - 2))
    assert got["y"].ndim == most
    for name, a in run(plain).items():
        assert_close({name: got[name].reshape(a.shape)}, {name: a}, 1e-13)
    if most < 64:
        return  # no array has more leading axes than operands may have
    flags = np.zeros(3, bool).reshape((1,) * 63 + (3,))  # 64 axes, as arrays may have, and results may not
    for verb in ("forward", "vjp"):
        with pytest.raises(
            ValueError, match=rf"{verb}: reset: expected at most 62 leading axes, got 63 in shape"
        ):
            getattr(row, verb)(plain.map(to).with_(reset=to(flags)).flat)


@pytest.mark.parametrize("axis", [-1, -2])
@each_operator
def test_axes_of_one_entry_have_any_stride(row, axis):
    """Kernels that prefetch by it would walk for minutes."""
    case = random_case(row, ((4,), (), 1 if axis == -2 else 7, 1 if axis == -1 else 3, 1))
    flat = list(case.flat)
    for i, (operand, a) in enumerate(zip(row.op.flat, case.flat, strict=True)):
        if a is not None and operand.core == 2 and a.shape[axis] == 1:
            strides = [*a.strides[:axis], 1 << 40, *a.strides[axis % a.ndim + 1 :]]
            flat[i] = np.lib.stride_tricks.as_strided(a, a.shape, strides)
    for got, expected in zip(row.forward(tuple(flat)), row.forward(case.flat), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("backend", [["cython"], {}, 3, b"cython"])
@each_operator
def test_a_backend_that_is_no_name_is_refused(row, backend):
    case = random_case(row)
    with pytest.raises(TypeError, match=r"forward: backend: expected a name or None, got .*; pass a str"):
        row.forward(case.flat, backend=backend)


# ---- purity


@each_backend
@each_operator_and_start
def test_inputs_are_not_modified_and_may_be_read_only(row, start, backend):
    case = random_case(row, ((2, 3), (3,), 40, 5, 7), **start)
    before = case.map(np.copy)
    for a in (*case.flat, *case.incoming):
        if a is not None:
            a.flags.writeable = False
    row.forward(case.flat, backend=backend)
    run(case, backend=backend)
    row.backward(case.flat, *case.incoming, backend=backend)
    for a, b in zip((*case.flat, *case.incoming), (*before.flat, *before.incoming), strict=True):
        np.testing.assert_array_equal(a, b)


@each_backend
@each_operator_and_start
def test_pullback_does_not_see_what_becomes_of_arguments_and_results(row, start, backend):
    case = random_case(row, ((2,), (), 40, 5, 7), **start)
    truth = run(case, backend=backend)
    mine = case.map(np.copy)
    results, pullback = vjp(mine, backend=backend)
    for a in (*mine.flat, *results):
        if a is not None:
            a[...] = 7 if a.dtype != bool else ~a
    for _ in range(2):  # as often as one likes
        gradients = pullback(*case.incoming)
        got = case.named([truth[n] for n in row.result_names], gradients)
        assert_same(got, truth)
        for g in gradients:
            if g is not None:
                g[...] = np.nan


@each_backend
@each_operator
def test_results_are_new_arrays_that_can_be_written(row, backend):
    """Also where nothing happens: an empty sequence returns no view of an operand."""
    for L in (0, 3):
        for start in starts_of(row).values():
            case = random_case(row, ((2,), (2,), L, 4, 3), **start)
            results, pullback = vjp(case, backend=backend)
            gradients = [g for g in pullback(*case.incoming) if g is not None]
            for a in (*results, *gradients, *row.forward(case.flat, backend=backend)):
                assert a.flags.writeable
                for b in (*case.flat, *case.incoming):
                    assert b is None or not np.shares_memory(a, b)
            for i, a in enumerate(gradients):
                assert not any(np.shares_memory(a, b) for b in gradients[i + 1 :])


# ---- dtypes


@each_backend
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@each_operator_and_start
def test_halves_are_numbers_of_their_dtype(row, start, dtype, backend):
    """Also for the reference, which relies on ml_dtypes' operations, and on no view as integers."""
    case = random_case(row, ((2, 3), (3,), 40, 16, 8), **start).astype(dtype)
    got = run(case, backend=backend)
    assert {a.dtype for a in got.values()} == {np.dtype(dtype)}
    assert_close(got, truth_of(case), TOLERANCE[np.dtype(dtype).name])


def test_cupy_arrays_of_bfloat16_are_read_as_such():
    """On the host's memory: what is read of an array asks no device."""
    require_bfloat16_of_cupy()
    import cupy

    a = np.zeros((2, 3, 4), ml_dtypes.bfloat16)
    memory = cupy.cuda.UnownedMemory(a.ctypes.data, a.nbytes, a, device_id=0)
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    key, addresses = _numpy._Cuda.read((cupy.ndarray(a.shape, a.dtype, pointer),))
    assert addresses == (a.ctypes.data,)
    assert list(unpack(key)) == [Layout(a.shape, a.strides, "bfloat16", (CUDA, 0))]


@each_backend
@each_operator_and_start
def test_float32_is_computed_in_float32_and_float64_in_float64(row, start, backend):
    for dtype in (np.float32, np.float64):
        case = random_case(row, ((2,), (), 9, 4, 3), **start).astype(dtype)
        got = run(case, backend=backend)
        assert {a.dtype for a in got.values()} == {np.dtype(dtype)}
        assert_close(got, truth_of(case), TOLERANCE[np.dtype(dtype).name])
        assert dtype == np.float64 or relative_error(got["y"], truth_of(case)["y"]) > 1e-10


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


def test_a_long_sequence_in_float32_is_as_good_as_its_precision():
    CYTHON.require(SRWM.op)
    case = random_case(SRWM, ((1,), (), 4000, 8, 8))
    truth = srwm.forward(case["x"], case["W"], backend="reference")
    single = case.astype(np.float32)
    assert relative_error(srwm.forward(single["x"], single["W"]), truth) < TOLERANCE["float32"]


# ---- other libraries


def of_library(name):
    if name == "array_api_strict":
        return array_api_strict.asarray
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return jax.numpy.asarray


@pytest.mark.parametrize("library", ["array_api_strict", "jax"])
@each_backend
@each_operator_and_start
def test_arrays_of_another_library_come_back_as_such(row, start, backend, library):
    case = random_case(row, ((2,), (), 5, 3, 2), **start)
    other = case.map(of_library(library))
    got = run(other, backend=backend)
    assert {type(a) for a in got.values()} == {type(other.flat[0])}
    assert_same(got, run(case, backend=backend))
    results = row.forward(other.flat, backend=backend)
    gradients = row.backward(other.flat, *other.incoming, backend=backend)
    assert {type(a) for a in (*results, *gradients)} == {type(other.flat[0])}


class OneWay:
    """An array whose library gives to others by DLPack, and takes nothing back."""

    def __init__(self, a: np.ndarray) -> None:
        self.a, self.shape, self.dtype = a, a.shape, a.dtype

    def __dlpack__(self, **options: Any) -> Any:
        return self.a.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.a.__dlpack_device__()


@pytest.mark.parametrize("verb", ["forward", "vjp", "backward"])
@each_operator
def test_a_library_that_takes_nothing_back_is_refused_before_the_work(row, verb, monkeypatch):
    def work(*_):
        raise AssertionError("work was done before")

    monkeypatch.setattr(Plan, "forward", work)
    case = random_case(row).map(OneWay)
    first = row.op.flat[0].name
    message = (
        rf"^{re.escape(row.op.verb(verb))}: {first}: expected an array whose library takes results back by "
        r"DLPack.*OneWay.*; pass it as a NumPy or CuPy array"
    )
    gradient = [case.incoming[0]] if verb == "backward" else []
    with pytest.raises(TypeError, match=message):
        getattr(row, verb)(case.flat, *gradient)


@each_operator
def test_a_subclass_of_ndarray_is_its_array(row):
    class Tagged(np.ndarray):
        pass

    case = random_case(row, **EVERYTHING)
    assert_same(run(case.map(lambda a: a.view(Tagged))), run(case))
    mixed = case.with_(**{name: case[name].view(Tagged) for name in row.initials})
    assert_same(run(mixed), run(case))


@pytest.mark.parametrize("transform", ["jit", "grad", "vmap"])
@each_operator
def test_jaxs_transforms_are_refused_in_plain_words(row, transform):
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    case = random_case(row, ((3,), (3,), 5, 3, 2)).map(jax.numpy.asarray)
    first, rest = case.flat[0], case.flat[1:]

    def f(a):
        y = row.forward((a, *rest))[0]
        return y.sum() if transform == "grad" else y

    first_name = row.op.flat[0].name
    # in one line, behind which JAX sets its own
    message = (
        rf"\A{re.escape(row.op.verb('forward'))}: {first_name}: expected .*jax.*Tracer.*; .*traced(\n-|\Z)"
    )
    with pytest.raises(TypeError, match=message):
        getattr(jax, transform)(f)(first)
    with pytest.raises(TypeError, match=message):  # of all operands at once
        jax.jit(lambda *given: row.forward(case.of_given(given))[0])(*case.given)


# ---- carried state


@each_backend
@each_operator_and_start
def test_any_number_of_parts_with_carried_state_are_the_whole(row, start, backend):
    case = random_case(row, ((2, 3), (3,), 50, 6, 5), **start)
    whole = dict(zip(row.result_names, row.forward(case.flat, backend=backend), strict=True))
    for cuts in ([0, 23, 50], [0, 1, 2, 30, 31, 50], list(range(51))):
        states, outputs = case.states, []
        for first, last in pairwise(cuts):
            part = case.steps(first, last).with_states(states)
            y_part, *states = row.forward(part.flat, backend=backend)
            outputs.append(y_part)
        got = {"y": np.concatenate(outputs, -2), **dict(zip(row.next_states, states, strict=True))}
        assert_close(got, whole, 1e-12)


@each_backend
@each_operator
def test_a_state_broadcasts_and_its_gradient_is_a_sum(row, backend):
    case = random_case(row, ((2, 3), (3,), 9, 6, 5), reset=True, state=True, leads={"state": (3,)})
    got = run(case, backend=backend)
    states = [np.broadcast_to(a, (2, *a.shape)) for a in case.states]
    own = run(case.with_states(states), backend=backend)
    for name in row.states:
        own[f"g{name}"] = own[f"g{name}"].sum(0)
    assert_close(got, own, 1e-12)


# ---- threads, forks


@each_operator
def test_calls_from_many_threads_do_not_meet(row):
    some = [random_case(row, ((4,), (), 30, D, 5), **EVERYTHING, seed=D) for D in range(1, 13)]
    expected = [run(case) for case in some]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: run(some[i % 12]), range(60)))
    for i, results in enumerate(got):
        assert_same(results, expected[i % 12])


@pytest.mark.parametrize("threads", [2, 5, np.int64(3)])
@each_operator
def test_results_are_close_whatever_the_threads(row, threads):
    case = random_case(row, ((200,), (), 40, 16, 16), **EVERYTHING).astype(np.float32)
    assert_close(run(case, num_threads=threads), run(case, num_threads=1), 1e-6)


@each_operator
def test_works_in_a_forked_child(row):
    """With the parent's plan and its threads, which the child has not."""
    code = f"""
import os, sys
from tests.operators import EVERYTHING, ROWS, random_case, run, assert_same
row = next(row for row in ROWS if row.name == {row.name!r})
case = random_case(row, ((64,), (), 40, 8, 8), **EVERYTHING)
expected = run(case, num_threads=2)
pid = os.fork()
if pid == 0:
    try:
        assert_same(run(case, num_threads=2), expected)
    except BaseException as error:
        print(error, file=sys.stderr)
        os._exit(1)
    os._exit(0)
sys.exit(os.waitpid(pid, 0)[1] != 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=ROOT)


# ---- the rest of the module


def test_pack_and_unpack_are_inverse():
    rng = np.random.default_rng(0)
    blocks = [rng.standard_normal((2, 3, n)) for n in (5, 3, 3, 4)]
    W = srwm.pack(*blocks)
    assert W.shape == (2, 3, 5 + 3 + 3 + 4)
    for a, b in zip(srwm.unpack(W), blocks, strict=True):
        np.testing.assert_array_equal(a, b)
    broadcast = srwm.pack(blocks[0], *(b[:1] for b in blocks[1:]))
    np.testing.assert_array_equal(broadcast[1, :, 5:], W[0, :, 5:])


def test_pack_of_other_arrays_and_of_bfloat16():
    blocks = [np.random.default_rng(0).standard_normal((3, n)) for n in (5, 3, 3, 4)]
    strict = srwm.pack(*map(array_api_strict.asarray, blocks))
    assert isinstance(strict, type(array_api_strict.asarray(blocks[0])))
    np.testing.assert_array_equal(np.asarray(strict), srwm.pack(*blocks))
    halves = srwm.pack(*(b.astype(ml_dtypes.bfloat16) for b in blocks))
    assert halves.dtype == ml_dtypes.bfloat16


def test_show_config_names_every_backend_and_why_not(capsys):
    srwm.show_config()
    printed = capsys.readouterr().out
    assert f"srwm {srwm.__version__}" in printed
    assert f"numpy {np.__version__}" in printed
    assert re.search(r"^(cupy\S* \d|cupy not installed$)", printed, re.M)
    for name in _dispatch.BACKENDS:
        assert re.search(f"^backend {name}: ", printed, re.M)
    assert "backend cython: usable" in printed
    assert "backend reference: usable" in printed
    assert re.search("^backend cuda: (usable|CuPy cannot|CUDA finds no|there is no CUDA)", printed, re.M)


def test_the_delta_rule_is_a_module_of_its_own():
    assert srwm.delta.__all__ == ["backward", "forward", "vjp"]
    assert DELTA.functions is srwm.delta
