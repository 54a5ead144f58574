import statistics

import numpy as np
import pytest
from scipy import stats

from examples.training.statistics import (
    mean_and_interval,
    over_runs,
    summarise,
)


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_summary_over_seeds_against_scipy(count):
    values = np.random.default_rng(count).normal(0.7, 0.1, count)
    summary = summarise(values)
    assert summary.count == count
    assert summary.mean == pytest.approx(statistics.fmean(values), rel=1e-12)
    assert summary.sd == pytest.approx(statistics.stdev(values), rel=1e-12)
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert summary.mean - summary.interval_95 == pytest.approx(low, rel=1e-9)
    assert summary.mean + summary.interval_95 == pytest.approx(high, rel=1e-9)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_interval_over_few_seeds_covers_the_truth_as_often_as_it_says(count):
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(800):
        summary = summarise(rng.normal(0.7, 0.1, count))
        hits += abs(summary.mean - 0.7) <= summary.interval_95
    assert 0.925 <= hits / 800 <= 0.975  # 95 %, three standard errors either way


def test_interval_over_episodes_against_the_standard_library():
    values = np.random.default_rng(0).random(50)
    mean, half = mean_and_interval(values)
    assert mean == pytest.approx(statistics.fmean(values), rel=1e-12)
    assert half == pytest.approx(1.96 * statistics.stdev(values) / 50**0.5, rel=1e-12)


def test_interval_over_episodes_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        mean, half = mean_and_interval((rng.random(200) < 0.7).astype(float))
        hits += abs(mean - 0.7) <= half
    assert 925 <= hits <= 970


def test_one_value_says_nothing_about_its_spread():
    with pytest.raises(ValueError, match="summarise: values must hold at least 2 seeds, got 1"):
        summarise([0.5])
    with pytest.raises(ValueError, match="at least 2 episodes, got 1"):
        mean_and_interval(np.ones(1))
    with pytest.raises(ValueError, match=r"got shape \(2, 2\)"):
        summarise(np.ones((2, 2)))


def test_a_summary_of_one_run_is_its_own_result():
    result = {"step": 1, "a": {"mean": 0.1, "interval_95": 0.2}}
    assert over_runs([result]) == result


def test_a_summary_has_the_form_of_its_parts():
    parts = [
        {"step": n, "chance": 0.2, "a": {"mean": 0.1 * n}, "b": [{"x": {"mean": [0.1, 0.2 * n]}}]}
        for n in (1, 2, 3)
    ]
    joined = over_runs(parts)
    assert joined.keys() == {"chance", "a", "b"}
    assert joined["a"]["mean"] == pytest.approx(0.2)
    assert joined["a"]["sd"] == pytest.approx(0.1)
    assert joined["b"][0]["x"]["mean"] == pytest.approx([0.1, 0.4])
    assert joined["b"][0]["x"]["sd"] == pytest.approx([0.0, 0.2])
    assert joined["b"][0]["x"]["count"] == 3
