import numpy as np
import pytest

from examples.rl.environments.procgen import MODES
from examples.rl.normalisation import has_constants, normalise

# Cobbe et al. 2020, appendix C.
EASY = """
bigfish 1 40, bossfight .5 13, caveflyer 3.5 12, chaser .5 13, climber 2 12.6, coinrun 5 10,
dodgeball 1.5 19, fruitbot -1.5 32.4, heist 3.5 10, jumper 3 10, leaper 3 10, maze 5 10,
miner 1.5 13, ninja 3.5 10, plunder 4.5 30, starpilot 2.5 64
"""
SOME_HARD = "bigfish 0 40, starpilot 1.5 35, maze 4 10, heist 2 10, dodgeball 1.5 19, miner 1.5 20"


def read(text: str) -> dict[str, tuple[float, float]]:
    return {
        game: (float(least), float(largest))
        for game, least, largest in (part.split() for part in text.split(","))
    }


def test_the_published_constants():
    assert read(EASY).keys() == MODES.keys()
    for mode, text in (("easy", EASY), ("hard", SOME_HARD)):
        for game, ends in read(text).items():
            assert normalise(np.array(ends), game, mode).tolist() == [0, 1], (game, mode)


def test_which_can_be_normalised():
    found = {
        (game, mode)
        for game in ("cue", *MODES)
        for mode in ("easy", "hard", "extreme", "memory", "exploration")
        if has_constants(game, mode)
    }
    assert found == {(game, mode) for game in MODES for mode in ("easy", "hard")}


def test_the_least_is_0_the_largest_1_and_between_it_is_straight():
    returns = np.array([-1.5, 32.4, 15.45, -1.5 - 33.9], np.float32)
    values = normalise(returns, "fruitbot", "easy")
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, [0, 1, 0.5, -1], atol=1e-6)


@pytest.mark.parametrize(("game", "mode"), [("cue", "easy"), ("maze", "memory"), ("pong", "hard")])
def test_without_constants(game, mode):
    with pytest.raises(
        ValueError,
        match=f"game and mode must be one of bigfish, .* got '{game}' in '{mode}'; report raw returns",
    ):
        normalise(np.zeros(2), game, mode)
