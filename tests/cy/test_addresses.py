"""The backend on addresses: any strides, what is not given or not wanted, calls from many threads."""

from __future__ import annotations

import threading

import ml_dtypes
import numpy as np
import pytest

from srwm._cy import backend
from srwm._layouts import Layout
from srwm.operators.spec import Operand, Operator
from tests.cases import TOLERANCE, assert_close
from tests.cy.calls import (
    DELTA,
    SRWM,
    address_of,
    as_dtype,
    call_of,
    layout_of,
    options_of,
    pull_back,
    random_gradients,
    random_operands,
    reference,
    run,
    save,
)

each_operator = pytest.mark.parametrize("op", [SRWM, DELTA], ids=lambda op: op.name)
SIZES = {"L": 37, "D": 6, "Do": 5, "M": 21}


def strided(a, rng):
    """The same entries with other strides: some axes turned around, some with gaps, from an odd address."""
    spread = np.zeros((*(2 * n for n in a.shape), a.itemsize), np.uint8)
    memory = np.zeros(spread.size + 1, np.uint8)[1:]
    whole = memory.view(a.dtype).reshape(spread.shape[:-1])
    view = whole[tuple(slice(None, None, 2 if rng.random() < 0.5 else -2) for _ in a.shape)]
    view[...] = a
    return view


@each_operator
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_any_strides_and_addresses(arrangement, lead, op, dtype):
    rng = np.random.default_rng(3)
    flat = as_dtype(random_operands(op, lead, SIZES), ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    gradients = as_dtype(random_gradients(op, lead, SIZES), flat[0].dtype)
    expected = run(op, flat, gradients, num_threads=arrangement)
    got = run(
        op, [strided(a, rng) for a in flat], [strided(g, rng) for g in gradients], num_threads=arrangement
    )
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], name)


@each_operator
def test_operands_with_other_leading_axes(arrangement, op):
    leads = [(3, 1, 7), (1, 7), (2, 1), (), (3, 2, 7)]
    own = {operand.name: leads[i % 5] for i, operand in enumerate(op.flat)}
    flat = random_operands(op, (), SIZES, own=own)
    lead = (3, 2, 7)
    gradients = random_gradients(op, lead, SIZES)
    assert_close(
        run(op, flat, gradients, num_threads=arrangement),
        reference(op, flat, gradients),
        TOLERANCE["float64"],
    )


@each_operator
def test_operands_that_repeat_themselves(arrangement, lead, op):
    # Strides of 0 along axes of any length: the gradient has the whole shape.
    flat = random_operands(op, (), SIZES)
    flat = [np.broadcast_to(a, (*lead, *a.shape)) for a in flat]
    gradients = [np.broadcast_to(g, (*lead, *g.shape)) for g in random_gradients(op, (), SIZES)]
    got = run(op, flat, gradients, num_threads=arrangement)
    assert_close(got, reference(op, flat, gradients), TOLERANCE["float64"])


@each_operator
def test_gradients_that_are_not_wanted(arrangement, lead, op):
    flat, gradients = random_operands(op, lead, SIZES), random_gradients(op, lead, SIZES)
    flat[op.places("initial")[0]] = flat[op.places("initial")[0]][0]  # a sum
    saved = save(op, flat, num_threads=arrangement)[2]
    every = pull_back(op, flat, saved, gradients, num_threads=arrangement)
    for name in every:
        one = pull_back(op, flat, saved, gradients, num_threads=arrangement, wanted=[name[2:]])
        assert one.keys() == {name}
        np.testing.assert_array_equal(one[name], every[name])
    assert pull_back(op, flat, saved, gradients, num_threads=arrangement, wanted=[]) == {}


@each_operator
def test_gradients_that_do_not_come(arrangement, lead, op):
    flat, (grad_y, grad_after) = random_operands(op, lead, SIZES), random_gradients(op, lead, SIZES)
    saved = save(op, flat, num_threads=arrangement)[2]
    for gradients in ([grad_y, None], [None, grad_after], [None, None]):
        zeros = [
            np.zeros_like(a) if g is None else g
            for a, g in zip((grad_y, grad_after), gradients, strict=True)
        ]
        got = pull_back(op, flat, saved, gradients, num_threads=arrangement)
        expected = pull_back(op, flat, saved, zeros, num_threads=arrangement)
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name], name)


@each_operator
def test_outputs_that_are_not_wanted(arrangement, lead, op):
    flat = random_operands(op, lead, SIZES)
    y, after, _ = save(op, flat, num_threads=arrangement)
    call = call_of(op, flat)
    at = tuple(map(address_of, flat))
    for keep in (False, True):
        run_forward = backend.forward_of(call, keep)
        only_y, only_after = np.full_like(y, np.nan), np.full_like(after, np.nan)
        run_forward(at, (only_y.ctypes.data, 0), 0, **options_of(arrangement))
        run_forward(at, (0, only_after.ctypes.data), 0, **options_of(arrangement))
        assert_close({"y": only_y, "after": only_after}, {"y": y, "after": after}, 1e-12)


@each_operator
def test_nothing_beside_the_results_is_written(arrangement, lead, op):
    flat, gradients = random_operands(op, lead, SIZES), random_gradients(op, lead, SIZES)
    copies = [a.copy() for a in (*flat, *gradients)]
    call = call_of(op, flat)
    shapes = [of.shape(call.lead, SIZES) for of in op.results] + [backend.saved_of(call)[0]]
    guarded = [np.full(np.prod(shape, dtype=int) + 64, 7.25) for shape in shapes]
    y, after, saved = (g[32:-32].ctypes.data for g in guarded)
    at = tuple(map(address_of, flat))
    backend.forward_of(call, True)(at, (y, after), saved, **options_of(arrangement))
    into = [np.full(flat[i].size + 64, 7.25) for i in op.differentiable]
    run_backward = backend.backward_of(call, tuple(map(layout_of, gradients)))
    addresses = tuple(g[32:-32].ctypes.data for g in into)
    run_backward(at, saved, tuple(map(address_of, gradients)), addresses, **options_of(arrangement))
    for a in (*guarded, *into):
        assert (a[:32] == 7.25).all()
        assert (a[-32:] == 7.25).all()
    for a, copy in zip((*flat, *gradients), copies, strict=True):
        np.testing.assert_array_equal(a, copy)


@each_operator
def test_one_plan_in_many_threads(op):
    call = call_of(op, random_operands(op, (40,), SIZES))
    run_forward = backend.forward_of(call, True)
    run_backward = backend.backward_of(call, (layout_of(random_gradients(op, (40,), SIZES)[0]), None))
    failures = []

    def work(seed):
        flat = random_operands(op, (40,), SIZES, seed=seed)
        grad_y = random_gradients(op, (40,), SIZES)[0]
        expected = None
        for _ in range(20):
            y, saved = np.empty((40, 37, 5)), np.empty(backend.saved_of(call)[0])
            at = tuple(map(address_of, flat))
            run_forward(at, (y.ctypes.data, 0), saved.ctypes.data, **options_of(1))
            into = [np.empty_like(flat[i]) for i in op.differentiable]
            addresses = tuple(map(address_of, into))
            run_backward(at, saved.ctypes.data, (grad_y.ctypes.data, 0), addresses, **options_of(2))
            results = [y, *into]
            expected = expected or results
            if any((a != b).any() for a, b in zip(results, expected, strict=True)):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_operators_without_kernels_are_not_taken():
    other = Operator("other", SRWM.operands, SRWM.output, SRWM.reference)
    assert not backend.takes(other)
    assert backend.takes(SRWM)
    assert backend.takes(DELTA)
    assert Operand("y", "L Do").core == 2


def test_more_leading_axes_than_there_are():
    flat = random_operands(SRWM, (1,) * 20, {"L": 3, "D": 2, "Do": 1, "M": 9})
    gradients = random_gradients(SRWM, (1,) * 20, {"L": 3, "D": 2, "Do": 1, "M": 9})
    assert_close(run(SRWM, flat, gradients), reference(SRWM, flat, gradients), TOLERANCE["float64"])
    call = call_of(SRWM, flat)
    long = call._replace(
        lead=(1,) * 65,
        operands=tuple(
            None if a is None else Layout((1,) * 45 + a.shape, (0,) * 45 + a.strides, a.dtype)
            for a in call.operands
        ),
    )
    with pytest.raises(ValueError, match="expected at most 64 leading axes, got 65"):
        backend.forward_of(long, False)
