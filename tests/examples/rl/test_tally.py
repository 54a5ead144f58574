from collections import defaultdict

import numpy as np

from examples.rl.environments.vector import Step
from examples.rl.tally import add_ended, report_of


def ended(sums, *episodes: tuple[str, float, int]) -> defaultdict:
    """Add episodes that ended together, beside one that did not."""
    games, returns, lengths = zip(*episodes, ("maze", np.nan, 0), strict=True)
    done = np.arange(len(games)) < len(episodes)
    add_ended(sums, Step(np.zeros(0), np.zeros(0), done, np.array(returns), np.array(lengths)), games)
    return sums


def test_means_over_episodes_and_over_games():
    sums = defaultdict(float, loss=1.5)
    assert report_of(sums) == report_of({**sums, "episodes/maze": 0}) == {"episodes": 0}
    ended(sums, ("maze", 10.0, 20), ("maze", 0.0, 40))
    assert report_of(sums) == {"episodes": 2, "episode_return": 5.0, "episode_length": 30.0}
    assert report_of(ended(sums, ("heist", 1.0, 90))) == {
        "episodes": 3,
        "episode_return": 3.0,
        "episode_length": 50.0,
        "episode_return/heist": 1.0,
        "episode_return/maze": 5.0,
    }
