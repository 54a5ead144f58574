"""On which levels an agent is evaluated."""

import dataclasses

import pytest

from examples.rl.settings import Settings
from examples.rl.splits import Split, splits_of

PROCGEN = Settings(games=("maze", "heist"))


def test_published_splits():
    assert splits_of(PROCGEN, ("train", "1000", "1200", "1400")) == [
        Split("train", (0, 200), unseen=False),
        Split("1000", (1000, 200), unseen=True),
        Split("1200", (1200, 200), unseen=True),
        Split("1400", (1400, 200), unseen=True),
    ]


@pytest.mark.parametrize(
    ("start", "levels", "seen"),
    [(900, 100, ""), (900, 101, "1000"), (1199, 1, "1000"), (1200, 200, "1200"), (0, 0, "1000 1200 1400")],
)
def test_levels_of_the_training_are_not_unseen(start, levels, seen):
    settings = dataclasses.replace(PROCGEN, start_level=start, levels=levels)
    splits = splits_of(settings, ("1000", "1200", "1400"))
    assert [split.name for split in splits if not split.unseen] == seen.split()


def test_games_without_numbered_levels_have_one_split():
    assert splits_of(Settings(games=("cue",)), ("train", "1000")) == [
        Split("new episodes", None, unseen=True)
    ]
    exploration = dataclasses.replace(PROCGEN, mode="exploration")
    assert splits_of(exploration, ("1000",)) == [Split("train", (0, 0), unseen=False)]


def test_each_split_once_and_at_least_one():
    assert [split.name for split in splits_of(PROCGEN, ("1200", "train", "1200"))] == ["1200", "train"]
    with pytest.raises(ValueError, match="--splits must name at least one"):
        splits_of(PROCGEN, ())


@pytest.mark.parametrize(
    ("split", "title"),
    [
        (Split("train", (0, 200), False), "train: levels 0–199, seen in training"),
        (Split("1000", (1000, 200), True), "1000: levels 1000–1199"),
        (Split("train", (5, 0), False), "train: all levels from 5 on, seen in training"),
        (Split("new episodes", None, True), "new episodes"),
    ],
)
def test_titles(split, title):
    assert split.title == title
