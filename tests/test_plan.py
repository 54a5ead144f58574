"""Plans: what is looked at once, what every time, how many are kept, and threads that share them."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

import srwm
from srwm import _checks, _dispatch, _plan
from srwm._plan import Plan
from tests.operators import EVERYTHING, assert_same, each_operator, random_case, run

torch = pytest.importorskip("torch")  # missing where the installed wheel is tested


@pytest.fixture(autouse=True)
def no_plans(monkeypatch):
    """No plan from other tests, or for them."""
    _plan._plans.clear()
    yield
    _plan._plans.clear()


@pytest.fixture
def looked(monkeypatch):
    """The calls whose operands were checked, and the plans that were made."""
    seen = []
    check, make = _checks.operands, _plan.make

    def spy_on_checks(op, name, flat):
        seen.append("checked")
        return check(op, name, flat)

    def spy_on_plans(*arguments):
        seen.append("planned")
        return make(*arguments)

    monkeypatch.setattr(_checks, "operands", spy_on_checks)
    monkeypatch.setattr(_plan, "make", spy_on_plans)
    return seen


LIBRARIES = {"numpy": lambda a: a, "torch": lambda a: torch.from_numpy(a.copy())}
each_library = pytest.mark.parametrize("to", LIBRARIES.values(), ids=LIBRARIES)


@each_library
@each_operator
def test_unchanged_layouts_are_looked_at_once(row, to, looked):
    case = random_case(row, **EVERYTHING).map(to)
    for _ in range(3):
        row.forward(case.flat)
        row.forward(case.flat, return_state=False, num_threads=1)
    assert looked == ["checked", "planned"]
    row.forward(case.flat, backend="reference")
    assert looked == ["checked", "planned"] * 2
    row.forward(case.with_(reset=None).flat)
    row.forward(case.with_states(None).flat)
    row.forward(case.steps(0, 3).flat)
    assert looked == ["checked", "planned"] * 5


@each_operator
def test_one_plan_serves_all_libraries(row, looked):
    case = random_case(row, **EVERYTHING)
    row.forward(case.flat)
    row.forward(case.map(LIBRARIES["torch"]).flat)
    assert looked.count("planned") == 1


CHANGES = {
    "strides": lambda a: np.asfortranarray(a) if a.ndim > 1 else np.repeat(a, 2)[::2],
    "dtype": lambda a: a if a.dtype == bool else a.astype(np.float32),
    "half": lambda a: a if a.dtype == bool else a.astype(np.float16),
    "other half": lambda a: a if a.dtype == bool else a.astype(ml_dtypes.bfloat16),
    "steps": lambda a: a[..., ::-1],
    "an axis more": lambda a: a[None],
}


@each_operator
def test_what_differs_has_plans_of_its_own(row, looked):
    case = random_case(row, **EVERYTHING)
    row.forward(case.flat)
    for change in CHANGES.values():
        row.forward(case.map(change).flat)
    assert looked.count("planned") == 1 + len(CHANGES)


def test_operands_are_told_apart_by_their_places():
    # one shape for k and v, and for S and beta: no place may be taken for another's
    q = np.ones((1, 4, 4))
    srwm.delta.forward(q, q, q, np.ones((4, 4)), None)
    srwm.delta.forward(q, q, q, np.ones((1, 4)), np.ones((4, 4)), reset=None)
    srwm.delta.forward(q, q, q, np.ones((1, 4)), None, np.ones((4, 4)))
    with pytest.raises(ValueError, match="beta: expected shape"):
        srwm.delta.forward(q, q, q, np.ones((4, 3)), np.ones((4, 4)))
    with pytest.raises(TypeError, match="beta: expected an array"):
        srwm.delta.forward(q, q, q, None, np.ones((4, 4)))


def test_initial_and_state_are_told_apart():
    q, S = np.ones((3, 2)), np.full((2, 2), 5.0)
    reset = np.array([False, True, False])
    arguments = (q, q, q, np.zeros(3))
    first, second = (srwm.delta.forward(*arguments, *pair, reset=reset) for pair in ((S, None), (None, S)))
    np.testing.assert_array_equal(first, [[10.0, 10.0]] * 3)
    np.testing.assert_array_equal(second, [[10.0, 10.0], [0, 0], [0, 0]])


def test_operators_are_told_apart():
    """Two operators of one signature, of the same layouts."""
    x = np.ones((4, 4))
    with pytest.raises(ValueError, match=r"^srwm\.forward: W: expected"):
        srwm.forward(x, x)
    srwm.delta.forward(x, x, x, x[0])
    with pytest.raises(ValueError, match=r"^srwm\.forward: W: expected"):
        srwm.forward(x, x)


def test_the_store_is_bounded_and_goes_on_remembering(monkeypatch, looked):
    monkeypatch.setattr(_plan, "_MOST_PLANS", 4)
    W = np.ones((2, 11))
    for L in range(1, 12):
        srwm.forward(np.ones((L, 2)), W)
        assert len(_plan._plans) <= 4
    before = len(looked)
    srwm.forward(np.ones((11, 2)), W)
    assert len(looked) == before


def test_what_is_bound_for_backward_is_bounded(monkeypatch):
    """A plan remembers the layouts of gradients, too: not of all that ever came."""

    class Backend:
        RUNS_ON_ARRAYS = NEEDS_ALIGNMENT = False

        @staticmethod
        def saved_of(call):
            return (0,), "float32"

        @staticmethod
        def backward_of(call, incoming):
            return incoming

    monkeypatch.setattr(_plan, "_MOST_BACKWARD", 4)
    case = random_case(next(iter(each_operator.args[1])))
    lead, sizes = _checks.operands(case.row.op, "op", case.flat)
    operands = _plan.contiguous(case.flat[0].shape, "float64"), *(None for _ in case.flat[1:])
    call = _plan.Call(case.row.op, operands, lead, sizes, "float64", "float64", 0)
    plan, checked = Plan(call, Backend), []
    for n in range(1, 12):
        key, _ = _plan_key(np.ones(3), np.ones(n), None)
        assert plan.backward(key, checked.append)[0].shape == (n,)
        assert plan.backward(key, checked.append) is plan.backward(key, checked.append)
        assert checked == [plan] * n
        assert len(plan._backward) <= 4


def _plan_key(*arrays):
    from srwm._cy import exchange

    return exchange.of_numpy(arrays, np.ndarray)


@each_library
@each_operator
def test_threads_that_share_and_empty_the_store(row, to, monkeypatch):
    monkeypatch.setattr(_plan, "_MOST_PLANS", 2)
    monkeypatch.setattr(_plan, "_MOST_BACKWARD", 1)
    numpy_cases = [random_case(row, ((2,), (), L, 2, 2), **EVERYTHING) for L in range(1, 7)]
    cases = [case.map(to) for case in numpy_cases]
    expected = [run(case) for case in cases]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: run(cases[i % 6]), range(300)))
    for i, results in enumerate(got):
        assert_same(results, expected[i % 6])


def test_a_backend_that_cannot_run_is_asked_again(monkeypatch):
    """No failure is remembered as a plan."""
    case = random_case(next(iter(each_operator.args[1])))

    def refuse(*_):
        raise RuntimeError("not now")

    with monkeypatch.context() as patch:
        patch.setattr(_dispatch, "resolve", refuse)
        with pytest.raises(RuntimeError, match="not now"):
            case.row.forward(case.flat)
    case.row.forward(case.flat)


def test_plans_of_many_sequences_are_few(monkeypatch):
    """What they hold is as long as there are sequences."""
    monkeypatch.setattr(_plan, "_MOST_SEQUENCES", 100)
    for n in range(30, 60):
        srwm.forward(np.ones((n, 2, 2)), np.ones((2, 9)))
        assert sum(plan.results[0][0] for plan in _plan._plans.values()) <= 100 + n
    srwm.free_memory()
    assert not _plan._plans


def test_threads_that_meet_new_layouts_leave_each_other_alone():
    """A thread that counts what is kept is not disturbed by one that adds to it."""
    failures = []

    def work(first):
        try:
            for n in range(first, first + 150):
                srwm.forward(np.ones((n, 1, 1)), np.ones((1, 7)))
        except RuntimeError as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(1 + 1000 * i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failures == []
