import dataclasses

import pytest

from examples.rl.splits import Split, splits_of

ALL = ("train", "1000", "1200", "1400")


@pytest.fixture
def maze(settings):
    return dataclasses.replace(settings, games=("maze", "heist"))


def test_the_published_splits(maze):
    assert splits_of(maze, ALL) == [
        Split("train", (0, 200), unseen=False),
        Split("1000", (1000, 200), unseen=True),
        Split("1200", (1200, 200), unseen=True),
        Split("1400", (1400, 200), unseen=True),
    ]


@pytest.mark.parametrize(
    ("start", "number", "seen"),
    [
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
    settings = dataclasses.replace(maze, start_level=start, levels=number)
    splits = splits_of(settings, ALL)
    assert splits[0].levels == (start, number)
    assert {split.name for split in splits if not split.unseen} == {"train"} | seen


def test_the_splits_asked_for_once_and_in_their_order(maze):
    assert [split.name for split in splits_of(maze, ("1400", "train", "1400"))] == ["1400", "train"]
    with pytest.raises(ValueError, match="--splits must name at least one"):
        splits_of(maze, ())


def test_where_levels_have_no_numbers_there_is_one_split(settings, maze):
    cue = dataclasses.replace(settings, games=("cue",))
    assert splits_of(cue, ("1000", "1200")) == [Split("new episodes", None, unseen=True)]
    exploration = dataclasses.replace(maze, mode="exploration")
    assert splits_of(exploration, ("1000", "1200")) == [Split("train", None, unseen=False)]


def test_what_a_reader_is_told():
    assert Split("1000", (1000, 200), unseen=True).title == "1000: levels 1000–1199"
    assert Split("1000", (1000, 200), unseen=False).title == "1000: levels 1000–1199, seen in training"
    assert Split("train", (7, 0), unseen=False).title == "train: all levels from 7 on, seen in training"
    assert Split("train", None, unseen=False).title == "train: seen in training"
    assert Split("new episodes", None, unseen=True).title == "new episodes"
