import numpy as np
import pytest

from examples.rl.environments.procgen import MODES
from examples.rl.evaluate import has_constants, normalise

# Cobbe et al. 2020, appendix C: all of the easy distribution, some of the hard one.
PUBLISHED = {
    "easy": """
bigfish 1 40, bossfight .5 13, caveflyer 3.5 12, chaser .5 13, climber 2 12.6, coinrun 5 10,
dodgeball 1.5 19, fruitbot -1.5 32.4, heist 3.5 10, jumper 3 10, leaper 3 10, maze 5 10,
miner 1.5 13, ninja 3.5 10, plunder 4.5 30, starpilot 2.5 64
""",
    "hard": "bigfish 0 40, starpilot 1.5 35, maze 4 10, heist 2 10, dodgeball 1.5 19, miner 1.5 20",
}


def test_the_published_constants():
    """The least is 0, the largest 1, and between it is straight."""
    for mode, text in PUBLISHED.items():
        rows = [part.split() for part in text.split(",")]
        assert mode == "hard" or [game for game, *_ in rows] == list(MODES)
        for game, *ends in rows:
            least, largest = map(float, ends)
            returns = np.array([least, largest, (least + largest) / 2, 2 * least - largest], np.float32)
            found = normalise(returns, game, mode)
            assert found.dtype == np.float64
            np.testing.assert_allclose(found, [0, 1, 0.5, -1], atol=1e-6, err_msg=f"{game} {mode}")


@pytest.mark.parametrize("mode", ["easy", "hard", "extreme", "memory", "exploration"])
@pytest.mark.parametrize("game", ["cue", "pong", *MODES])
def test_which_can_be_normalised(game, mode):
    assert has_constants(game, mode) == (game in MODES and mode in ("easy", "hard"))
