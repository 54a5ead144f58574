"""What a timed call must give: the float64 truth, and the refusal of anything else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import srwm
from benchmarks.cases import Case

TOLERANCE = 1e-4  # of float32 results, relative to the greatest entry of the truth


def truth(case: Case) -> list[np.ndarray]:
    """y and the gradients of x and W in float64, by the readable definition."""
    case = case.astype(np.float64)
    (y, _), pullback = srwm.vjp(*case.operands, backend="reference")
    return [y, *pullback(case.grad_y)]


def worst_error(name: str, results: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    """The greatest relative error among a peer's results; raises where it is too great.

    Of forward alone there is one result, y, to compare with the first truth.
    """
    worst = 0.0
    for result, expected in zip(results, truths, strict=False):
        if result.shape != expected.shape:
            raise ArithmeticError(
                f"{name}: expected a result of shape {expected.shape}, got {result.shape}"
            )
        error = float(np.abs(result - expected).max() / np.abs(expected).max())
        if not error <= TOLERANCE:  # NaN too
            raise ArithmeticError(f"{name}: relative error {error:.1e} above {TOLERANCE}: not timed")
        worst = max(worst, error)
    return worst
