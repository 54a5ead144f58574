"""curves.png: how a training run went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .domains import domain_names
from .settings import Settings

_TRAIN, _VALIDATION, _NEAREST, _QUIET = "#8fb3d9", "#1b4f8f", "#d9822b", "#8a8a8a"

Reports = list[dict[str, Any]]


def draw_curves(reports: Reports, settings: Settings, path: Path) -> None:
    """Draw loss, accuracy and speed over the minutes of training.

    Parameters
    ----------
    reports : the lines of metrics.json.
    settings : of the run.
    path : of the picture.
    """
    train = [line for line in reports if line["split"] == "train"]
    warmup = [line for line in train if line["phase"] == "encoder"]
    episodes = [line for line in train if line["phase"] != "encoder"]
    unit = "sequences" if settings.protocol == "sequential" else "episodes"
    validation = [line for line in reports if line["split"] == "validation"]

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    loss, accuracy, speed = figure.subplots(1, 3)
    figure.suptitle(
        f"{settings.n_way}-way {settings.k_shot}-shot classification of "
        f"{' and '.join(domain_names(settings))}, run {settings.name}"
    )

    _line(loss, warmup, "loss", "encoder's warm-up (all classes)", color=_QUIET)
    _line(loss, episodes, "loss", unit, color=_VALIDATION)
    loss.set(ylabel="training loss")

    _line(accuracy, episodes, "accuracy", "training", color=_TRAIN)
    _line(accuracy, validation, "accuracy", "validation", color=_VALIDATION, marker="o")
    nearest = "nearest neighbour, validation"
    compared = [line for line in validation if "nearest_neighbour" in line]
    _line(accuracy, compared, "nearest_neighbour", nearest, color=_NEAREST, linestyle="--")
    accuracy.axhline(1 / settings.n_way, color=_QUIET, linewidth=0.8, linestyle=":")
    beside_axis = accuracy.get_yaxis_transform()  # x from 0 to 1, y in data
    accuracy.text(0.99, 1 / settings.n_way, "chance", transform=beside_axis, color=_QUIET, ha="right")
    accuracy.set(ylabel="accuracy", ylim=(0, 1))

    _line(speed, episodes, f"{unit}_per_second", unit, color=_VALIDATION)
    speed.set(ylabel=f"{unit} per second", ylim=(0, None))

    for axes in (loss, accuracy, speed):
        axes.set_xlabel("minutes of training")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=140)


def _line(axes: Axes, lines: Reports, key: str, label: str, **style: Any) -> None:
    if lines:
        minutes = [line["seconds"] / 60 for line in lines]
        values = [line[key] for line in lines]
        axes.plot(minutes, values, label=label, markersize=4, **style)
