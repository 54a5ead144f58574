"""What is compared with what: each study's presets, whose encoder they share, and its table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .presets import PRESETS
from .settings import build_learner

_CORES = {"srwm": "SRWM", "deltanet": "DeltaNet", "lstm": "LSTM", "fake-sr": "fake SR"}


@dataclass(frozen=True)
class Study:
    """A comparison of presets, each run with several seeds.

    Attributes
    ----------
    title : of the picture.
    presets : preset -> what its line and row are called.
    leader : the preset whose encoder, of the same seed, all others take.
    k_shots : numbers of labelled examples to evaluate with; none for the run's own evaluation.
    """

    title: str
    presets: Mapping[str, str]
    leader: str
    k_shots: tuple[int, ...] = ()

    def encoder_of(self, preset: str) -> str | None:
        """The preset whose encoder this one takes; None if it trains one itself."""
        return None if preset == self.leader else self.leader

    @staticmethod
    def parameters(preset: str) -> int:
        """Trainable parameters of a preset's learner."""
        return sum(parameter.numel() for parameter in build_learner(PRESETS[preset]).parameters())

    def table(self, results: dict[str, Any]) -> str:
        """Mean ± 95 % interval over the seeds, in Markdown."""
        rows = [
            [entry["label"], *_cells(entry["summary"]), f"{_minutes(entry):.1f}"]
            for entry in results["compared"].values()
        ]
        heads = _heads(next(iter(results["compared"].values()))["summary"])
        lines = [["", *heads, "minutes"], ["---"] * (len(heads) + 2), *rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _heads(summary: dict[str, Any]) -> list[str]:
    if "orders" in summary:
        return [
            f"{task}, {'first' if place == 0 else 'second'}"
            for order in summary["orders"].values()
            for place, task in enumerate(order["tasks"])
        ]
    if "k_shots" in summary:
        return [f"{part['k_shot']}-shot" for part in summary["k_shots"]]
    return ["learner", "nearest neighbour, same encoder"]


def _cells(summary: dict[str, Any]) -> list[str]:
    if "orders" in summary:
        return [
            _cell(task["total"]) for order in summary["orders"].values() for task in order["tasks"].values()
        ]
    if "k_shots" in summary:
        return [_cell(part["learner"]) for part in summary["k_shots"]]
    return [_cell(summary["learner"]), _cell(summary["nearest_neighbour"])]


def _cell(values: dict[str, float]) -> str:
    return f"{100 * values['mean']:.2f} ± {100 * values['interval_95']:.2f} %"


def _minutes(entry: dict[str, Any]) -> float:
    return sum(run["minutes"] for run in entry["runs"]) / len(entry["runs"])


STUDIES = {
    "glyphs": Study(
        title="5-way classification of letters of unseen scripts",
        presets={
            f"glyphs-{k_shot}shot-{core}": f"{name}, {k_shot}-shot"
            for k_shot in (1, 5)
            for core, name in _CORES.items()
        },
        leader="glyphs-1shot-srwm",
    ),
    "sequential": Study(
        title="Letters and textures in one sequence, each label shown one image late",
        presets={
            f"sequential-glyphs-textures-{core}": _CORES[core] for core in ("srwm", "deltanet", "lstm")
        },
        leader="sequential-glyphs-textures-srwm",
    ),
    "bootstrapping": Study(
        title="Letters of unseen scripts, with more examples than in training",
        presets={
            "glyphs-2shot-srwm": "trained with 2 shots",
            "glyphs-2shot-bootstrapping": "and a teacher that has read 3 more",
        },
        leader="glyphs-2shot-srwm",
        k_shots=(1, 2, 3, 4, 5, 6, 7),
    ),
}
