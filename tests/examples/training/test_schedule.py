import numpy as np
import pytest

from examples.training.schedule import cosine, published


def test_rises_in_a_line_then_falls_by_half_a_cosine():
    expected = {0.05: 0.5, 0.1: 1.0, 0.55: 0.505, 1.0: 0.01}
    assert {share: cosine(share, 0.1, 0.01) for share in expected} == pytest.approx(expected)
    assert cosine(0.0, 0.0, 0.01) == pytest.approx(1.0), "no warm-up"
    rates = [cosine(share, 0.1, 0.0) for share in np.linspace(0, 1.2, 50)]
    assert rates[0] > 0, "the first step counts"
    assert min(rates) >= 0
    assert max(rates) <= 1


def test_the_published_schedule_has_the_published_values():
    rates = [published(step, 256, 5000) for step in (1, 5000, 100_000)]
    assert rates == pytest.approx([1.77e-7, 8.84e-4, 1.98e-4], rel=0.005)
    assert published(600_000, 256, 5000) == pytest.approx(8.07e-5, rel=0.005)
    assert max(published(step, 256, 5000) for step in range(1, 20_000)) == published(5000, 256, 5000)
