"""Which levels an agent is evaluated on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .settings import Settings

SplitName = Literal["train", "1000", "1200", "1400"]

# Of each test split, as published: 200 levels, from the one that names it on.
_TEST_LEVELS = 200


@dataclass(frozen=True)
class Split:
    """Levels, by the first and how many there are; 0 for all that can be made.

    Attributes
    ----------
    name : of the split.
    levels : the first, and how many there are from it on.
    unseen : whether training met none of them.
    """

    name: str
    levels: tuple[int, int]
    unseen: bool

    @property
    def title(self) -> str:
        """What a reader is told."""
        start, number = self.levels
        levels = f"{start}–{start + number - 1}" if number else "all" if start == 0 else f"from {start} on"
        return f"levels {levels}" + ("" if self.unseen else ", seen in training")


def splits_of(settings: Settings, names: tuple[SplitName, ...]) -> list[Split]:
    """Those of the given names that a run's games have.

    The cue task has no levels, and its episodes are never the training's; in exploration mode each game has
    one level. Both are one split, whatever the names.

    Raises
    ------
    ValueError : if there are no names.
    """
    if not names:
        raise ValueError("evaluate: --splits must name at least one, got none")
    if "cue" in settings.games:
        return [Split("new episodes", (0, 0), unseen=True)]
    if settings.mode == "exploration":
        return [Split("train", (0, 0), unseen=False)]
    seen = (settings.start_level, settings.levels)
    splits = []
    for name in dict.fromkeys(names):
        levels = seen if name == "train" else (int(name), _TEST_LEVELS)
        splits.append(Split(name, levels, unseen=not _overlap(levels, seen)))
    return splits


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    ends = [start + number if number else 2**31 for start, number in (one, other)]
    return one[0] < ends[1] and other[0] < ends[0]
