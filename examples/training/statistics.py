"""Mean and spread of scores: over seeds, and over episodes.

The two answer different questions. Over seeds: what would training again give? Over episodes: what
would this one trained learner score on more episodes?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

# How an interval is computed. "published": by the paper's scripts, which call it a 95 % interval.
IntervalRule = Literal["student", "published"]


@dataclass(frozen=True)
class Summary:
    """Of values of several seeds.

    Attributes
    ----------
    mean : of the values.
    sd : sample standard deviation (divisor ``count - 1``).
    interval_95 : half the width of the 95 % interval of the mean, ``t * sd / sqrt(count)`` with t the
        97.5 % quantile of Student's distribution with ``count - 1`` degrees of freedom: 12.7 for two
        seeds and 2.8 for five, where a normal distribution would say 1.96. By the rule "published",
        `published_interval`.
    count : number of seeds.
    """

    mean: float
    sd: float
    interval_95: float
    count: int


def summarise(values: Sequence[float] | np.ndarray, rule: IntervalRule = "student") -> Summary:
    """Mean, spread and 95 % interval of one value (n,) per seed, the interval by a rule.

    Raises
    ------
    ValueError : for fewer than two values, which say nothing about their spread.
    """
    array = _at_least_two("summarise", "seeds", values)
    count = len(array)
    sd = float(array.std(ddof=1))
    if rule == "published":
        half = published_interval(array)
    else:
        half = float(stats.t.ppf(0.975, count - 1)) * sd / float(np.sqrt(count))
    return Summary(float(array.mean()), sd, half, count)


def over_runs(results: Sequence[Any], rule: IntervalRule = "student") -> Any:
    """Results of the same form, of one run each, as one of that form; of one run, its own.

    Where they hold a "mean" (a number, or a list of them), it holds "mean", "sd", "interval_95" over the
    runs and their "count", the interval by the rule. What else is the same in all runs is kept, the rest
    left out.
    """
    first = results[0]
    if len(results) == 1:
        return first
    if isinstance(first, dict) and "mean" in first:
        means = [result["mean"] for result in results]
        if not isinstance(first["mean"], list):
            return asdict(summarise(means, rule))
        summaries = [asdict(summarise(values, rule)) for values in zip(*means, strict=True)]
        lists = {key: [summary[key] for summary in summaries] for key in ("mean", "sd", "interval_95")}
        return {**lists, "count": len(results)}
    if isinstance(first, dict):
        joined = {key: over_runs([result[key] for result in results], rule) for key in first}
        return {key: value for key, value in joined.items() if value is not None}
    if isinstance(first, list) and first and isinstance(first[0], dict):
        return [over_runs(parts, rule) for parts in zip(*results, strict=True)]
    return first if all(result == first for result in results) else None


def mean_and_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean of independent values (E,), one per episode, and the half width of its 95 % interval.

    ``1.96 * s / sqrt(E)`` with s the sample standard deviation (divisor E - 1).

    Raises
    ------
    ValueError : for fewer than two values, which say nothing about their spread.
    """
    array = _at_least_two("mean_and_interval", "episodes", values)
    return float(array.mean()), float(1.96 * array.std(ddof=1) / np.sqrt(len(array)))


def mean_and_published_interval(values: Sequence[float] | np.ndarray, tests: int) -> tuple[float, float]:
    """Mean of values (E,), one per episode, and `published_interval` of the means of ``tests`` equal parts.

    Raises
    ------
    ValueError : for fewer than two tests, or if they do not divide the episodes evenly.
    """
    array = _at_least_two("mean_and_published_interval", "episodes", values)
    if tests < 2 or len(array) % tests:
        raise ValueError(
            "mean_and_published_interval: tests must be at least 2 and divide the number of episodes "
            f"({len(array)}), got {tests}"
        )
    return float(array.mean()), published_interval(array.reshape(tests, -1).mean(axis=1))


def published_interval(values: np.ndarray) -> float:
    """``1.96 * s / n`` of n values, s their standard deviation with divisor n.

    What the paper's scripts print as a 95 % interval, over repeated tests of one learner. It would be
    one with the square root of n, the divisor n - 1 and Student's quantile: of five, it is 3.5 times too
    narrow.
    """
    return float(1.96 * values.std() / len(values))


def _at_least_two(operation: str, what: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(
            f"{operation}: values must hold at least 2 {what}, got "
            f"{len(array) if array.ndim == 1 else f'shape {array.shape}'}"
        )
    return array
