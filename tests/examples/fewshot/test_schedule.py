import numpy as np
import pytest

from examples.fewshot.schedule import schedule


def test_rises_in_a_line_then_falls_by_half_a_cosine():
    assert schedule(0.05, 0.1, 0.01) == pytest.approx(0.5)
    assert schedule(0.1, 0.1, 0.01) == pytest.approx(1.0)
    assert schedule(0.55, 0.1, 0.01) == pytest.approx(0.505)
    assert schedule(1.0, 0.1, 0.01) == pytest.approx(0.01)


def test_the_first_step_counts_and_no_step_is_backwards():
    rates = [schedule(share, 0.1, 0.0) for share in np.linspace(0, 1.2, 50)]
    assert rates[0] > 0
    assert min(rates) >= 0
    assert max(rates) <= 1


def test_no_warmup():
    assert schedule(0.0, 0.0, 0.01) == pytest.approx(1.0)
