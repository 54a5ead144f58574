"""Pictures of a study: the returns of several agents in training, and on levels they have not seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from ..training.seed_dots import Dots, draw_dots

_QUIET, _LINE = "#7d7a74", "#c9c6bf"
_WINDOW = 5  # reports that a curve's point is the mean of


def draw_comparison(results: dict[str, Any], path: Path) -> None:
    """Draw what `examples.rl.experiments` gathered of a study.

    Parameters
    ----------
    results : the study's numbers.
    path : of the picture.
    """
    compared = list(results["compared"].values())
    colours = [colormaps["tab10"](number) for number in range(len(compared))]
    figure = Figure(figsize=(13, 4.8), layout="constrained", facecolor="white")
    by_frames, by_time, dots = figure.subplots(1, 3, width_ratios=[1.2, 1.2, 1])
    for entry, colour in zip(compared, colours, strict=False):
        _curves(by_frames, entry, "frames", 1, colour)
        _curves(by_time, entry, "seconds", 60, colour)
    chance = next(iter(results["random"].values()))["sampled"]["mean"]
    for axes in (by_frames, by_time):
        axes.axhline(chance, color=_QUIET, linewidth=1, linestyle=":", label="acting at random")
        _finish(axes, "y")
    by_frames.set(xlabel="frames", ylabel="return in training, sampled actions")
    by_frames.xaxis.set_major_formatter(EngFormatter(sep=""))
    by_time.set(xlabel="minutes of training")
    _dots(dots, results, compared, colours)
    seeds = len(results["seeds"])
    over = f"over {seeds} seeds" if seeds > 1 else f"over {results['episodes']} episodes a split"
    band = "; a line for each seed" if seeds > 1 else ""
    handles, labels = by_frames.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize="small")
    figure.suptitle(f"{results['title']}\nmean and 95 % interval {over}{band}", fontsize=12)
    figure.savefig(path, dpi=140)


def _curves(axes: Axes, entry: dict[str, Any], key: str, unit: float, colour: Any) -> None:
    for number, run in enumerate(entry["runs"]):
        lines = [line for line in run["curve"] if line["episode_return"] is not None]
        values = np.array([line["episode_return"] for line in lines])
        smooth = [values[max(0, i + 1 - _WINDOW) : i + 1].mean() for i in range(len(values))]
        where = [line[key] / unit for line in lines]
        axes.plot(where, smooth, color=colour, linewidth=1.3, label=None if number else entry["label"])


def _dots(
    axes: Axes, results: dict[str, Any], compared: list[dict[str, Any]], colours: Sequence[Any]
) -> None:
    """The return of sampled actions on the last split, every seed's small; acting at random as a line."""
    split = list(compared[0]["summary"])[-1]
    chance = results["random"][split]["sampled"]
    axes.axvspan(
        chance["mean"] - chance["interval_95"],
        chance["mean"] + chance["interval_95"],
        color=_LINE,
        alpha=0.5,
    )
    axes.axvline(chance["mean"], color=_QUIET, linewidth=1, linestyle=":")
    draw_dots(
        axes,
        [
            Dots(
                label=entry["label"],
                value=entry["summary"][split]["sampled"],
                each=[run["result"][split]["sampled"]["mean"] for run in entry["runs"]],
                colour=colour,
                text=f"{entry['summary'][split]['sampled']['mean']:.2f}",
            )
            for entry, colour in zip(compared, colours, strict=True)
        ],
    )
    title = "levels not seen in training" if split == "test" else split
    axes.set_xlabel(f"return, {title}")
    _finish(axes, "x")


def _finish(axes: Axes, along: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_LINE)
    axes.grid(axis=along, color=_LINE, linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)
