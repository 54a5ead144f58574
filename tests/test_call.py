"""The plans of calls: what is looked at once, what is looked at every time, and how many are kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import srwm
from srwm import _call, _dispatch
from srwm._cy import backend as cython_backend
from tests.cases import random_case


@pytest.fixture(autouse=True)
def no_plans():
    """No plan from other tests, or for them."""
    _call._plans.clear()
    yield
    _call._plans.clear()


@pytest.fixture
def looked(monkeypatch):
    """The operations whose backend was looked for: as often as operands were checked."""
    operations = []
    resolve = _dispatch.resolve

    def spy(op, *rest):
        operations.append(op)
        return resolve(op, *rest)

    monkeypatch.setattr(_dispatch, "resolve", spy)
    return operations


def arrays_and_tensors():
    case = random_case(((2,), (), 3, 4, 5))
    return [(case.x, case.W), (torch.tensor(case.x), torch.tensor(case.W))]


each_array_type = pytest.mark.parametrize("operands", arrays_and_tensors(), ids=["numpy", "torch"])


@each_array_type
def test_unchanged_shapes_are_looked_at_once(operands, looked):
    for _ in range(3):
        srwm.forward(*operands)
        srwm.forward(*operands, return_state=True, num_threads=1)
    assert looked == ["srwm.forward"]
    srwm.forward(*operands, backend="reference")
    assert looked == ["srwm.forward"] * 2
    x, W = operands
    srwm.forward(x[:1], W)
    assert looked == ["srwm.forward"] * 3


def change_dtype(a):
    return a.astype(np.float32) if isinstance(a, np.ndarray) else a.float()


@each_array_type
def test_what_was_right_once_does_not_let_errors_pass(operands):
    x, W = operands
    reset = x[..., 0] > 0
    srwm.forward(x, W, reset=reset, num_threads=1)
    srwm.forward(x, W, num_threads=1)
    srwm.forward(change_dtype(x), change_dtype(W))
    with pytest.raises(TypeError, match="W: expected the dtype of x"):
        srwm.forward(change_dtype(x), W)
    with pytest.raises(TypeError, match="reset: expected dtype bool"):
        srwm.forward(x, W, reset=change_dtype(reset))
    with pytest.raises(ValueError, match="reset: expected shape"):
        srwm.forward(x, W, reset=reset[..., :2])
    with pytest.raises(ValueError, match="W: expected shape"):
        srwm.forward(x, W[:3])
    for wrong in (0, True, 1.0):  # two of them equal 1
        with pytest.raises(ValueError, match=r"^srwm\.forward: num_threads: expected an int >= 1"):
            srwm.forward(x, W, num_threads=wrong)
    with pytest.raises(ValueError, match="backend: expected one of"):
        srwm.forward(x, W, backend="cupy")
    with pytest.raises(TypeError, match="W: expected the array type of x"):
        srwm.forward(x, next(a for _, a in arrays_and_tensors() if type(a) is not type(W)))


def test_operands_are_told_apart_by_their_places():
    # one shape for k and v, and for S and beta: no place may be taken for another's
    q = np.ones((1, 4, 4))
    srwm.delta_forward(q, q, q, np.ones((4, 4)), None)
    srwm.delta_forward(q, q, q, np.ones((1, 4)), np.ones((4, 4)), reset=None)
    with pytest.raises(ValueError, match="beta: expected shape"):
        srwm.delta_forward(q, q, q, np.ones((4, 3)), np.ones((4, 4)))
    with pytest.raises(TypeError, match="beta: expected an array"):
        srwm.delta_forward(q, q, q, None, np.ones((4, 4)))


def test_the_store_is_bounded_and_goes_on_remembering(monkeypatch, looked):
    monkeypatch.setattr(_call, "_MOST_PLANS", 4)
    W = np.ones((2, 11))
    for L in range(1, 12):
        srwm.forward(np.ones((L, 2)), W)
        assert len(_call._plans) <= 4
    before = len(looked)
    srwm.forward(np.ones((11, 2)), W)
    assert len(looked) == before


def test_threads_that_share_and_empty_the_store(monkeypatch):
    monkeypatch.setattr(_call, "_MOST_PLANS", 2)
    operands = [(np.full((L, 2), 0.5), np.full((2, 11), 0.25)) for L in range(1, 7)]
    expected = [
        cython_backend.forward(x, W, None, (), keep=False, return_state=False)[0] for x, W in operands
    ]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda i: srwm.forward(*operands[i % 6]), range(600)))
    for i, y in enumerate(got):
        np.testing.assert_array_equal(y, expected[i % 6])


def test_checks_have_plans_of_their_own():
    x = np.ones((3, 2))
    for lead in ((1,), (2,)):
        plan, arrays = _call.prepare(lambda op, *operands, lead=lead: lead, "op", ("x",), (x,), None, None)
        assert plan.lead == lead
        assert arrays == (x,)
