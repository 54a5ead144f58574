"""Which levels an agent is evaluated on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .settings import Settings

SplitName = Literal["train", "1000", "1200", "1400"]

# How many levels each test split has, as published, from the one that names it on.
TEST_LEVELS = 200


@dataclass(frozen=True)
class Split:
    """Some of the levels of a game."""

    name: str
    levels: tuple[int, int] | None  # the first, and how many from it on, 0 for all; None: without numbers
    unseen: bool  # training met none of them

    @property
    def title(self) -> str:
        """What a reader is told."""
        told = []
        if self.levels is not None:
            start, number = self.levels
            told.append(f"levels {start}–{start + number - 1}" if number else f"all levels from {start} on")
        if not self.unseen:
            told.append("seen in training")
        return ": ".join([self.name, ", ".join(told)] if told else [self.name])


def splits_of(settings: Settings, names: tuple[SplitName, ...]) -> list[Split]:
    """Those of the given names that a run's games have.

    Whatever the names, there is one split where levels have no numbers: new episodes of the cue task, drawn
    with another seed than the training's, and in exploration mode the one level of each game.
    """
    if not names:
        raise ValueError("evaluate: --splits must name at least one, got none")
    if "cue" in settings.games:
        return [Split("new episodes", None, unseen=True)]
    if settings.mode == "exploration":
        return [Split("train", None, unseen=False)]
    seen = (settings.start_level, settings.levels)
    splits = []
    for name in dict.fromkeys(names):
        levels = seen if name == "train" else (int(name), TEST_LEVELS)
        ends = [start + number if number else 2**31 for start, number in (levels, seen)]
        met = levels[0] < ends[1] and seen[0] < ends[0]
        splits.append(Split(name, levels, unseen=not met))
    return splits
