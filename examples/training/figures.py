"""What all pictures have in common: lines, bands and dots, axes, and what is written around them."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

INK, QUIET, LINE = "#22262e", "#7d7a74", "#c9c6bf"
# Of what is compared, in its order; none is grey, as chance and grids are.
COLOURS = (
    *("#1b4f8f", "#d9822b", "#3d8b6d", "#9b5fa5", "#c0392b"),
    *("#17a2b8", "#8c613c", "#e377c2", "#7f8c1f", "#5b6ee1"),
)
CHANCE: dict[str, Any] = {"color": QUIET, "linewidth": 1, "linestyle": ":"}

# What stands in labels and is no word.
_ABBREVIATIONS = {
    "SRWM": "self-referential weight matrix",
    "DeltaNet": "fast weights that are written by the delta rule",
    "LSTM": "long short-term memory",
    "SR-Delta": "a delta rule whose keys, values, queries and rates come from an SRWM",
    "fake SR": "an SRWM that never changes its weights",
    "--bptt 1": "no gradient through earlier steps",
    "without carry": "each step begins with the initial weights",
}

Band = tuple[np.ndarray, np.ndarray, np.ndarray]  # the middle, the lower and the upper end, each (n,)

SHARES = (0.0, 1.0)
STRETCHED = (0.02, 0.9995)  # shares that can be drawn where the ends are stretched

_FEW = 12  # points of a line that get markers


def new_figure(width: float, height: float) -> Figure:
    """A white figure, in inches, whose parts make room for one another."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def line(axes: Axes, x: Any, y: Any, label: str | None, colour: str, **style: Any) -> None:
    """A line through points, with markers where they are few."""
    marker = "o" if len(x) <= _FEW else None
    axes.plot(
        x, y, label=label, color=colour, **{"linewidth": 1.5, "marker": marker, "markersize": 4} | style
    )


def band(axes: Axes, x: Any, values: Band, label: str | None, colour: str, **style: Any) -> None:
    """A line in a band."""
    middle, low, high = values
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    line(axes, x, middle, label, colour, **style)


def interval(values: dict[str, Any], bounds: tuple[float, float] = (-np.inf, np.inf)) -> Band:
    """Of "mean" and "interval_95", numbers or lists: the means and the ends, within bounds."""
    mean, half = np.array(values["mean"]), np.array(values["interval_95"])
    middle, low, high = (np.clip(part, *bounds) for part in (mean, mean - half, mean + half))
    return middle, low, high


def least_to_greatest(values: np.ndarray) -> Band:
    """Of values (seeds, n)."""
    return values.mean(axis=0), values.min(axis=0), values.max(axis=0)


def common_points(
    curves: Iterable[Iterable[dict[str, Any]]], at: str, *keys: str
) -> tuple[np.ndarray, np.ndarray]:
    """Where all curves have all values: the points (n,), and the values (keys, curves, n)."""
    found = [
        {point[at]: [point[key] for key in keys] for point in curve if None not in point.values()}
        for curve in curves
    ]
    points = sorted(set.intersection(*map(set, found)))
    values = [[of_curve[point] for point in points] for of_curve in found]
    return np.array(points), np.array(values, float).reshape(len(found), -1, len(keys)).transpose(2, 0, 1)


@dataclass(frozen=True)
class Dots:
    """One of those that are compared."""

    label: str
    value: dict[str, float]  # "mean" and "interval_95"
    each: Sequence[float]  # of the seeds
    colour: str
    text: str  # the mean as it is written above


def draw_dots(
    axes: Axes, compared: Sequence[Dots], bounds: tuple[float, float] = (-np.inf, np.inf)
) -> None:
    """From top to bottom: mean, interval and every seed's own value, within bounds."""
    for place, dots in enumerate(compared):
        mean, low, high = interval(dots.value, bounds)
        ends = [[mean - low], [high - mean]]
        axes.errorbar(mean, place, xerr=ends, color=dots.colour, marker="o", capsize=4, zorder=3)
        each = np.clip(dots.each, *bounds)
        axes.scatter(each, [place] * len(each), color=dots.colour, alpha=0.35, s=16, linewidth=0)
        axes.annotate(
            dots.text,
            (float(mean), place),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=dots.colour,
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=4,
        )
    axes.set_yticks(range(len(compared)), [dots.label for dots in compared])
    axes.set_ylim(len(compared) - 0.4, -0.7)
    axes.margins(x=0.12)


def finish(axes: Axes, x: str, y: str, *, grid: Literal["x", "y"] = "y", shares: bool = False) -> None:
    """Labels of the axes, and a grid across one of them, the one of the values; shares are percentages."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if shares:
        (axes.xaxis if grid == "x" else axes.yaxis).set_major_formatter(PercentFormatter(1.0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.grid(axis=grid, color=LINE, linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)


def stretch_ends(axes: Axes, which: Literal["x", "y"]) -> None:
    """Show shares in percent by their odds, so that 97 and 99 % are as far apart as 20 and 45 %.

    What is drawn must be within `STRETCHED`: 0 and 100 % are infinitely far away.
    """
    axis = axes.xaxis if which == "x" else axes.yaxis
    shares = np.asarray(axis.get_data_interval())
    (axes.set_xscale if which == "x" else axes.set_yscale)("logit")
    low, high = np.log(shares / (1 - shares))
    room = max(0.08 * (high - low), 0.2)
    first, last = 1 / (1 + np.exp([room - low, -room - high]))
    axis.set_view_interval(first, last, ignore=True)
    axis.set_major_locator(FixedLocator([0.05, 0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}"))


def legend_above(axes: Axes, *others: Axes, ncols: int = 2) -> None:
    """A legend of these axes together above the first ones, where it hides nothing."""
    found = _labelled(axes, *others)
    if found:
        axes.legend(
            list(found.values()),
            list(found),
            loc="lower center",
            bbox_to_anchor=(0.5, 1),
            ncols=ncols,
            frameon=False,
            fontsize="small",
            columnspacing=1,
            handlelength=1.8,
        )


def _labelled(*several: Axes) -> dict[str, Any]:
    """Label -> the first thing that is called so."""
    found: dict[str, Any] = {}
    for axes in several:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return found


def save(figure: Figure, path: Path, title: str, *, ncols: int = 6, note: str = "") -> None:
    """Write the picture, with its title, a legend of so many columns unless axes have their own, and below
    it the note and what abbreviations in labels mean."""
    figure.suptitle(title, color=INK, fontsize=12)
    has_legends = any(axes.get_legend() for axes in figure.axes)
    found = {} if has_legends else _labelled(*figure.axes)
    ticks = [text.get_text() for axes in figure.axes for text in axes.get_yticklabels()]
    words = _plain("; ".join([title, *found, *ticks]))
    explained = [
        f"{short}: {meaning}" for short, meaning in _ABBREVIATIONS.items() if _plain(short) in words
    ]
    told = "\n".join(
        textwrap.wrap("; ".join([note] * bool(note) + explained), int(13 * figure.get_figwidth()))
    )
    if found or told:
        figure.legend(
            list(found.values()),
            list(found),
            title=told,
            title_fontsize="small",
            loc="outside lower center",
            ncols=ncols,
            frameon=False,
            fontsize="small",
        )
    figure.savefig(path, dpi=140)


def _plain(label: str) -> str:
    """As a core is called, whether in a label or in a setting."""
    return label.lower().replace("_", " ").replace("-", " ")
