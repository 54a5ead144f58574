"""Pictures of an evaluation: accuracy against position and against the number of examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

_TASKS = ("#1b4f8f", "#d9822b")
_INK, _QUIET, _LINE = "#22262e", "#7d7a74", "#c9c6bf"
_COUNTING: dict[str, Any] = {"color": _QUIET, "linewidth": 1.1, "linestyle": (0, (5, 2))}

Values = dict[str, Any]  # "mean" and "interval_95", each a list


def draw_positions(
    orders: dict[str, dict[str, Any]], *, names: list[str], chance: float, title: str, path: Path
) -> None:
    """Accuracy along sequences of two tasks, in both orders, and after each number of labels.

    Parameters
    ----------
    orders : for each order "switch", a position; "positions", values of each position; "tasks", for each
        name, in the order of the sequence, the values "total" and "shots"; and "counting_labels", the
        values "positions" and "shots" of who looks at no image.
    names : of the two domains, in the order of their colours.
    chance : accuracy of guessing.
    title, path : of the picture.
    """
    colours = dict(zip(names, _TASKS, strict=True))
    room = ConstrainedLayoutEngine(h_pad=0.13, w_pad=0.1)
    figure = Figure(figsize=(13, 3.6 * len(orders) + 1.2), layout=room, facecolor="white")
    figure.suptitle(title, color=_INK, fontsize=14, fontweight="bold")
    grid = figure.add_gridspec(len(orders), 2, width_ratios=[2.6, 1])
    for row, order in enumerate(orders.values()):
        _draw_order(figure.add_subplot(grid[row, 0]), order, colours, chance)
        beside = figure.add_subplot(grid[row, 1])
        for name in names:
            values = order["tasks"][name]["shots"]
            shots = np.arange(len(values["mean"]))
            _draw_values(beside, shots, values, colours[name], name, marker="o", markersize=4)
        counted = order["counting_labels"]["shots"]["mean"]
        beside.plot(counted, label="counting labels", zorder=1.9, **_COUNTING)
        _finish(beside, chance, label_chance=False)
        beside.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        beside.legend(
            frameon=False,
            loc="lower center",
            bbox_to_anchor=(0.5, 1),
            ncols=3,
            labelcolor=_INK,
            fontsize=9,
            columnspacing=1,
            handlelength=1.8,
        )
        beside.set_xlabel("labels of the class seen before")
    figure.savefig(path, dpi=140)


def _draw_order(axes: Axes, order: dict[str, Any], colours: dict[str, str], chance: float) -> None:
    length, switch = len(order["positions"]["mean"]), order["switch"]
    spans = ((0, switch), (switch, length))
    above = axes.get_xaxis_transform()  # x in data, y from 0 to 1
    for (start, stop), name in zip(spans, order["tasks"], strict=True):
        part = {key: order["positions"][key][start:stop] for key in ("mean", "interval_95")}
        axes.axvspan(start - 0.5, stop - 0.5, color=colours[name], alpha=0.055, linewidth=0)
        _draw_values(axes, np.arange(start, stop), part, colours[name], name)
        counted = order["counting_labels"]["positions"]["mean"][start:stop]
        axes.plot(range(start, stop), counted, zorder=1.9, **_COUNTING)
        total = order["tasks"][name]["total"]
        axes.text(
            (start + stop - 1) / 2,
            1.02,
            f"{name}: {100 * total['mean']:.1f} % ± {100 * total['interval_95']:.1f} %",
            transform=above,
            ha="center",
            va="bottom",
            color=colours[name],
            fontsize=11.5,
            fontweight="bold",
        )
    axes.axvline(switch - 0.5, color=_INK, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.text(
        switch + 0.01 * length,
        0.03,
        "the task changes",
        transform=above,
        color=_INK,
        fontsize=9,
        va="bottom",
    )
    _finish(axes, chance, label_chance=True)
    axes.set(xlim=(-0.5, length - 0.5), xlabel="position in the sequence", ylabel="accuracy")


def draw_shots(
    shots: list[int],
    learner: Values,
    nearest: Values,
    *,
    trained: int,
    chance: float,
    title: str,
    path: Path,
) -> None:
    """Accuracy against the number of labelled examples of each class.

    Parameters
    ----------
    shots : the numbers.
    learner, nearest : values for each number, of the learner and of nearest neighbour on its encoder.
    trained : the number in training.
    chance : accuracy of guessing.
    title, path : of the picture.
    """
    figure = Figure(figsize=(7.4, 4.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    order = np.argsort(shots)
    at = np.array(shots)[order]
    for values, name, colour, style in (
        (learner, "learner", _TASKS[0], {"marker": "o"}),
        (nearest, "nearest neighbour, same encoder", _TASKS[1], {"marker": "o", "linestyle": "--"}),
    ):
        ordered = {key: np.array(values[key])[order] for key in ("mean", "interval_95")}
        _draw_values(axes, at, ordered, colour, name, markersize=5, **style)
    axes.axvline(trained, color=_LINE, linewidth=1.2, zorder=0)
    axes.text(
        trained,
        0.02,
        f" trained with {trained}",
        transform=axes.get_xaxis_transform(),
        color=_QUIET,
        fontsize=9,
    )
    _finish(axes, chance, label_chance=True)
    axes.set_xticks(at)
    axes.set(xlabel="labelled examples of each class", ylabel="accuracy")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, labelcolor=_INK)
    figure.suptitle(title, color=_INK, fontsize=13, fontweight="bold")
    figure.savefig(path, dpi=140)


def _draw_values(axes: Axes, x: np.ndarray, values: Values, colour: str, name: str, **style: Any) -> None:
    """A line of the means in a band of the intervals."""
    mean, half = np.array(values["mean"]), np.array(values["interval_95"])
    axes.fill_between(x, mean - half, mean + half, color=colour, alpha=0.22, linewidth=0)
    axes.plot(x, mean, color=colour, linewidth=1.6, label=name, **style)


def _finish(axes: Axes, chance: float, *, label_chance: bool) -> None:
    axes.axhline(chance, color=_QUIET, linewidth=1, linestyle=":")
    if label_chance:
        beside = axes.get_yaxis_transform()  # x from 0 to 1, y in data
        axes.text(0.995, chance + 0.01, "chance", transform=beside, color=_QUIET, fontsize=9, ha="right")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_LINE)
    axes.tick_params(color=_LINE, labelcolor=_QUIET)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(_INK)
    axes.grid(axis="y", color=_LINE, linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)
