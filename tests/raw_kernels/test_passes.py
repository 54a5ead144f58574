"""What a bound pass does with addresses: what is not wanted, what is zero, what it cannot read."""

from __future__ import annotations

import re

import numpy as np
import pytest

from srwm._raw_kernels.passes import Backward, Forward, plans_of, saved_of
from srwm.operators.table import OPERATORS
from tests.cases import random_case, random_delta_case
from tests.cuda_host import backend, calls
from tests.cuda_host.platform import Platform

# Without a C++ compiler no kernel can be built; in CI tests/operators.py fails for that.
pytestmark = pytest.mark.skipif(backend.unusable() is not None, reason=str(backend.unusable()))

each_operator = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
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


@each_operator
def test_strides_of_no_whole_number_of_entries_are_refused(operator):
    """A kernel would read between the entries."""
    operands, incoming = case_of(operator, ((3,), (), 5, 4, 3))
    for i, operand in enumerate(operator.flat):
        if operand.role != "flag":
            odd = [with_odd_strides(a) if j == i else a for j, a in enumerate(operands)]
            name = re.escape(f"{operator.verb('forward')}: {operand.name}: expected strides")
            with pytest.raises(ValueError, match=f"^{name}"):
                Forward(Platform(), calls.call_of(operator, odd, (3,)))
    call = calls.call_of(operator, operands, (3,))
    for i, result in enumerate(operator.results):
        layouts = [calls.layout_of(with_odd_strides(g) if j == i else g) for j, g in enumerate(incoming)]
        name = re.escape(f"{operator.verb('backward')}: grad_{result.name}: expected strides")
        with pytest.raises(ValueError, match=f"^{name}"):
            Backward(Platform(), call, layouts)


@each_operator
def test_an_address_that_is_not_aligned_is_refused(operator):
    operands, incoming = case_of(operator, ((3,), (), 5, 4, 3), "float32")
    call = calls.call_of(operator, operands, (3,))
    addresses = [calls.address_of(a) for a in operands]
    name = operator.flat[-2].name
    addresses[-2] += 2
    with pytest.raises(ValueError, match=rf"^{operator.verb('forward')}: {name}: .*multiple of 4 bytes"):
        Forward(Platform(), call)(addresses, (0, 0), 0, stream=0, empty=calls.empty)
    backward = Backward(Platform(), call, [calls.layout_of(g) for g in incoming])
    addresses[-2] -= 2
    with pytest.raises(ValueError, match=rf"^{operator.verb('backward')}: grad_y: .*multiple of 4"):
        backward(addresses, 0, (2, 0), (0,) * 6, stream=0, empty=calls.empty)


@each_operator
def test_sizes_that_the_kernels_do_not_run_are_refused_when_a_pass_is_bound(operator):
    operands, _ = case_of(operator, ((1,), (), 1, 257, 1))
    with pytest.raises(ValueError, match=rf"^{operator.verb('forward')}: expected 1 <= D <= 256"):
        Forward(Platform(), calls.call_of(operator, operands, (1,)))


@pytest.mark.parametrize("lead", [(), (0,), (3,)])
def test_warmup_compiles_what_calls_launch(lead):
    """Plans of a call are among those that are compiled ahead, in every dtype of the state."""
    for operator in OPERATORS.values():
        for dtype in ("float16", "float32"):
            operands, incoming = case_of(operator, (lead, lead, 2, 4, 4), dtype)
            for state_dtype in {dtype, "float32"}:
                state = operator.places("state")[0]
                given = [a.astype(state_dtype) if i == state else a for i, a in enumerate(operands)]
                asked = []
                platform = Remembering(asked)
                call = calls.call_of(operator, given, lead)
                Forward(platform, call)
                Backward(platform, call, [calls.layout_of(g) for g in incoming])
                ahead = list(plans_of(operator, 4, 4, dtype, platform.limits()))
                assert set(asked) <= set(ahead)


class Remembering:
    """A platform that compiles nothing."""

    def __init__(self, asked):
        self.asked, self.limits = asked, Platform().limits

    def kernel(self, plan):
        self.asked.append(plan)
