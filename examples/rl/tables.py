"""Returns of an evaluation as Markdown, a table for each game."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..training.tables import markdown_table, number
from .splits import Split

Player = tuple[str, str, dict[str, Any]]  # what to call it, its policy, its numbers


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
