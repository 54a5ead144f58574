"""Which levels an agent is evaluated on, and the returns there as Markdown, a table for each game."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..training.tables import markdown_table, number
from .settings import Settings

SplitName = Literal["train", "1000", "1200", "1400"]

# How many levels each test split has, as published, from the one that names it on.
TEST_LEVELS = 200

Player = tuple[str, str, dict[str, Any]]  # what to call it, its policy, its numbers


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
            start, count = self.levels
            told.append(f"levels {start}–{start + count - 1}" if count else f"all levels from {start} on")
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
        ends = [start + count if count else 2**31 for start, count in (levels, seen)]
        met = levels[0] < ends[1] and seen[0] < ends[0]
        splits.append(Split(name, levels, unseen=not met))
    return splits


def return_tables(result: dict[str, Any], splits: Sequence[Split]) -> str:
    """All tables of what `evaluate` returns, the splits as columns, with what their numbers are."""
    players = list_players(result)
    tables = []
    for game in result["games"]:
        head = "cue" if game == "cue" else f"{game}, {result['mode']}"
        tables.append(_table(head, [(*who, part["games"][game]) for *who, part in players], splits))
    key = "mean_over_games"
    if any(key in part for *_, part in players):
        head = "normalised, mean over games"
        tables.append(_table(head, [(*who, part[key]) for *who, part in players], splits))
    note = (
        f"Mean return of {result['episodes']} episodes on each split, ± half a 95 % interval over "
        "episodes; of several seeds, over seeds. In brackets the normalised return, where constants for it "
        "have been published."
    )
    return "\n\n".join([*tables, note])


def list_players(result: dict[str, Any]) -> list[Player]:
    """Who played: runs, then means over seeds, then chance."""
    named = [(f"{Path(run['run']).name} ({run['core']})", run) for run in result["runs"]]
    named += [(f"{group['core']}, {len(group['runs'])} seeds", group) for group in result.get("seeds", [])]
    players = []
    for name, part in named:
        by_split = next(iter(part["games"].values()))
        players += [(f"{name}, {policy}", policy, part) for policy in next(iter(by_split.values()))]
    if "random" in result:
        players.append(("random policy", "sampled", result["random"]))
    return players


def columns_of(values: dict[str, Any], splits: Sequence[Split]) -> dict[str, str]:
    """Split -> its title, of the splits that there are values (split -> ...) of."""
    titles = {split.name: split.title for split in splits}
    return {name: titles.get(name, f"{name}: all of them") for name in values}


def _table(head: str, players: Sequence[Player], splits: Sequence[Split]) -> str:
    """Of players whose numbers are by split and policy."""
    columns = columns_of(players[0][2], splits)
    rows = [
        [title, *(_cell(values[split][policy]) for split in columns)] for title, policy, values in players
    ]
    return markdown_table([head, *columns.values()], rows)


def _cell(values: dict[str, Any]) -> str:
    """The return, with what is normalised in brackets; or what there is of the two."""
    first, *rest = (number(values[what]) for what in ("return", "normalised") if what in values)
    return " ".join([first, *(f"({value})" for value in rest)])
