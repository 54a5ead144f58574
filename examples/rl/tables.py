"""Returns of an evaluation as Markdown, a table for each game."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..training.tables import markdown_table, number
from .splits import Split


def return_tables(result: dict[str, Any], splits: Sequence[Split]) -> str:
    """All tables, with what their numbers are.

    Parameters
    ----------
    result : as `evaluate` returns it.
    splits : the columns.
    """
    players = list_players(result)
    tables = [_game_table(result, splits, players, game) for game in result["games"]]
    if any("mean_over_games" in values for _, _, values in players):
        tables.append(_mean_table(splits, players))
    count = result["episodes"]
    note = (
        f"Mean return of {count} episodes on each split, ± half a 95 % interval over episodes; of several "
        "seeds, over seeds. In brackets the normalised return, where constants for it have been published."
    )
    return "\n\n".join([*tables, note])


def list_players(result: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Who played: what to call it, its policy, its numbers. Runs, then means over seeds, then chance."""
    names = [Path(run["run"]).name for run in result["runs"]]
    players = [
        (f"{name} ({run['core']}), {policy}", policy, run)
        for name, run in zip(names, result["runs"], strict=True)
        for policy in _policies(run)
    ]
    for group in result.get("seeds", []):
        for policy in _policies(group):
            players.append((f"{group['core']}, {len(group['runs'])} seeds, {policy}", policy, group))
    if "random" in result:
        players.append(("random policy", "sampled", result["random"]))
    return players


def columns_of(values: dict[str, Any], splits: Sequence[Split]) -> dict[str, str]:
    """Split -> its title, of the splits that there are values (split -> ...) of."""
    titles = {split.name: split.title for split in splits}
    return {name: titles.get(name, f"{name}: all of them") for name in values}


def _policies(part: dict[str, Any]) -> list[str]:
    return list(next(iter(next(iter(part["games"].values())).values())))


def _game_table(result: dict[str, Any], splits: Sequence[Split], players: list[Any], game: str) -> str:
    columns = columns_of(players[0][2]["games"][game], splits)
    rows = []
    for title, policy, part in players:
        cells = []
        for split in columns:
            values = part["games"][game][split][policy]
            cell = number(values["return"])
            if "normalised" in values:
                cell += f" ({number(values['normalised'])})"
            cells.append(cell)
        rows.append([title, *cells])
    mode = "" if game == "cue" else f", {result['mode']}"
    return markdown_table([f"{game}{mode}", *columns.values()], rows)


def _mean_table(splits: Sequence[Split], players: list[Any]) -> str:
    columns = columns_of(players[0][2]["mean_over_games"], splits)
    rows = [
        [
            title,
            *(number(part["mean_over_games"][split][policy]["normalised"]) for split in columns),
        ]
        for title, policy, part in players
    ]
    return markdown_table(["normalised, mean over games", *columns.values()], rows)
