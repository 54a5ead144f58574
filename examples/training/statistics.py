"""Mean and spread of scores: over seeds, and over episodes.

The two answer different questions. Over seeds: what would training again give? Over episodes: what
would this one trained learner score on more episodes?
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

# Half the width of the interval of a mean, of values (n, ...).
Interval = Callable[[np.ndarray], np.ndarray]


def student_interval(values: np.ndarray) -> np.ndarray:
    """``t * sd / sqrt(n)`` of values (n, ...): half the width of the 95 % interval of their mean.

    t is the 97.5 % quantile of Student's distribution with n - 1 degrees of freedom: 12.7 for two values
    and 2.8 for five, where a normal distribution would say 1.96.
    """
    return np.asarray(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def over_runs(results: Sequence[Any], interval: Interval = student_interval) -> Any:
    """Results of the same form, of one run each, as one of that form; of one run, its own.

    Where they hold a "mean" (a number, or a list of them), it holds "mean", "sd", "interval_95" over the
    runs and their "count". What else is the same in all runs is kept, the rest left out.
    """
    first = results[0]
    if len(results) == 1:
        return first
    if isinstance(first, dict) and "mean" in first:
        means = np.array([result["mean"] for result in results], np.float64)
        found = {"mean": means.mean(0), "sd": means.std(0, ddof=1), "interval_95": interval(means)}
        return {**{name: values.tolist() for name, values in found.items()}, "count": len(results)}
    if isinstance(first, dict):
        joined = {key: over_runs([result[key] for result in results], interval) for key in first}
        return {key: value for key, value in joined.items() if value is not None}
    if isinstance(first, list) and first and isinstance(first[0], dict):
        return [over_runs(parts, interval) for parts in zip(*results, strict=True)]
    return first if all(result == first for result in results) else None


def mean_and_interval(values: np.ndarray) -> dict[str, Any]:
    """Of independent values (E, ...), one for each episode: "mean", and "interval_95", half the width of
    its 95 % interval, ``1.96 * s / sqrt(E)`` with s the sample standard deviation (divisor E - 1).
    """
    values = np.asarray(values, np.float64)
    return {"mean": values.mean(0).tolist(), "interval_95": (1.96 * stats.sem(values)).tolist()}
