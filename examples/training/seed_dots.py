"""What is compared, one below the other: mean, interval and every seed's own value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes


@dataclass(frozen=True)
class Dots:
    """One of those that are compared.

    Attributes
    ----------
    label : what it is called.
    value : "mean" and "interval_95".
    each : the values of the seeds.
    colour : of all that is drawn of it.
    text : the mean as it is written above.
    """

    label: str
    value: dict[str, float]
    each: Sequence[float]
    colour: Any
    text: str


def draw_dots(axes: Axes, compared: Sequence[Dots]) -> None:
    """Draw them from top to bottom."""
    for place, dots in enumerate(compared):
        mean, half = dots.value["mean"], dots.value["interval_95"]
        axes.errorbar(mean, place, xerr=half, color=dots.colour, marker="o", capsize=4, zorder=3)
        axes.scatter(dots.each, [place] * len(dots.each), color=dots.colour, alpha=0.35, s=16, linewidth=0)
        axes.annotate(
            dots.text,
            (mean, place),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=dots.colour,
        )
    axes.set_yticks(range(len(compared)), [dots.label for dots in compared])
    axes.set_ylim(len(compared) - 0.4, -0.7)
