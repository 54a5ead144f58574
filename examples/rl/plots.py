"""Pictures: of a training run, of an evaluation, and of a study."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from ..training import figures
from ..training.experiments import Results, intervals_of, row_label
from ..training.figures import CHANCE, COLOURS, LINE, QUIET
from .settings import Settings
from .tables import Player, Split, columns_of, list_players

_COLUMNS = 3
_WINDOW = 5  # reports that a curve's point is the mean of
_THIN: dict[str, Any] = {"linewidth": 0.8, "marker": None}


def draw_curves(reports: list[dict[str, Any]], settings: Settings, path: Path) -> None:
    """Draw the return over frames and over the time, and the speed with what takes the time.

    The reports are the lines of metrics.json.
    """
    figure = figures.new_figure(12, 4)
    by_frames, by_time, speed = figure.subplots(1, 3)
    frames = [report["frames"] for report in reports]
    minutes = [report["seconds"] / 60 for report in reports]

    def draw(
        axes: Axes, where: list[float], key: str, label: str | None, colour: str, **style: Any
    ) -> None:
        points = [(x, report[key]) for x, report in zip(where, reports, strict=True) if key in report]
        if points:
            x, y = zip(*points, strict=True)
            figures.line(axes, x, y, label, colour, **style)

    several = settings.games if len(settings.games) > 1 else ()
    for axes, where in ((by_frames, frames), (by_time, minutes)):
        for game, colour in zip(several, COLOURS[1:], strict=False):
            draw(axes, where, f"episode_return/{game}", game, colour, **_THIN)
        draw(axes, where, "episode_return", "mean of the games" if several else None, COLOURS[0])
    figures.finish(by_frames, "frames", "return of the episodes that ended")
    by_frames.xaxis.set_major_formatter(EngFormatter(sep=""))
    figures.finish(by_time, "minutes of training", "")
    by_time.sharey(by_frames)
    figures.legend_above(by_frames, ncols=3)
    figures.legend_above(by_time, ncols=3)

    draw(speed, minutes, "frames_per_second", "frames per second, left axis", COLOURS[0])
    speed.set_ylim(0, None)
    figures.finish(speed, "minutes of training", "frames per second")
    shares = speed.twinx()
    for part, colour in zip(("environment", "acting", "learning"), COLOURS[1:], strict=False):
        draw(shares, minutes, f"{part}_share", f"{part}, right axis", colour, **_THIN)
    shares.set(ylabel="share of the time; parts may overlap", ylim=(0, 1.05))
    figures.legend_above(speed, shares)
    figures.save(figure, path, f"{', '.join(settings.games)}: {settings.core}, run {settings.name}")


def draw_returns(result: dict[str, Any], splits: Sequence[Split], path: Path) -> None:
    """Draw a panel for each game of what `evaluate` returns: each player's mean return on each split, with
    its interval."""
    players, games = list_players(result), result["games"]
    columns = min(_COLUMNS, len(games))
    rows = math.ceil(len(games) / columns)
    figure = figures.new_figure(1.5 + 4.2 * columns, 1.2 + 3.1 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, game in zip(panels, games, strict=False):
        _draw_game(axes, players, splits, game)
    for axes in panels[len(games) :]:
        axes.axis("off")
    title = f"return of {result['episodes']} episodes a split, 95 % intervals"
    figures.save(figure, path, title, ncols=2)


def _draw_game(axes: Axes, players: list[Player], splits: Sequence[Split], game: str) -> None:
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
            color=QUIET if is_random else COLOURS[number % len(COLOURS)],
            capsize=3,
            markersize=5,
            label=title,
        )
    labels = [title.replace(": ", "\n", 1).replace(", ", ",\n") for title in columns.values()]
    axes.set_xticks(where, labels, fontsize="small")
    axes.set_title(game)
    axes.margins(x=0.1)
    figures.finish(axes, "", "return")


def draw_comparison(results: Results, path: Path) -> None:
    """Draw the numbers of a study: returns in training, and on levels that were not seen in it."""
    entries = list(results["compared"].values())
    split = list(entries[0]["summary"])[-1]
    figure = figures.new_figure(13, 5.2)
    by_frames, by_time, dots = figure.subplots(1, 3, width_ratios=[1.2, 1.2, 1])
    compared = []
    for entry, colour in zip(entries, COLOURS, strict=False):
        curves = [run["curve"] for run in entry["runs"]]
        frames, [returns, seconds] = figures.common_points(curves, "frames", "episode_return", "seconds")
        drawn = figures.least_to_greatest(_running_mean(returns))
        figures.band(by_frames, frames, drawn, entry["label"], colour)
        figures.band(by_time, seconds.mean(axis=0) / 60, drawn, None, colour)
        value = entry["summary"][split]["sampled"]
        each = [run["result"][split]["sampled"]["mean"] for run in entry["runs"]]
        text = f"{value['mean']:.3g}"
        compared.append(figures.Dots(row_label(entry, results), value, each, colour, text))
    figures.draw_dots(dots, compared)

    mean, low, high = figures.interval(results["random"][split]["sampled"])
    dots.axvspan(float(low), float(high), color=LINE, alpha=0.5, linewidth=0)
    dots.axvline(float(mean), **CHANCE)
    in_training = next(iter(results["random"].values()))["sampled"]["mean"]
    for axes in (by_frames, by_time):
        axes.axhline(in_training, label="acting at random, grey its interval", **CHANCE)
    figures.finish(by_frames, "frames", "return in training, sampled actions")
    by_frames.xaxis.set_major_formatter(EngFormatter(sep=""))
    figures.finish(by_time, "minutes of training", "")
    where = "levels not seen in training" if split == "test" else split
    figures.finish(dots, f"return, {where}", "", grid="x")
    dots.xaxis.set_major_locator(MaxNLocator(6))
    note = f"curves: mean of the last {_WINDOW} reports"
    if len(results["seeds"]) > 1:
        note += "; lines: mean of the seeds, bands: from the least to the greatest; small dots: each seed"
    over = intervals_of(results, f"{results['episodes']} episodes a split")
    figures.save(figure, path, f"{results['title']}\n{over}", note=note)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Of values (n, points), each with up to `_WINDOW` - 1 before it."""
    points = range(values.shape[1])
    means = [[row[max(0, i + 1 - _WINDOW) : i + 1].mean() for i in points] for row in values]
    return np.array(means).reshape(values.shape)
