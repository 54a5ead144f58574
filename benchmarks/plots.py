"""The results as pictures: one colour for each peer, its name at the end of its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files, on machines without a screen
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.report import BEST_JAX, seconds
from benchmarks.results import Results, Row

COLOURS = {
    "srwm, NumPy": "#c1121f",
    "srwm, torch": "#f08080",
    "numba by hand": "#2a9d8f",
    BEST_JAX: "#1d5fa8",
    "NumPy loop": "#8a8a8a",
    "PyTorch loop": "#e08a00",
}
OTHER = "#b8b8b8"
STEPS = "steps of a sequence and head per second"


def _readable(value: float, _: object = None) -> str:
    """A number without needless noughts: 65536, 0.25, 100k, 20M."""
    for least, size, letter in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= least and value % size == 0:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _finish(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=150, bbox_inches="tight", facecolor="white")
    plt.close(figure)


def _logarithmic(axes: Axes, x: list[float], x_name: str, y_name: str) -> None:
    """Both axes logarithmic, a tick at each x that was measured."""
    axes.set(xlabel=x_name, ylabel=y_name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(x)
    axes.xaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_readable))
    axes.grid(True, which="major", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _name_lines(axes: Axes) -> None:
    """Each line's name beside its last point, in its colour, moved apart where they would overlap."""
    least = 11.0  # points between two names
    axes.figure.canvas.draw()
    points_per_pixel = 72 / axes.figure.dpi
    ends = []
    for line in axes.get_lines():
        x, y = (float(np.asarray(data)[-1]) for data in line.get_data())
        ends.append((axes.transData.transform((x, y))[1] * points_per_pixel, x, y, line))
    lowest = float("-inf")
    for height, x, y, line in sorted(ends, key=lambda end: end[0]):
        place = max(height, lowest + least)
        axes.annotate(
            str(line.get_label()),
            (x, y),
            xytext=(7, place - height),
            textcoords="offset points",
            color=line.get_color(),
            va="center",
            fontsize=9,
            annotation_clip=False,
        )
        lowest = place


def _steps(row: Row) -> int:
    """Steps of all sequences and heads together."""
    B, H, L, _ = row["size"]
    return int(B * H * L)


def _lines(
    axes: Axes, rows: list[Row], x: Callable[[Row], float], y: Callable[[Row, float], float]
) -> None:
    """A line for each peer: y of a row and the peer's seconds in it."""
    for peer, colour in COLOURS.items():
        points = [(x(row), y(row, taken)) for row in rows if (taken := seconds(row, peer)) is not None]
        if points:
            axes.plot(
                *zip(*points, strict=True), "o-", color=colour, label=peer, markersize=4, linewidth=1.8
            )


def _sweep(
    results: Results, section: str, x: Callable[[Row], float], x_name: str, where: str, path: Path
) -> None:
    """Speed of forward + backward, and of forward, along one sweep."""
    figure, both = plt.subplots(1, 2, figsize=(13, 4.6), layout="constrained")
    for axes, mode, title in zip(
        both, ("training", "forward"), ("forward + backward", "forward"), strict=True
    ):
        rows = results.of(section, mode)
        if not rows:
            continue
        _lines(axes, rows, x, lambda row, taken: _steps(row) / taken)
        _logarithmic(axes, sorted({x(row) for row in rows}), x_name, STEPS)
        axes.set_title(f"{title}, {where}", fontsize=11)
        _name_lines(axes)
    _finish(figure, path)


def _cost(results: Results, path: Path) -> None:
    """Time of one call as sequences grow, beside the peers; and what one step of srwm costs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.6), layout="constrained")
    rows = results.of("length", "training")
    if rows:
        _lines(left, rows, lambda row: row["size"][2], lambda _, taken: 1e3 * taken)
        _logarithmic(left, [row["size"][2] for row in rows], "L, steps", "one forward + backward, ms")
        left.set_title("cost of a call as L grows, (4, 8, L, 16)", fontsize=11)
        _name_lines(left)
    rows = results.of("cost")
    if rows:
        L = [row["size"][2] for row in rows]
        for part, colour in (("forward", "#f08080"), ("forward, kept", "#c1121f"), ("backward", "#5c0a10")):
            taken = [row["nanoseconds_a_step"][part] for row in rows]
            right.plot(L, taken, "o-", color=colour, label=part, markersize=4, linewidth=1.8)
        _logarithmic(right, L, "L, steps", "one step of one sequence, ns")
        right.set_yscale("linear")
        right.set_ylim(bottom=0)
        right.set_title("cost of a step of srwm as L grows, D = 16", fontsize=11)
        _name_lines(right)
    _finish(figure, path)


def _memory(results: Results, path: Path) -> None:
    """Bars of peak memory."""
    rows = sorted((row for row in results.of("memory") if "bytes" in row), key=lambda row: -row["bytes"])
    if not rows:
        return
    figure, axes = plt.subplots(figsize=(8.5, 0.42 * len(rows) + 1.2), layout="constrained")
    names = [row["peers"][0] for row in rows]
    megabytes = [row["bytes"] / 1e6 for row in rows]
    colours = [COLOURS.get(name, COLOURS[BEST_JAX] if name.startswith("JAX") else OTHER) for name in names]
    bars = axes.barh(names, megabytes, color=colours, height=0.7)
    axes.bar_label(bars, [f"{size:,.0f} MB" for size in megabytes], padding=4, fontsize=9)
    axes.set_xlim(right=max(megabytes) * 1.15)
    axes.set_xlabel("MB above what the process held before")
    axes.set_title(f"peak memory of forward + backward, {tuple(rows[0]['size'])}", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    _finish(figure, path)


def draw(results: Results, folder: Path) -> None:
    """All plots, as PNG files in the folder."""
    _sweep(
        results, "length", lambda row: row["size"][2], "L, steps", "(4, 8, L, 16)", folder / "speed_L.png"
    )
    _sweep(
        results,
        "head",
        lambda row: row["size"][3],
        "D, entries of a head",
        "(4, 4, 64, D)",
        folder / "speed_D.png",
    )
    _sweep(
        results,
        "batch",
        lambda row: row["size"][0] * row["size"][1],
        "B·H, sequences and heads",
        "L = 64, D = 16",
        folder / "speed_BH.png",
    )
    _cost(results, folder / "cost_L.png")
    _memory(results, folder / "memory.png")
