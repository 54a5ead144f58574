"""What a bound pass does with addresses: what is not wanted, what is zero, what it cannot read."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from srwm._cy.cuda import Backward, Forward, saved_of
from srwm._raw_kernels import loader
from tests.cases import random_case, random_delta_case
from tests.cuda_host import backend, calls
from tests.cuda_host.platform import WORD, Platform, parameters_of
from tests.cuda_host.raw_module import parameters as declared
from tests.operators import CUDA_ON_HOST, ON_CUDA, assert_same
from tests.operators import each_operator_on_cuda as each_row
from tests.operators import random_case as random_row

# Without a C++ compiler no kernel can be built; in CI tests/operators.py fails for that.
pytestmark = pytest.mark.skipif(backend.unusable() is not None, reason=str(backend.unusable()))

each_operator = pytest.mark.parametrize("operator", [row.op for row in ON_CUDA], ids=[*map(repr, ON_CUDA)])
# x, q and k are shared or not: their gradients are then sums, or written by the kernel itself.
each_size = pytest.mark.parametrize(
    "size", [((3,), (), 5, 4, 3), ((), (3,), 5, 4, 3)], ids=["own", "shared"]
)


def case_of(operator, size, dtype="float64"):
    """Operands in flat order with a state, and the gradients of both results."""
    make = random_case if operator.name == "srwm" else random_delta_case
    case = make(size, with_reset=True).astype(dtype)._asdict()
    (initial,) = (case[operand.name] for operand in operator.initials)
    operands = [initial[..., ::-1, :].copy() if o.role == "state" else case[o.name] for o in operator.flat]
    return operands, [case[f"grad_{result.name}"] for result in operator.results]


def gradients_of(operator, operands, incoming, lead=(3,), wanted=None):
    _, _, saved = calls.forward(operator, operands, lead, backend.forward_of, saved_of, True, False)
    return calls.backward(operator, operands, lead, backend.backward_of, saved, incoming, wanted)


@each_operator
@each_size
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_gradient_that_is_not_wanted_changes_no_other(operator, size, dtype):
    operands, incoming = case_of(operator, size, dtype)
    everything = gradients_of(operator, operands, incoming)
    for i, _ in enumerate(everything):
        wanted = [j != i for j, _ in enumerate(everything)]
        got = gradients_of(operator, operands, incoming, wanted=wanted)
        assert got[i] is None
        for j, a in enumerate(everything):
            assert j == i or np.array_equal(got[j], a), (i, j)


@each_operator
@pytest.mark.parametrize("which", [0, 1], ids=["y", "state"])
def test_a_missing_gradient_of_a_result_is_zero(operator, which):
    operands, incoming = case_of(operator, ((3,), (), 5, 4, 3))
    zero = [np.zeros_like(g) if i == which else g for i, g in enumerate(incoming)]
    none = [None if i == which else g for i, g in enumerate(incoming)]
    for a, b in zip(
        gradients_of(operator, operands, none), gradients_of(operator, operands, zero), strict=True
    ):
        assert np.array_equal(a, b)


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


@each_row
@each_fault
def test_misaligned_operands_are_copied(row, misaligned):
    case = random_row(row, ((3,), (), 5, 4, 3), state=True, reset=True)
    expected = public(row, case)
    for i, operand in enumerate(row.op.flat):
        if operand.role != "flag":
            assert_same(public(row, case.with_(**{operand.name: misaligned(case.flat[i])})), expected)


@each_row
@each_fault
def test_misaligned_gradients_of_results_are_copied(row, misaligned):
    case = random_row(row, ((3,), (), 5, 4, 3), state=True, reset=True)
    expected = public(row, case)
    for i in range(len(case.incoming)):
        incoming = tuple(misaligned(g) if j == i else g for j, g in enumerate(case.incoming))
        assert_same(public(row, replace(case, incoming=incoming)), expected)


@each_operator
def test_parameters_come_in_the_order_of_the_kernels(operator):
    """In that of the names that tests/cy/test_launch.py finds in the kernels' text."""
    operands, incoming = case_of(operator, ((3,), (), 5, 4, 3))
    call = calls.call_of(operator, operands, (3,))
    results, flat = [result.name for result in operator.results], calls.arrays_of_forward(operator)
    names = (*flat, *results, "saved")
    of_both = (*calls.arrays_of_backward(operator), *results)
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
    backward = Backward(driver, call, [calls.layout_of(g) for g in incoming])
    backward(at(flat), address["saved"], *rest, stream=5, empty=lambda nbytes: (next(fresh), None))
    (stream, (*addresses, working)), *sums = driver.launched
    assert (stream, working) == (5, NO_WORKING_MEMORY)
    partial = {to: written for written, to in zip(addresses, at(names), strict=True) if written != to}
    assert partial
    assert set(partial) <= set(at(gradients))
    assert sums == [(5, [written, to]) for to, written in partial.items()]


@each_operator
def test_a_pass_can_run_while_it_runs(operator):
    """Threads share it: while one launches, another one's addresses are not seen."""
    operands, _ = case_of(operator, ((3,), (), 5, 4, 3))
    driver = Remembering()
    forward = Forward(driver, calls.call_of(operator, operands, (3,)))

    def at(first):
        numbers = range(first, first + len(operands) + len(operator.results) + 1)
        *flat, y, state, saved = numbers
        return flat, (y, state), saved

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
def test_sizes_that_the_kernels_do_not_run_are_refused_when_a_pass_is_bound(operator):
    operands, _ = case_of(operator, ((1,), (), 1, 257, 1))
    with pytest.raises(ValueError, match=rf"^{operator.verb('forward')}: expected 1 <= D <= 256"):
        Forward(Platform(), calls.call_of(operator, operands, (1,)))


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
