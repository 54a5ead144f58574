"""Mean and spread of scores: over seeds, and over episodes.

The two answer different questions. Over seeds: what would training again give? Over episodes: what
would this one trained learner score on more episodes?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Summary:
    """Of values of several seeds.

    Attributes
    ----------
    mean : of the values.
    sd : sample standard deviation (divisor ``count - 1``).
    interval_95 : half the width of the 95 % interval of the mean, ``t * sd / sqrt(count)`` with t the
        97.5 % quantile of Student's distribution with ``count - 1`` degrees of freedom: 12.7 for two
        seeds and 2.8 for five, where a normal distribution would say 1.96.
    count : number of seeds.
    """

    mean: float
    sd: float
    interval_95: float
    count: int


def summarise(values: Sequence[float] | np.ndarray) -> Summary:
    """Mean, spread and 95 % interval of one value (n,) per seed.

    Raises
    ------
    ValueError : for fewer than two values, which say nothing about their spread.
    """
    array = _at_least_two("summarise", "seeds", values)
    count = len(array)
    sd = float(array.std(ddof=1))
    quantile = float(stats.t.ppf(0.975, count - 1))
    return Summary(float(array.mean()), sd, quantile * sd / float(np.sqrt(count)), count)


def mean_and_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean of independent values (E,), one per episode, and the half width of its 95 % interval.

    ``1.96 * s / sqrt(E)`` with s the sample standard deviation (divisor E - 1).

    Raises
    ------
    ValueError : for fewer than two values, which say nothing about their spread.
    """
    array = _at_least_two("mean_and_interval", "episodes", values)
    return float(array.mean()), float(1.96 * array.std(ddof=1) / np.sqrt(len(array)))


def _at_least_two(operation: str, what: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(
            f"{operation}: values must hold at least 2 {what}, got "
            f"{len(array) if array.ndim == 1 else f'shape {array.shape}'}"
        )
    return array
