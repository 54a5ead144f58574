"""Pictures of a study: several learners side by side, means and 95 % intervals over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..training.seed_dots import Dots, draw_dots

_COLOURS = ("#1b4f8f", "#d9822b", "#4d9078", "#9b6b9e")
_QUIET, _LINE = "#7d7a74", "#c9c6bf"


def draw_comparison(results: dict[str, Any], path: Path) -> None:
    """Draw what `examples.fewshot.experiments` gathered of a study.

    Parameters
    ----------
    results : the study's numbers; their form decides on the picture: learning curves and accuracies,
        accuracy against the position in a sequence, or against the number of shots.
    path : of the picture.
    """
    compared = list(results["compared"].values())
    summary = compared[0]["summary"]
    if "orders" in summary:
        figure = _positions(compared)
    elif "k_shots" in summary:
        figure = _shots(compared)
    else:
        figure = _curves_and_accuracies(compared)
    seeds = len(results["seeds"])
    figure.suptitle(f"{results['title']}\nmean and 95 % interval over {seeds} seeds", fontsize=12)
    figure.savefig(path, dpi=140)


def _curves_and_accuracies(compared: list[dict[str, Any]]) -> Figure:
    shots = sorted({entry["summary"]["k_shot"] for entry in compared})
    figure = Figure(figsize=(12, 3.9 * len(shots)), layout="constrained", facecolor="white")
    grid = figure.add_gridspec(len(shots), 2, width_ratios=[1.5, 1])
    for row, k_shot in enumerate(shots):
        entries = [entry for entry in compared if entry["summary"]["k_shot"] == k_shot]
        curves, dots = figure.add_subplot(grid[row, 0]), figure.add_subplot(grid[row, 1])
        for entry, colour in zip(entries, _COLOURS, strict=False):
            steps = [line["step"] for line in entry["runs"][0]["curve"]]
            accuracies = np.array([[v["accuracy"] for v in run["curve"]] for run in entry["runs"]])
            curves.plot(steps, accuracies.mean(axis=0), color=colour, label=entry["label"], marker=".")
            curves.fill_between(
                steps, accuracies.min(axis=0), accuracies.max(axis=0), color=colour, alpha=0.18, linewidth=0
            )
        curves.axhline(entries[0]["summary"]["chance"], color=_QUIET, linewidth=1, linestyle=":")
        curves.set(xlabel="steps on episodes", ylabel=f"{k_shot}-shot validation accuracy", ylim=(0, 1))
        curves.legend(frameon=False, loc="center right", title="band: least to greatest of the seeds")
        _dots(dots, entries, k_shot)
        _finish(curves)
    return figure


def _dots(axes: Axes, entries: list[dict[str, Any]], k_shot: int) -> None:
    """Test accuracy of each learner, every seed's small; nearest neighbour as a line."""
    nearest = np.mean([entry["summary"]["nearest_neighbour"]["mean"] for entry in entries])
    axes.axvline(nearest, color=_QUIET, linestyle="--", linewidth=1.2)
    axes.annotate(
        " nearest neighbour\n on the same encoder ",
        (nearest, len(entries) - 1),
        ha="right" if nearest > 0.5 else "left",
        va="center",
        fontsize=9,
        color=_QUIET,
    )
    draw_dots(
        axes,
        [
            Dots(
                label=entry["label"].split(",")[0],
                value=entry["summary"]["learner"],
                each=[run["result"]["learner"]["mean"] for run in entry["runs"]],
                colour=colour,
                text=f"{100 * entry['summary']['learner']['mean']:.2f} %",
            )
            for entry, colour in zip(entries, _COLOURS, strict=False)
        ],
    )
    axes.set_xlabel(f"{k_shot}-shot accuracy on unseen scripts")
    _finish(axes, along="x")


def _positions(compared: list[dict[str, Any]]) -> Figure:
    orders = list(compared[0]["summary"]["orders"])
    figure = Figure(figsize=(12, 3.7 * len(orders)), layout="constrained", facecolor="white")
    panels = figure.subplots(len(orders), 1, squeeze=False)[:, 0]
    for axes, order in zip(panels, orders, strict=True):
        for entry, colour in zip(compared, _COLOURS, strict=False):
            of_order = entry["summary"]["orders"][order]
            _band(
                axes,
                range(len(of_order["positions"]["mean"])),
                of_order["positions"],
                colour,
                entry["label"],
            )
        switch = compared[0]["summary"]["orders"][order]["switch"]
        counting = compared[0]["summary"]["orders"][order]["counting_labels"]["positions"]["mean"]
        axes.plot(counting, color=_QUIET, linestyle="--", linewidth=1.2, label="who only counts labels")
        axes.axvline(switch - 0.5, color="#22262e", linewidth=1.2, linestyle=(0, (4, 3)))
        first, second = compared[0]["summary"]["orders"][order]["tasks"]
        above = axes.get_xaxis_transform()  # x in data, y from 0 to 1
        for place, name in ((switch / 2, first), (1.5 * switch, second)):
            axes.text(place, 1.02, name, transform=above, ha="center", fontweight="bold")
        axes.axhline(compared[0]["summary"]["chance"], color=_QUIET, linewidth=1, linestyle=":")
        axes.set(xlabel="position in the sequence", ylabel="accuracy", ylim=(0, 1), xlim=(-0.5, 2 * switch))
        axes.legend(frameon=False, loc="lower right")
        _finish(axes)
    return figure


def _shots(compared: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(8, 5), layout="constrained", facecolor="white")
    axes = figure.subplots()
    parts = compared[0]["summary"]["k_shots"]
    shots = [part["k_shot"] for part in parts]
    for entry, colour in zip(compared, _COLOURS, strict=False):
        learner = [part["learner"] for part in entry["summary"]["k_shots"]]
        values = {key: [value[key] for value in learner] for key in ("mean", "interval_95")}
        _band(axes, shots, values, colour, entry["label"], marker="o")
    nearest = [part["nearest_neighbour"]["mean"] for part in parts]
    axes.plot(shots, nearest, color=_QUIET, linestyle="--", label="nearest neighbour on the same encoder")
    trained = compared[0]["settings"]["k_shot"]
    axes.axvline(trained, color=_LINE, zorder=0)
    axes.text(trained, 0.02, f" trained with {trained}", transform=axes.get_xaxis_transform(), color=_QUIET)
    axes.set_xticks(shots)
    axes.set(xlabel="labelled examples of each class", ylabel="accuracy on unseen scripts")
    axes.legend(frameon=False, loc="lower right")
    _finish(axes)
    return figure


def _band(axes: Axes, x: Any, values: dict[str, Any], colour: str, label: str, **style: Any) -> None:
    mean, half = np.array(values["mean"]), np.array(values["interval_95"])
    axes.fill_between(x, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, mean, color=colour, label=label, linewidth=1.6, **style)


def _finish(axes: Axes, along: str = "y") -> None:
    (axes.yaxis if along == "y" else axes.xaxis).set_major_formatter(PercentFormatter(1.0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_LINE)
    axes.grid(axis="y" if along == "y" else "x", color=_LINE, linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)
