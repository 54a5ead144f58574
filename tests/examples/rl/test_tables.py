import dataclasses

import pytest

from examples.rl.tables import Split, return_tables, splits_of
from tests.examples.runs import cells_of


def number(mean: float, half: float) -> dict[str, float]:
    return {"mean": mean, "interval_95": half}


def player(shift: float, *policies: str) -> dict:
    """Returns of maze by split, normalised too, and of heist, raw."""
    maze = {
        split: {
            policy: {
                "return": number(shift + 2 * place + i, 0.5),
                "normalised": number(shift / 100, 0.125),
            }
            for i, policy in enumerate(policies)
        }
        for place, split in enumerate(("train", "1000", "test"))
    }
    heist = {"train": {policy: {"return": number(-shift, 0.25)} for policy in policies}}
    mean = {"train": {policy: {"normalised": number(shift / 10, 0.0625)} for policy in policies}}
    return {"games": {"maze": maze, "heist": heist}, "mean_over_games": mean}


SPLITS = [Split("train", (0, 200), unseen=False), Split("1000", (1000, 200), unseen=True)]
RESULT = {
    "games": ["maze", "heist"],
    "mode": "easy",
    "episodes": 77,
    "runs": [{"run": "runs/one", "core": "ff", **player(1, "greedy", "sampled")}],
    "seeds": [{"runs": ["runs/one", "runs/two"], "core": "ff", **player(3, "greedy", "sampled")}],
    "random": player(4, "sampled"),
}

EXPECTED = """\
| maze, easy | train: levels 0–199, seen in training | 1000: levels 1000–1199 | test: all of them |
| --- | --- | --- | --- |
| one (ff), greedy | 1.00 ± 0.50 (0.01 ± 0.12) | 3.00 ± 0.50 (0.01 ± 0.12) | 5.00 ± 0.50 (0.01 ± 0.12) |
| one (ff), sampled | 2.00 ± 0.50 (0.01 ± 0.12) | 4.00 ± 0.50 (0.01 ± 0.12) | 6.00 ± 0.50 (0.01 ± 0.12) |
| ff, 2 seeds, greedy | 3.00 ± 0.50 (0.03 ± 0.12) | 5.00 ± 0.50 (0.03 ± 0.12) | 7.00 ± 0.50 (0.03 ± 0.12) |
| ff, 2 seeds, sampled | 4.00 ± 0.50 (0.03 ± 0.12) | 6.00 ± 0.50 (0.03 ± 0.12) | 8.00 ± 0.50 (0.03 ± 0.12) |
| random policy | 4.00 ± 0.50 (0.04 ± 0.12) | 6.00 ± 0.50 (0.04 ± 0.12) | 8.00 ± 0.50 (0.04 ± 0.12) |

| heist, easy | train: levels 0–199, seen in training |
| --- | --- |
| one (ff), greedy | -1.00 ± 0.25 |
| one (ff), sampled | -1.00 ± 0.25 |
| ff, 2 seeds, greedy | -3.00 ± 0.25 |
| ff, 2 seeds, sampled | -3.00 ± 0.25 |
| random policy | -4.00 ± 0.25 |

| normalised, mean over games | train: levels 0–199, seen in training |
| --- | --- |
| one (ff), greedy | 0.10 ± 0.06 |
| one (ff), sampled | 0.10 ± 0.06 |
| ff, 2 seeds, greedy | 0.30 ± 0.06 |
| ff, 2 seeds, sampled | 0.30 ± 0.06 |
| random policy | 0.40 ± 0.06 |
"""


def test_the_tables_of_everyone_who_played():
    tables = return_tables(RESULT, SPLITS)
    assert cells_of(tables) == cells_of(EXPECTED)
    assert [part.count("\n") for part in tables.split("\n\n")] == [6, 6, 6, 0], "a table each, and a note"
    assert "Mean return of 77 episodes on each split, ± " in tables


def test_the_cue_task_has_no_mode_and_random_play_may_be_alone():
    values = {"games": {"cue": {"new episodes": {"sampled": {"return": number(0.25, 0.0625)}}}}}
    result = {"games": ["cue"], "mode": "easy", "episodes": 9, "runs": [], "random": values}
    tables = return_tables(result, [Split("new episodes", None, unseen=True)])
    assert cells_of(tables) == [["cue", "new episodes"], ["random policy", "0.25 ± 0.06"]]


@pytest.fixture
def maze(settings):
    return dataclasses.replace(settings, games=("maze", "heist"))


@pytest.mark.parametrize(
    ("start", "number", "seen"),
    [
        (0, 1000, set()),
        (0, 1001, {"1000"}),
        (1599, 1, {"1400"}),
        (1600, 5, set()),
        (1600, 0, set()),
        (1300, 0, {"1200", "1400"}),
        (0, 0, {"1000", "1200", "1400"}),
        (1250, 10, {"1200"}),
    ],
)
def test_levels_that_training_met_are_not_unseen(maze, start, number, seen):
    names = ("1000", "1200", "1400")
    tests = [Split(name, (int(name), 200), unseen=name not in seen) for name in names]
    settings = dataclasses.replace(maze, start_level=start, levels=number)
    train = Split("train", (start, number), unseen=False)
    assert splits_of(settings, ("train", *names)) == [train, *tests]


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
