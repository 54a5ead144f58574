import numpy as np
import pytest

from examples.training.schedule import cosine, published


def test_rises_in_a_line_then_falls_by_half_a_cosine():
    assert cosine(0.05, 0.1, 0.01) == pytest.approx(0.5)
    assert cosine(0.1, 0.1, 0.01) == pytest.approx(1.0)
    assert cosine(0.55, 0.1, 0.01) == pytest.approx(0.505)
    assert cosine(1.0, 0.1, 0.01) == pytest.approx(0.01)


def test_the_first_step_counts_and_no_step_is_backwards():
    rates = [cosine(share, 0.1, 0.0) for share in np.linspace(0, 1.2, 50)]
    assert rates[0] > 0
    assert min(rates) >= 0
    assert max(rates) <= 1


def test_no_warmup():
    assert cosine(0.0, 0.0, 0.01) == pytest.approx(1.0)


def test_the_published_schedule_has_the_published_values():
    rates = [published(step, 256, 5000) for step in (1, 5000, 100_000)]
    assert rates == pytest.approx([1.77e-7, 8.84e-4, 1.98e-4], rel=0.005)
    assert published(600_000, 256, 5000) == pytest.approx(8.07e-5, rel=0.005)
    assert max(published(step, 256, 5000) for step in range(1, 20_000)) == published(5000, 256, 5000)
