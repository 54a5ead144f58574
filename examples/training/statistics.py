"""Mean and spread of scores: over seeds, and over episodes.

The two answer different questions. Over seeds: what would training again give? Over episodes: what
would this one trained learner score on more episodes?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

# Half the width of the interval of a mean, of values (n,).
Interval = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Summary:
    """Of values of several seeds.

    Attributes
    ----------
    mean : of the values.
    sd : sample standard deviation (divisor ``count - 1``).
    interval_95 : half the width of the 95 % interval of the mean, `student_interval` unless told otherwise.
    count : number of seeds.
    """

    mean: float
    sd: float
    interval_95: float
    count: int


def student_interval(values: np.ndarray) -> float:
    """``t * sd / sqrt(n)`` of values (n,): half the width of the 95 % interval of their mean.

    t is the 97.5 % quantile of Student's distribution with n - 1 degrees of freedom: 12.7 for two values
    and 2.8 for five, where a normal distribution would say 1.96.
    """
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def summarise(values: Sequence[float] | np.ndarray, interval: Interval = student_interval) -> Summary:
    """Mean, spread and 95 % interval of one value (n,) per seed.

    Raises
    ------
    ValueError : for fewer than two values, which say nothing about their spread.
    """
    array = at_least_two("summarise", "seeds", values)
    return Summary(float(array.mean()), float(array.std(ddof=1)), interval(array), len(array))


def over_runs(results: Sequence[Any], interval: Interval = student_interval) -> Any:
    """Results of the same form, of one run each, as one of that form; of one run, its own.

    Where they hold a "mean" (a number, or a list of them), it holds "mean", "sd", "interval_95" over the
    runs and their "count". What else is the same in all runs is kept, the rest
    left out.
    """
    first = results[0]
    if len(results) == 1:
        return first
    if isinstance(first, dict) and "mean" in first:
        means = [result["mean"] for result in results]
        if not isinstance(first["mean"], list):
            return asdict(summarise(means, interval))
        summaries = [asdict(summarise(values, interval)) for values in zip(*means, strict=True)]
        lists = {key: [summary[key] for summary in summaries] for key in ("mean", "sd", "interval_95")}
        return {**lists, "count": len(results)}
    if isinstance(first, dict):
        joined = {key: over_runs([result[key] for result in results], interval) for key in first}
        return {key: value for key, value in joined.items() if value is not None}
    if isinstance(first, list) and first and isinstance(first[0], dict):
        return [over_runs(parts, interval) for parts in zip(*results, strict=True)]
    return first if all(result == first for result in results) else None


def mean_and_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean of independent values (E,), one per episode, and the half width of its 95 % interval.

    ``1.96 * s / sqrt(E)`` with s the sample standard deviation (divisor E - 1).

    Raises
    ------
    ValueError : for fewer than two values, which say nothing about their spread.
    """
    array = at_least_two("mean_and_interval", "episodes", values)
    return float(array.mean()), float(1.96 * stats.sem(array))


def at_least_two(operation: str, what: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    """The values as float64 (n,).

    Raises
    ------
    ValueError : for fewer than two, or another shape.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(
            f"{operation}: values must hold at least 2 {what}, got "
            f"{len(array) if array.ndim == 1 else f'shape {array.shape}'}"
        )
    return array
