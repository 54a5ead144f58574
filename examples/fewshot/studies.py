"""What is compared with what: each study's presets, whose encoder they share, and its table."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..training import experiments
from ..training.experiments import Results, mean_over, row_label
from ..training.run_folder import read_json
from ..training.tables import markdown_table, percent
from .evaluate import Evaluation
from .plots import draw_comparison
from .presets import PRESETS, command
from .settings import Settings, build_learner

_CORES = {"srwm": "SRWM", "deltanet": "DeltaNet", "lstm": "LSTM", "fake-sr": "fake SR"}


@dataclass(frozen=True)
class Study(experiments.Study[Settings]):
    """A comparison of presets, each run with several seeds.

    Attributes
    ----------
    k_shots : numbers of labelled examples to evaluate with; none for the run's own evaluation.
    """

    k_shots: tuple[int, ...] = ()

    def facts(self) -> dict[str, Any]:
        return {"k_shots": list(self.k_shots)} if self.k_shots else {}

    def of_seed(self, row: Settings, seed: int, threads: int, leader: Path | None) -> Settings:
        return replace(row, seed=seed, threads=threads, encoder_from=leader)

    def programs(self, settings: Settings) -> list[str]:
        training = command(settings)  # which evaluates the run too
        if not self.k_shots:
            return [training]
        evaluation = ["python", "-m", "examples.fewshot.evaluate", str(settings.folder)]
        evaluation += ["--k-shots", *map(str, self.k_shots), "--threads", str(settings.threads)]
        return [training, shlex.join(evaluation)]

    def evaluation(self, settings: Settings) -> Path:
        evaluation = Evaluation(runs=(settings.folder,), k_shots=self.k_shots)
        return settings.folder / evaluation.file(settings)

    def read(self, settings: Settings, reports: list[dict[str, Any]]) -> dict[str, Any]:
        validations = [line for line in reports if line["split"] == "validation"]
        return {
            "result": read_json(self.evaluation(settings)),
            "curve": [{key: line[key] for key in ("step", "seconds", "accuracy")} for line in validations],
        }

    def parameters(self, row: Settings) -> int:
        return sum(parameter.numel() for parameter in build_learner(row).parameters())

    def draw(self, results: Results, path: Path) -> None:
        draw_comparison(results, path)

    def table(self, results: Results) -> str:
        """Mean ± 95 % interval over the seeds, in Markdown."""
        entries = results["compared"].values()
        return markdown_table(
            ["", *_heads(next(iter(entries))["summary"]), "minutes"],
            [
                [row_label(entry, results), *_cells(entry["summary"]), f"{mean_over(entry, 'minutes'):.1f}"]
                for entry in entries
            ],
        )


def _heads(summary: dict[str, Any]) -> list[str]:
    if "orders" in summary:
        return [
            f"{task}, {'first' if place == 0 else 'second'}"
            for order in summary["orders"].values()
            for place, task in enumerate(order["tasks"])
        ]
    if "matrices" in summary:
        return [
            f"{task}, {('first', 'second', 'third')[place]}" if task == last else f"{task} after {last}"
            for order in summary["matrices"].values()
            for place, (task, after) in enumerate(order.items())
            for last in after
        ]
    if "k_shots" in summary:
        return [f"{part['k_shot']}-shot" for part in summary["k_shots"]]
    return ["learner", "nearest neighbour, same encoder"]


def _cells(summary: dict[str, Any]) -> list[str]:
    if "orders" in summary:
        return [
            percent(task["total"])
            for order in summary["orders"].values()
            for task in order["tasks"].values()
        ]
    if "matrices" in summary:
        return [
            percent(values)
            for order in summary["matrices"].values()
            for after in order.values()
            for values in after.values()
        ]
    if "k_shots" in summary:
        return [percent(part["learner"]) for part in summary["k_shots"]]
    return [percent(summary["learner"]), percent(summary["nearest_neighbour"])]


STUDIES = {
    "glyphs": Study(
        title="5-way classification of letters of unseen scripts",
        rows={
            f"{name}, {k_shot}-shot": PRESETS[f"glyphs-{k_shot}shot-{core}"]
            for k_shot in (1, 5)
            for core, name in _CORES.items()
        },
        leader="glyphs-1shot-srwm",
    ),
    "sequential": Study(
        title="Letters and textures in one sequence, each label shown one image late",
        rows={
            _CORES[core]: PRESETS[f"sequential-glyphs-textures-{core}"]
            for core in ("srwm", "deltanet", "lstm")
        },
        leader="sequential-glyphs-textures-srwm",
    ),
    "continual": Study(
        title="Letters and textures one after the other, each asked about again after the other",
        rows={
            f"{_CORES[core]}{', without backward terms' if end else ''}": PRESETS[
                f"continual-glyphs-textures-{core}{end}"
            ]
            for core in ("srwm", "deltanet")
            for end in ("", "-no-backward")
        },
        leader="continual-glyphs-textures-srwm",
    ),
    "bootstrapping": Study(
        title="Letters of unseen scripts, with more examples than in training",
        rows={
            "trained with 2 examples": PRESETS["glyphs-2shot-srwm"],
            "the same, beside a teacher that has read 3 more": PRESETS["glyphs-2shot-bootstrapping"],
        },
        leader="glyphs-2shot-srwm",
        k_shots=(1, 2, 3, 4, 5, 6, 7),
    ),
}
