"""The operator against an independent truth: torch's autograd through an eager loop, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import srwm
from benchmarks.peers import eager_forward
from tests.cases import (
    SIZES,
    TOLERANCE,
    assert_close,
    growth_case,
    random_case,
    relative_error,
    run,
)

# Beyond the table of sizes: those whose published gradients are wrong, and the longest.
LARGE = [((1,), (), 600, 128, 128), ((2,), (2,), 600, 64, 64), ((2,), (2,), 200, 40, 40)]


def by_autograd(case, dtype=torch.float64):
    """All results of a case by name, through the eager loop."""
    x, W = (torch.tensor(a, dtype=dtype, requires_grad=True) for a in (case.x, case.W))
    reset = None if case.reset is None else torch.tensor(case.reset)
    y, W_next = eager_forward(x, W, reset)
    gradients = (torch.tensor(a, dtype=dtype) for a in (case.grad_y, case.grad_W_next))
    torch.autograd.backward((y, W_next), tuple(gradients))
    named = {"y": y, "W_next": W_next, "gx": x.grad, "gW": W.grad}
    return {name: a.detach().numpy() for name, a in named.items()}


@pytest.mark.parametrize("with_reset", [False, True], ids=["", "reset"])
@pytest.mark.parametrize("size", SIZES + LARGE, ids=lambda s: "-".join(map(str, s)))
def test_results_and_gradients(size, with_reset):
    if with_reset and size in LARGE[:2]:
        size = (*size[:2], 100, *size[3:])  # a reset cuts a sequence short anyway
    case = random_case(size, with_reset=with_reset, seed=5)
    truth = by_autograd(case)
    assert_close(run(srwm, case, backend="reference"), truth, TOLERANCE["float64"], "reference")
    assert_close(run(srwm, case), truth, TOLERANCE["float64"], "float64")
    assert_close(run(srwm, case.astype("float32")), truth, TOLERANCE["float32"], "float32")


def float32_errors(case):
    """(our, autograd's) relative errors by name, both in float32, from autograd's in float64."""
    truth = by_autograd(case)
    single = case.astype("float32")
    ours, theirs = run(srwm, single), by_autograd(single, torch.float32)
    return tuple({n: relative_error(r[n], truth[n]) for n in truth} for r in (ours, theirs))


@pytest.mark.parametrize(
    "case",
    [
        random_case(((4,), (4,), 600, 16, 16)),
        random_case(((2,), (2,), 300, 64, 64)),
        random_case(((4,), (4,), 26, 16, 16)),
        growth_case(),
    ],
    ids=["16", "64", "short", "growth"],
)
def test_float32_is_as_exact_as_autograd_in_float32(case):
    ours, theirs = float32_errors(case)
    for name, error in ours.items():
        assert error <= 2 * theirs[name], f"{name}: {error} beside {theirs[name]}"


def test_hundred_thousand_steps_stay_finite_and_repeatable():
    case = random_case(((1,), (), 100_000, 4, 4), with_reset=True)
    first, second = run(srwm, case), run(srwm, case)
    for name, a in first.items():
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, second[name], name)
