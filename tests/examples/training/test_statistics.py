import statistics

import numpy as np
import pytest
from scipy import stats

from examples.training.statistics import mean_and_interval, over_runs


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_summary_over_seeds_against_scipy(count):
    values = np.random.default_rng(count).normal(0.7, 0.1, count)
    summary = over_runs([{"mean": float(value)} for value in values])
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert summary == pytest.approx(
        {
            "mean": statistics.fmean(values),
            "sd": statistics.stdev(values),
            "interval_95": (high - low) / 2,
            "count": count,
        },
        rel=1e-9,
    )


def test_interval_over_episodes_against_the_standard_library():
    values = np.random.default_rng(0).random((50, 2))
    found = mean_and_interval(values)
    for number, of_column in enumerate(values.T):
        assert found["mean"][number] == pytest.approx(statistics.fmean(of_column), rel=1e-12)
        half = 1.96 * statistics.stdev(of_column) / 50**0.5
        assert found["interval_95"][number] == pytest.approx(half, rel=1e-12)
    assert mean_and_interval(values[:, 0])["mean"] == pytest.approx(found["mean"][0], rel=1e-12)


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
