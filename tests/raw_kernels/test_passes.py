"""What a bound pass does with addresses: what is not wanted, what is zero, what it cannot read."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from srwm._cy.cuda import Backward, Forward, saved_of
from srwm._raw_kernels import loader
from tests.cuda_host import backend, calls
from tests.cuda_host.platform import WORD, Platform, parameters_of
from tests.cuda_host.raw_module import parameters as declared
from tests.operators import CUDA_ON_HOST, EVERYTHING, ON_CUDA, assert_same, each_operator, random_case

# Without a C++ compiler no kernel can be built; in CI tests/operators.py fails for that.
pytestmark = pytest.mark.skipif(backend.unusable() is not None, reason=str(backend.unusable()))

SIZE = ((3,), (), 5, 4, 6)  # the D and the Do of tests/test_cupy.py, whose kernels are then these too
# x, q and k are shared or not: their gradients are then sums, or written by the kernel itself.
each_size = pytest.mark.parametrize("size", [SIZE, ((), (3,), 5, 4, 6)], ids=["own", "shared"])


def case_of(row, size=SIZE):
    """With all operands, and the gradients of all results."""
    return random_case(row, size, **EVERYTHING)


def gradients_of(case, incoming, lead=(3,), wanted=None):
    op, flat = case.row.op, case.flat
    *_, saved = calls.forward(op, flat, lead, backend.forward_of, saved_of, True, False)
    return calls.backward(op, flat, lead, backend.backward_of, saved, incoming, wanted)


# The gradients of halves have a dtype that sums have not: every one is then added up, or rounded, anew.
@pytest.mark.slow_where(lambda row, dtype: dtype != "float64" and row not in ON_CUDA)
@each_operator
@each_size
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_a_gradient_that_is_not_wanted_changes_no_other(row, size, dtype):
    case = case_of(row, size).astype(dtype)
    everything = gradients_of(case, case.incoming)
    for i, _ in enumerate(everything):
        wanted = [j != i for j, _ in enumerate(everything)]
        got = gradients_of(case, case.incoming, wanted=wanted)
        assert got[i] is None
        for j, a in enumerate(everything):
            assert j == i or np.array_equal(got[j], a), (i, j)


@each_operator
def test_a_missing_gradient_of_a_result_is_zero(row):
    case = case_of(row)
    for which, _ in enumerate(row.op.results):
        zero = [np.zeros_like(g) if i == which else g for i, g in enumerate(case.incoming)]
        none = [None if i == which else g for i, g in enumerate(case.incoming)]
        for a, b in zip(gradients_of(case, none), gradients_of(case, zero), strict=True):
            assert np.array_equal(a, b), which


def with_odd_strides(a):
    """The same entries, one byte more apart than they are long."""
    record = np.zeros(a.shape, np.dtype([("value", a.dtype), ("more", np.uint8)]))
    record["value"] = a
    return record["value"]


def at_odd_address(a):
    """The same entries, one byte behind where they would be aligned."""
    moved = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    moved[...] = a
    return moved


NO_WORKING_MEMORY = 0

# A device would read between the entries, or lose its context.
each_fault = pytest.mark.parametrize("misaligned", [with_odd_strides, at_odd_address])


def public(row, case):
    """All results by the public functions, on operands as they come: `vjp` would copy them."""
    results = row.forward(case.flat, backend=CUDA_ON_HOST.name)
    gradients = row.backward(case.flat, *case.incoming, backend=CUDA_ON_HOST.name)
    return case.named(results, gradients)


@each_operator
@each_fault
def test_misaligned_operands_are_copied(row, misaligned):
    case = case_of(row)
    expected = public(row, case)
    for i, operand in enumerate(row.op.flat):
        if operand.role != "flag":
            assert_same(public(row, case.with_(**{operand.name: misaligned(case.flat[i])})), expected)


@each_operator
@each_fault
def test_misaligned_gradients_of_results_are_copied(row, misaligned):
    case = case_of(row)
    expected = public(row, case)
    for i in range(len(case.incoming)):
        incoming = tuple(misaligned(g) if j == i else g for j, g in enumerate(case.incoming))
        assert_same(public(row, replace(case, incoming=incoming)), expected)


@each_operator
def test_parameters_come_in_the_order_of_the_kernels(row):
    """In that of the names that tests/cy/test_launch.py finds in the kernels' text."""
    operator, case = row.op, case_of(row)
    call = calls.call_of(operator, case.flat, (3,))
    results, flat = calls.results_of_forward(operator), calls.arrays_of_forward(operator)
    names = (*flat, *results, "saved")
    of_both = (*calls.arrays_of_backward(operator), *results)
    assert len({*of_both}) == len(of_both)
    address = dict(zip(of_both, count(WORD, WORD), strict=False))

    def at(names):
        return [address[name] for name in names]

    driver = Remembering()
    Forward(driver, call)(at(flat), at(results), address["saved"], stream=5, empty=None)
    assert driver.launched == [(5, [*at(names), NO_WORKING_MEMORY])]
    driver = Remembering()
    names = calls.arrays_of_backward(operator)
    gradients = names[-len(operator.differentiable) :]
    rest = at(operator.gradient_names), at(gradients)
    fresh = count(1000)  # the addresses of partial sums
    backward = Backward(driver, call, [calls.layout_of(g) for g in case.incoming])
    backward(at(flat), address["saved"], *rest, stream=5, empty=lambda nbytes: (next(fresh), None))
    (stream, (*addresses, working)), *sums = driver.launched
    assert (stream, working) == (5, NO_WORKING_MEMORY)
    partial = {to: written for written, to in zip(addresses, at(names), strict=True) if written != to}
    assert partial
    assert set(partial) <= set(at(gradients))
    assert sums == [(5, [written, to]) for to, written in partial.items()]


@each_operator
def test_a_pass_can_run_while_it_runs(row):
    """Threads share it: while one launches, another one's addresses are not seen."""
    flat, results = row.op.flat, row.op.results
    driver = Remembering()
    forward = Forward(driver, calls.call_of(row.op, case_of(row).flat, (3,)))

    def at(first):
        numbers = count(first)
        of_operands, of_results = ([next(numbers) for _ in arrays] for arrays in (flat, results))
        return of_operands, of_results, next(numbers)

    launch = driver.launch

    def launch_after_another(*arguments):
        driver.launch = launch
        forward(*at(1000), stream=1, empty=None)
        launch(*arguments)

    driver.launch = launch_after_another
    forward(*at(2000), stream=2, empty=None)
    (stream, first), (later_stream, later) = driver.launched
    assert (stream, first[0]) == (1, 1000)
    assert (later_stream, later[0]) == (2, 2000)
    assert [a - b for a, b in zip(later, first, strict=True)] == [*(1000 for _ in later[:-1]), 0]


@each_operator
def test_sizes_that_the_kernels_do_not_run_are_refused_when_a_pass_is_bound(row):
    flat = case_of(row, ((1,), (), 1, 257, 1)).flat
    with pytest.raises(ValueError, match=rf"^{row.op.verb('forward')}: expected 1 <= D <= 256"):
        Forward(Platform(), calls.call_of(row.op, flat, (1,)))


class Remembering:
    """A driver that compiles nothing, and remembers what it launches."""

    def __init__(self):
        self.limits, self.launched = Platform().limits, []

    def kernel(self, plan, stream):
        text = loader.source(plan.kernel)
        return sum("*" in parameter for parameter in declared(text, plan.kernel))

    def launch(self, kernel, blocks, threads, shared_bytes, stream, extra):
        words = np.frombuffer(parameters_of(extra), np.int64)
        self.launched.append((stream, words[:kernel].tolist()))
