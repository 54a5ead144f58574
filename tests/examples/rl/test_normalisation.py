"""The constants that returns are normalised by, as the literature has them."""

import numpy as np
import pytest

from examples.rl.environments.procgen import MODES
from examples.rl.normalisation import has_constants, normalise, return_range

# Cobbe et al. 2020, appendix C: game, least and largest return, easy and hard.
PUBLISHED = """
coinrun 5 10 5 10
starpilot 2.5 64 1.5 35
caveflyer 3.5 12 2 13.4
dodgeball 1.5 19 1.5 19
fruitbot -1.5 32.4 -.5 27.2
chaser .5 13 .5 14.2
miner 1.5 13 1.5 20
jumper 3 10 1 10
leaper 3 10 1.5 10
maze 5 10 4 10
bigfish 1 40 0 40
heist 3.5 10 2 10
climber 2 12.6 1 12.6
plunder 4.5 30 3 30
ninja 3.5 10 2 10
bossfight .5 13 .5 13
"""


def test_constants():
    games = set()
    for line in PUBLISHED.split("\n")[1:-1]:
        game, *constants = line.split()
        least, largest, least_hard, largest_hard = map(float, constants)
        assert return_range(game, "easy") == (least, largest)
        assert return_range(game, "hard") == (least_hard, largest_hard)
        games.add(game)
    assert games == set(MODES)


def test_normalised_returns():
    np.testing.assert_allclose(normalise(np.array([2.5, 64.0, 33.25]), "starpilot", "easy"), [0, 1, 0.5])


@pytest.mark.parametrize(("game", "mode"), [("maze", "memory"), ("cue", "easy"), ("maze", "exploration")])
def test_without_constants(game, mode):
    assert not has_constants(game, mode)
    with pytest.raises(ValueError, match=rf"got '{game}' in '{mode}'; report raw returns"):
        normalise(np.zeros(2), game, mode)
