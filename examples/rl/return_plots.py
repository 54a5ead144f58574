"""A picture of an evaluation: the return in each game on each split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .splits import Split
from .tables import columns_of, list_players

_COLUMNS = 3
_INK, _QUIET = "#22262e", "#8a8a8a"


def draw_returns(result: dict[str, Any], splits: Sequence[Split], path: Path) -> None:
    """Draw a panel for each game: the mean return of each player on each split, with its interval.

    Parameters
    ----------
    result : as `evaluate` returns it.
    splits : where it was measured.
    path : of the picture.
    """
    players = list_players(result)
    games = result["games"]
    columns = min(_COLUMNS, len(games))
    rows = math.ceil(len(games) / columns)
    figure = Figure(
        figsize=(1.5 + 4.2 * columns, 0.9 + 3.1 * rows), layout="constrained", facecolor="white"
    )
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, game in zip(panels, games, strict=False):
        _draw_game(axes, players, splits, game)
    for axes in panels[len(games) :]:
        axes.axis("off")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    figure.suptitle(f"return of {result['episodes']} episodes a split, 95 % intervals", color=_INK)
    figure.savefig(path, dpi=140)


def _draw_game(axes: Axes, players: list[Any], splits: Sequence[Split], game: str) -> None:
    columns = columns_of(players[0][2]["games"][game], splits)
    where = np.arange(len(columns))
    for number, (title, policy, part) in enumerate(players):
        values = [part["games"][game][split][policy]["return"] for split in columns]
        means, halves = ([value[key] for value in values] for key in ("mean", "interval_95"))
        is_random = title == "random policy"
        axes.errorbar(
            where + 0.6 * ((number + 0.5) / len(players) - 0.5),
            means,
            yerr=halves,
            fmt="s" if is_random else "o",
            color=_QUIET if is_random else colormaps["tab10"](number % 10),
            capsize=3,
            markersize=5,
            label=title,
        )
    labels = [title.replace(": ", "\n", 1).replace(", ", ",\n") for title in columns.values()]
    axes.set_xticks(where, labels, fontsize="small")
    axes.set_title(game, color=_INK)
    axes.set_ylabel("return")
    axes.margins(x=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25, color=_QUIET)
