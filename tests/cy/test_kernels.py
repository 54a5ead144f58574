"""The Cython kernels against the reference: every size, dtype, instruction set and thread count."""

from __future__ import annotations

import numpy as np
import pytest

import srwm
from srwm._cy import backend, processor
from tests.cases import (
    TOLERANCE,
    assert_close,
    each_reset,
    each_size,
    growth_case,
    random_case,
    run,
)

USABLE = [name for name in backend.INSTRUCTION_SETS if processor.has(name)]


def use_instruction_set(monkeypatch, name):
    monkeypatch.setenv("SRWM_INSTRUCTION_SET", name)
    for cached in (backend.instruction_set, backend.kernels, backend._layout):
        cached.cache_clear()


@pytest.fixture(params=USABLE)
def instruction_set(request, monkeypatch):
    """Each instruction set of this processor in turn, and the chosen one again afterwards."""
    use_instruction_set(monkeypatch, request.param)
    yield request.param
    monkeypatch.undo()
    for cached in (backend.instruction_set, backend.kernels, backend._layout):
        cached.cache_clear()


@pytest.fixture
def poisoned_outputs(monkeypatch):
    """Memory that the backend allocates is full of NaN: what it does not write cannot pass."""

    def poisoned(shape, dtype=np.float64):
        filling = np.nan if np.issubdtype(dtype, np.floating) else 0xFF
        return np.full(shape, filling, dtype)

    class Poisoned:
        empty = staticmethod(poisoned)

        def __getattr__(self, name):
            return getattr(np, name)

    monkeypatch.setattr(backend, "np", Poisoned())
    monkeypatch.setattr(backend._per_thread, "scratch", None, raising=False)


@each_reset
@each_size
def test_equals_the_reference(instruction_set, poisoned_outputs, size, with_reset):
    case = random_case(size, with_reset=with_reset)
    truth = run(srwm, case, backend="reference")
    for dtype in ("float64", "float32"):
        got = run(srwm, case.astype(dtype), backend="cython")
        assert all(a.dtype == dtype for a in got.values())
        assert_close(got, truth, TOLERANCE[dtype], dtype)


@pytest.mark.parametrize("L", [1, 2, 4, 5, 31, 32, 33, 36, 37, 64, 65, 600])
@each_reset
def test_any_length(poisoned_outputs, L, with_reset):
    case = random_case(((2,), (2,), L, 16, 16), with_reset=with_reset)
    truth = run(srwm, case, backend="reference")
    assert_close(run(srwm, case, backend="cython"), truth, TOLERANCE["float64"])


@pytest.mark.parametrize("steps", [[0], [31], [32], [33], [32, 33], [99], [5, 6, 7, 40], range(100)])
def test_resets_beside_the_ends_of_segments(steps):
    case = random_case(((2,), (), 100, 5, 4))
    case = case._replace(reset=np.zeros((2, 100), bool))
    case.reset[0, list(steps)] = True
    truth = run(srwm, case, backend="reference")
    assert_close(run(srwm, case, backend="cython"), truth, TOLERANCE["float64"])


def test_more_sequences_than_a_thread_takes_at_once():
    case = random_case(((300, 2), (2,), 40, 8, 8))
    one = run(srwm, case, num_threads=1)
    assert_close(one, run(srwm, case, backend="reference"), TOLERANCE["float64"])
    for threads in (2, 3, 7):
        got = run(srwm, case, num_threads=threads)
        for name in one:
            np.testing.assert_array_equal(got[name], one[name], f"{name}, {threads} threads")


def test_results_are_the_same_to_the_bit_from_run_to_run():
    case = random_case(((40,), (1,), 70, 17, 9), with_reset=True)
    first, second = run(srwm, case), run(srwm, case)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], name)


def test_growing_state_is_undone_as_exactly_as_if_it_had_been_kept():
    case = growth_case()
    y = srwm.forward(case.x, case.W)
    assert 3e5 < np.abs(y[-1]).max() / np.abs(y[0]).max() < 3e6
    truth = run(srwm, case, backend="reference")
    for dtype in ("float64", "float32"):
        assert_close(run(srwm, case.astype(dtype)), truth, TOLERANCE[dtype], dtype)


def test_instruction_set_asked_for_by_name(monkeypatch):
    use_instruction_set(monkeypatch, "baseline")
    assert backend.kernels(np.dtype("float32")).__name__ == "srwm._cy.baseline_f32"
    use_instruction_set(monkeypatch, "neon9")
    with pytest.raises(ValueError, match=r"SRWM_INSTRUCTION_SET: expected one of .*baseline.*'neon9'"):
        backend.kernels(np.dtype("float32"))
    monkeypatch.undo()
    for cached in (backend.instruction_set, backend.kernels, backend._layout):
        cached.cache_clear()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gates_are_exact_to_a_few_ulps(instruction_set, dtype):
    # One step, whose update of W shows q, k and beta; inputs large enough for all of exp's range.
    case = random_case(((500,), (500,), 1, 16, 16))
    x, W = (12 * case.x).astype(dtype), case.W.astype(dtype)
    _, truth = srwm.forward(
        x.astype("float64"), W.astype("float64"), return_state=True, backend="reference"
    )
    # Rounding of q^ itself, of about 40, is no fault of exp's.
    _, W_next = srwm.forward(x, W, return_state=True)
    change = np.abs(truth - W).max()
    assert np.abs(W_next - truth).max() / change < 32 * np.finfo(dtype).eps


def test_best_instruction_set_comes_first():
    assert backend.instruction_set() == USABLE[0]
    assert backend.kernels(np.dtype("float64")).vector_bytes() in (16, 32, 64)


@pytest.mark.parametrize(("name", "value"), [("SRWM_NUM_THREADS", "0"), ("OMP_NUM_THREADS", "two")])
def test_thread_counts_of_the_environment_are_checked(monkeypatch, name, value):
    monkeypatch.delenv("SRWM_NUM_THREADS", raising=False)
    monkeypatch.setenv(name, value)
    backend._default_threads.cache_clear()
    with pytest.raises(ValueError, match=f"{name}: expected an integer >= 1, got '{value}'"):
        backend._default_threads()
    monkeypatch.setenv(name, "3")
    assert backend._default_threads() == 3
    backend._default_threads.cache_clear()
