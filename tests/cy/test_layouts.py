"""Layout and threads: which the call's own threads decide, and backward reads from what forward saved."""

from __future__ import annotations

import numpy as np
import pytest

from srwm import _threads
from srwm._cy import cpu
from tests.cases import TOLERANCE, assert_close
from tests.cy.calls import (
    DELTA,
    SRWM,
    as_dtype,
    forget,
    pull_back,
    random_gradients,
    random_operands,
    reference,
    save,
    sizes_of,
)

torch = pytest.importorskip("torch")  # missing where the installed wheel is tested

each_operator = pytest.mark.parametrize("op", [SRWM, DELTA], ids=lambda op: op.name)
SIZES = {"L": 20, "D": 8, "Do": 8, "M": 28}


@pytest.fixture(autouse=True)
def all_threads(monkeypatch):
    """Every thread that is asked for is used, but for those that would share a sequence."""
    monkeypatch.setattr(cpu, "WORK_PER_THREAD", 1)
    forget()
    yield
    forget()


@each_operator
@pytest.mark.parametrize(("forward", "backward"), [(1, 64), (64, 1), (1, 1), (64, 64), (2, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_backward_with_other_threads_than_forward(op, forward, backward, dtype):
    for lead in ((37,), (5,)):
        flat = as_dtype(random_operands(op, lead, SIZES, without=("state",)), dtype)
        gradients = as_dtype(random_gradients(op, lead, SIZES), dtype)
        y, after, saved = save(op, flat, num_threads=forward)
        got = {"y": y, "after": after} | pull_back(op, flat, saved, gradients, num_threads=backward)
        truth = reference(op, as_dtype(flat, np.float64), as_dtype(gradients, np.float64))
        assert_close(got, truth, TOLERANCE[dtype])


@each_operator
def test_the_layout_is_that_of_the_calls_own_threads(op, monkeypatch):
    flat = random_operands(op, (37,), SIZES)
    saved = {}
    for default in ("1", "64"):
        monkeypatch.setenv("SRWM_NUM_THREADS", default)
        _threads._srwm_variable.cache_clear()
        for threads in (1, 64, None):
            saved[default, threads] = save(op, flat, num_threads=threads)[2]
    _threads._srwm_variable.cache_clear()
    for threads, like in ((1, 1), (64, 64), (None, None)):
        a, b = saved["1", threads], saved["64", like]
        assert np.array_equal(a, b) is (threads is not None)
    np.testing.assert_array_equal(saved["1", None], saved["1", 1])
    np.testing.assert_array_equal(saved["64", None], saved["1", 64])


@each_operator
def test_the_shape_of_what_is_saved_says_nothing_of_threads(op):
    flat = random_operands(op, (37,), SIZES)
    shapes = {save(op, flat, num_threads=threads)[2].shape for threads in (1, 2, 64)}
    assert len(shapes) == 1


@each_operator
@pytest.mark.parametrize("forward", [1, 64])
@pytest.mark.parametrize("lead", [(37,), (3,), (1,)], ids=str)
def test_a_saved_array_that_says_nothing_is_refused(op, forward, lead):
    flat = random_operands(op, lead, SIZES)
    gradients = random_gradients(op, lead, SIZES)
    saved = save(op, flat, num_threads=forward)[2]

    def refused(other):
        with pytest.raises(ValueError, match="what forward saved"):
            pull_back(op, flat, other, gradients)

    for value in (0, 3, -1, np.nan, np.inf, 1e30):
        refused(np.full_like(saved, value))
        last = saved.copy()
        last[-1, -1] = value
        refused(last)
    if lead[0] > 32:
        both = saved.copy()
        both[:20] = save(op, flat, num_threads=65 - forward)[2][:20]
        refused(both)


def test_saved_values_of_any_kind_are_no_offsets():
    """Backward reads all that is saved as numbers: an offset would crash, here or in `make sanitize`."""
    for op in (SRWM, DELTA):
        flat = random_operands(op, (37,), SIZES)
        saved = save(op, flat, num_threads=64)[2]
        for value in (np.nan, np.inf, -1.0, 1e300):
            saved[..., :-1] = value
            pull_back(op, flat, saved, random_gradients(op, (37,), SIZES), num_threads=2)


@each_operator
def test_threads_round_as_their_caller_does(op):
    """Subnormal numbers are zero to all threads or to none: of sequences too few to be side by side."""
    flat = as_dtype(random_operands(op, (3,), SIZES, without=("reset",)), np.float32)
    for i, operand in enumerate(op.flat):
        if operand.name in ("W", "S", "state", "v"):
            flat[i] *= np.float32(1e-38)
    gradients = as_dtype(random_gradients(op, *sizes_of(op, flat)), np.float32)

    def results(threads):
        y, after, saved = save(op, flat, num_threads=threads)
        return {"y": y, "after": after} | pull_back(op, flat, saved, gradients, num_threads=threads)

    exact = results(1)
    try:
        if not torch.set_flush_denormal(True):
            return  # this processor has no such mode
        alone, together = results(1), results(3)
        again = results(1)
    finally:
        torch.set_flush_denormal(False)
    for name in alone:
        np.testing.assert_array_equal(together[name], alone[name], name)
        np.testing.assert_array_equal(again[name], alone[name], name)
    assert any((exact[name] != alone[name]).any() for name in exact)
    for name, a in results(3).items():
        np.testing.assert_array_equal(a, exact[name], name)
