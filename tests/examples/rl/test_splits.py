import dataclasses

import pytest

from examples.rl.tables import Split, splits_of

ALL = ("train", "1000", "1200", "1400")


@pytest.fixture
def maze(settings):
    return dataclasses.replace(settings, games=("maze", "heist"))


@pytest.mark.parametrize(
    ("start", "number", "seen"),
    [
        (0, 200, set()),
        (0, 1000, set()),
        (0, 1001, {"1000"}),
        (0, 1201, {"1000", "1200"}),
        (1599, 1, {"1400"}),
        (1600, 5, set()),
        (1600, 0, set()),
        (1300, 0, {"1200", "1400"}),
        (0, 0, {"1000", "1200", "1400"}),
        (1250, 10, {"1200"}),
    ],
)
def test_levels_that_training_met_are_not_unseen(maze, start, number, seen):
    tests = [Split(name, (int(name), 200), unseen=name not in seen) for name in ALL[1:]]
    settings = dataclasses.replace(maze, start_level=start, levels=number)
    assert splits_of(settings, ALL) == [Split("train", (start, number), unseen=False), *tests]


def test_the_splits_asked_for_once_and_in_their_order(maze):
    assert [split.name for split in splits_of(maze, ("1400", "train", "1400"))] == ["1400", "train"]
    with pytest.raises(ValueError, match="--splits must name at least one"):
        splits_of(maze, ())


def test_where_levels_have_no_numbers_there_is_one_split(maze):
    cue, exploration = (
        dataclasses.replace(maze, **new) for new in ({"games": ("cue",)}, {"mode": "exploration"})
    )
    assert splits_of(cue, ("1000", "1200")) == [Split("new episodes", None, unseen=True)]
    assert splits_of(exploration, ("1000", "1200")) == [Split("train", None, unseen=False)]


@pytest.mark.parametrize(
    ("split", "title"),
    [
        (Split("1000", (1000, 200), unseen=False), "1000: levels 1000–1199, seen in training"),
        (Split("train", (7, 0), unseen=False), "train: all levels from 7 on, seen in training"),
        (Split("train", None, unseen=False), "train: seen in training"),
    ],
)
def test_what_a_reader_is_told(split, title):
    assert split.title == title
