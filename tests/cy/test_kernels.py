"""The Cython kernels against the reference: every size, dtype, instruction set and thread count."""

from __future__ import annotations

import numpy as np
import pytest

import srwm
from srwm._cy import backend, cpu, processor
from tests import operators
from tests.cases import (
    TOLERANCE,
    Case,
    assert_close,
    each_reset,
    each_size,
    growth_case,
    random_case,
    random_delta_case,
    run,
)
from tests.cy.calls import SRWM, as_dtype, call_of, forget, poison, random_operands, run_delta

USABLE = [name for name in backend.INSTRUCTION_SETS if processor.has(name)]


def use_instruction_set(monkeypatch, name):
    monkeypatch.setenv("SRWM_INSTRUCTION_SET", name)
    forget()


@pytest.fixture(params=USABLE)
def instruction_set(request, monkeypatch):
    """Each instruction set of this processor in turn, and the chosen one again afterwards."""
    use_instruction_set(monkeypatch, request.param)
    yield request.param
    monkeypatch.undo()
    forget()


@pytest.fixture(params=["one", "many"])
def layout(request, monkeypatch):
    """Sequences one at a time, and side by side wherever there are enough of them."""
    monkeypatch.setenv("SRWM_NUM_THREADS", "1")  # with more, a few sequences are better shared out
    most = 1 << 30 if request.param == "many" else 0
    monkeypatch.setattr(cpu, "most_bytes", lambda layout, save: most)
    forget()
    yield request.param
    monkeypatch.undo()
    forget()


@pytest.fixture
def poisoned_outputs(monkeypatch):
    """Memory of results and kernels is full of NaN: what is not written cannot pass."""
    poison(monkeypatch)


@each_reset
@each_size
def test_equals_the_reference(instruction_set, poisoned_outputs, size, with_reset):
    case = random_case(size, with_reset=with_reset)
    truth = run(srwm, case, backend="reference")
    for dtype in ("float64", "float32"):
        got = run(srwm, case.astype(dtype), backend="cython")
        assert all(a.dtype == dtype for a in got.values())
        assert_close(got, truth, TOLERANCE[dtype], dtype)


# (leading axes of x, of W, L, D, Do) of sequences enough for vectors of any width, and some over: one W
# each, one for all, one for as many as a vector has lanes, for fewer, for more; padding in no place or any.
MANY_SIZES = [
    ((23,), (23,), 35, 16, 16),
    ((37,), (), 70, 5, 3),
    ((16, 2), (2,), 33, 8, 8),
    ((3, 7), (7,), 40, 12, 20),
    ((2, 33), (2, 1), 36, 3, 1),
    ((5, 1, 4), (3, 1), 66, 17, 9),
    ((17,), (1,), 4, 1, 1),
    ((18,), (9, 1), 20, 33, 7),
]


@each_reset
@pytest.mark.parametrize("size", MANY_SIZES, ids=lambda s: "-".join(map(str, s)))
def test_many_sequences_equal_the_reference(instruction_set, layout, poisoned_outputs, size, with_reset):
    case = random_case(size, with_reset=with_reset)
    if with_reset:
        case.reset[..., -2] = True  # all of them at once too
    truth = run(srwm, case, backend="reference")
    for dtype in ("float64", "float32"):
        got = run(srwm, case.astype(dtype), backend="cython")
        assert_close(got, truth, TOLERANCE[dtype], dtype)


@each_reset
@pytest.mark.parametrize("size", MANY_SIZES, ids=lambda s: "-".join(map(str, s)))
def test_many_sequences_of_the_delta_rule(instruction_set, layout, poisoned_outputs, size, with_reset):
    case = random_delta_case(size, with_reset=with_reset)
    if with_reset:
        case.reset[..., -2] = True
    truth = run_delta(case, backend="reference")
    for dtype in ("float64", "float32"):
        got = run_delta(case.astype(dtype), backend="cython")
        assert_close(got, truth, TOLERANCE[dtype], dtype)


@pytest.mark.parametrize(
    "size", [((23,), (23,), 35, 16, 16), ((3, 7), (7,), 20, 5, 3)], ids=operators.size_id
)
@operators.each_operator
def test_many_sequences_of_every_operator(instruction_set, layout, poisoned_outputs, row, size):
    for dtype in ("float64", "float32"):
        case = operators.random_case(row, size, **operators.EVERYTHING).astype(dtype)
        truth = operators.truth_of(case)
        operators.assert_close(operators.CYTHON.run(case), truth, TOLERANCE[dtype], dtype)


def test_one_sequence_with_nan_leaves_the_others_beside_it_alone(layout):
    case = random_case(((40,), (40,), 50, 8, 8))
    expected = run(srwm, case)
    case.x[13, 20, 3], case.W[21, 2, 5] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        got = run(srwm, case)
    others = np.delete(np.arange(40), [13, 21])
    for name in expected:
        np.testing.assert_array_equal(got[name][others], expected[name][others], name)
    assert np.isnan(got["y"][13, 21:]).all()


def test_layouts_are_chosen_by_size_number_length_and_threads():
    lanes = backend.kernels("float32", "many").sequences()

    def side_by_side(N, L, D, threads=1):
        sizes = {"L": L, "D": D, "Do": D, "M": 3 * D + 4}
        call = call_of(SRWM, as_dtype(random_operands(SRWM, (N,), sizes), np.float32))
        return backend.forward_of(call, True).side_by_side(threads)

    assert side_by_side(5 * lanes + 3, 100, 16) == 5 * lanes
    assert side_by_side(lanes - 1, 100, 16) == 0
    assert side_by_side(5 * lanes, 3, 16) == 0
    assert side_by_side(5 * lanes, 100, 128) == 0
    assert side_by_side(5 * lanes, 100, 16, threads=6) == 0  # five groups would leave a processor idle


@pytest.mark.parametrize("L", [1, 2, 4, 5, 31, 32, 33, 36, 37, 64, 65, 600])
@each_reset
def test_any_length(layout, poisoned_outputs, L, with_reset):
    case = random_case(((19,), (19,), L, 4, 4), with_reset=with_reset)
    truth = run(srwm, case, backend="reference")
    assert_close(run(srwm, case, backend="cython"), truth, TOLERANCE["float64"])


@pytest.mark.parametrize("steps", [[0], [31], [32], [33], [32, 33], [99], [5, 6, 7, 40], range(100)])
def test_resets_beside_the_ends_of_segments(layout, steps):
    case = random_case(((19,), (), 100, 5, 4))
    case = case._replace(reset=np.zeros((19, 100), bool))
    case.reset[0, list(steps)] = True
    case.reset[7] = np.roll(case.reset[0], 1)
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


def test_growing_state_is_undone_as_exactly_as_if_it_had_been_kept(layout):
    case = Case(*(a if a is None else np.stack([a] * 16) for a in growth_case()))
    y = srwm.forward(case.x, case.W)
    assert 3e5 < np.abs(y[:, -1]).max() / np.abs(y[:, 0]).max() < 3e6
    truth = run(srwm, case, backend="reference")
    for dtype in ("float64", "float32"):
        assert_close(run(srwm, case.astype(dtype)), truth, TOLERANCE[dtype], dtype)


def test_instruction_set_asked_for_by_name(monkeypatch):
    use_instruction_set(monkeypatch, "baseline")
    assert backend.kernels("float32", "one").__name__ == "srwm._cy.baseline_f32_one"
    use_instruction_set(monkeypatch, "neon9")
    with pytest.raises(ValueError, match=r"SRWM_INSTRUCTION_SET: expected one of .*baseline.*'neon9'"):
        backend.kernels("float32", "one")
    monkeypatch.undo()
    forget()


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
    for layout, sequences in (("one", 1), ("many", None)):
        kernels = backend.kernels("float64", layout)
        assert kernels.vector_bytes() in (8, 16, 32, 64)
        assert kernels.sequences() == (sequences or kernels.vector_bytes() // 8)
