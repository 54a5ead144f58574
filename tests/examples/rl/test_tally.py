import dataclasses

from examples.rl.rollouts import Episode
from examples.rl.tally import Tally


def test_means_over_episodes_and_over_games():
    tally = Tally()
    assert tally.of_episodes() == {"episodes": 0}
    tally.add_episodes([Episode("maze", 10.0, 20), Episode("maze", 0.0, 40)])
    assert tally.of_episodes() == {"episodes": 2, "episode_return": 5.0, "episode_length": 30.0}
    tally.add_episodes([Episode("heist", 1.0, 90)])
    assert tally.of_episodes() == {
        "episodes": 3,
        "episode_return": 3.0,
        "episode_length": 50.0,
        "episode_return/heist": 1.0,
        "episode_return/maze": 5.0,
    }


def test_merging_is_counting_together():
    one, other, both = Tally(), Tally(), Tally()
    for mine, value in ((one, 1.5), (other, 2.5)):
        for tally in (mine, both):
            tally.add({"loss": value})
            tally.add_episodes([Episode("maze", value, 3)])
    one.merge(other)
    assert one == both
    assert one.sums == {"loss": 4.0}
    assert one.episodes == {"maze": [2, 4.0, 6]}


def test_a_checkpoint_can_hold_it():
    tally = Tally()
    tally.add({"loss": 1.0})
    tally.add_episodes([Episode("maze", 1.0, 3)])
    assert Tally(**dataclasses.asdict(tally)) == tally
