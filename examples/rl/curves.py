"""curves.png: how a training run went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from .settings import Settings

_LINE, _COLOURS, _QUIET = "#1b4f8f", ("#d9822b", "#4d9078", "#9b6b9e"), "#8a8a8a"

Reports = list[dict[str, Any]]


def draw_curves(reports: Reports, settings: Settings, path: Path) -> None:
    """Draw the return over frames and over the time, and the speed with what takes the time.

    Parameters
    ----------
    reports : the lines of metrics.json.
    settings : of the run.
    path : of the picture.
    """
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    by_frames, by_time, speed = figure.subplots(1, 3)
    figure.suptitle(f"{', '.join(settings.games)}: {settings.core}, run {settings.name}")

    frames = [line["frames"] for line in reports]
    minutes = [line["seconds"] / 60 for line in reports]
    for axes, where in ((by_frames, frames), (by_time, minutes)):
        if len(settings.games) > 1:
            for game in settings.games:
                _line(axes, where, reports, f"episode_return/{game}", game, linewidth=0.8, alpha=0.7)
        _line(axes, where, reports, "episode_return", "mean", color=_LINE)
        axes.set(ylabel="return of the episodes that ended")
    by_time.sharey(by_frames)

    _line(speed, minutes, reports, "frames_per_second", "frames per second", color=_LINE)
    speed.set(ylabel="frames per second", ylim=(0, None))
    shares = speed.twinx()
    for part, colour in zip(("environment", "acting", "learning"), _COLOURS, strict=True):
        _line(shares, minutes, reports, f"{part}_share", part, color=colour, linewidth=0.8)
    shares.set(ylabel="share of the time, side by side", ylim=(0, 1.05))
    shares.legend(frameon=False, fontsize="small")

    by_frames.set(xlabel="frames")
    by_frames.xaxis.set_major_formatter(EngFormatter(sep=""))
    by_time.set(xlabel="minutes of training")
    speed.set(xlabel="minutes of training")
    for axes in (by_frames, by_time, speed):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, color=_QUIET)
    if len(settings.games) > 1 and by_frames.get_legend_handles_labels()[0]:
        by_frames.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=140)


def _line(axes: Axes, where: list[float], lines: Reports, key: str, label: str, **style: Any) -> None:
    """Of the reports that have the value."""
    points = [(x, line[key]) for x, line in zip(where, lines, strict=True) if key in line]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, **style)
