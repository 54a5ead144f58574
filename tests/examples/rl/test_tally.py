from collections import Counter

from examples.rl.rollouts import Episode
from examples.rl.tally import report_of, sums_of

MAZE = [Episode("maze", 10.0, 20), Episode("maze", 0.0, 40)]
HEIST = Episode("heist", 1.0, 90)


def test_means_over_episodes_and_over_games():
    assert report_of(sums_of([])) == {"episodes": 0}
    assert report_of(sums_of(MAZE)) == {"episodes": 2, "episode_return": 5.0, "episode_length": 30.0}
    assert report_of(sums_of([*MAZE, HEIST])) == {
        "episodes": 3,
        "episode_return": 3.0,
        "episode_length": 50.0,
        "episode_return/heist": 1.0,
        "episode_return/maze": 5.0,
    }


def test_adding_sums_is_counting_together():
    both = Counter({"loss": 1.5})
    for episodes in (MAZE, [HEIST]):
        both.update(sums_of(episodes))
    assert report_of(both) == report_of(sums_of([*MAZE, HEIST]))
