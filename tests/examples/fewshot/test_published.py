"""The published scripts' defects, by hand."""

import numpy as np
import pytest

from examples.fewshot import published
from examples.training.statistics import over_runs, summarise


def test_the_published_interval_by_hand():
    """Of the means 0.5, 0.75 and 1: their standard deviation with divisor 3 is 0.25 * sqrt(2 / 3)."""
    half = 1.96 * 0.25 * (2 / 3) ** 0.5 / 3
    summary = summarise([0.5, 0.75, 1.0], published.interval)
    assert summary.interval_95 == pytest.approx(half, rel=1e-12)
    assert (summary.mean, summary.sd) == (0.75, 0.25)
    assert published.mean_and_interval([0, 1, 1, 0.5, 1, 1], tests=3) == pytest.approx((0.75, half))
    joined = over_runs([{"a": [{"mean": [0, value]}]} for value in (0.5, 0.75, 1.0)], published.interval)
    assert joined["a"][0]["interval_95"] == pytest.approx([0, half])
    joined = over_runs([{"a": {"mean": value}} for value in (0.5, 0.75, 1.0)], published.interval)
    assert joined["a"]["interval_95"] == pytest.approx(half)


@pytest.mark.parametrize("tests", [1, 4])
def test_tests_that_do_not_divide_the_episodes_are_refused(tests):
    with pytest.raises(ValueError, match=rf"tests must be .* divide the number .* \(6\), got {tests}"):
        published.mean_and_interval(np.arange(6), tests)
