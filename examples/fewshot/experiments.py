"""The comparisons behind docs/results: ``python -m examples.fewshot.experiments --help``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import tyro

from ..training.experiments import ExperimentOptions, compare, run_program
from ..training.run_folder import RunFolder, read_json
from ..training.statistics import over_runs
from .comparison_plots import draw_comparison
from .evaluate import Evaluation
from .presets import PRESETS, command
from .settings import Settings
from .studies import STUDIES, Study


@dataclass(frozen=True)
class Experiments(ExperimentOptions):
    """Train what a study compares, with several seeds, and put numbers and a picture side by side.

    Runs that are finished are not trained again, and interrupted ones continue: the same command goes
    on where it was stopped.
    """

    least_seeds: ClassVar[int] = 2

    studies: tyro.conf.Positional[tuple[str, ...]]
    """Which: glyphs, sequential, bootstrapping; several in the given order."""


def planned_runs(options: Experiments, study: Study) -> Iterator[Settings]:
    """The runs of a study, each after the one whose encoder it takes."""
    by_need = sorted(study.presets, key=lambda preset: study.encoder_of(preset) is not None)
    for preset in by_need:
        for seed in options.seeds:
            leader = study.encoder_of(preset)
            yield replace(
                PRESETS[preset],
                name=_name(preset, seed),
                runs=options.runs,
                seed=seed,
                threads=options.threads,
                encoder_from=None if leader is None else options.runs / _name(leader, seed),
            )


def _name(preset: str, seed: int) -> str:
    return f"{preset}-seed{seed}"


def programs(options: Experiments, study: Study, settings: Settings) -> list[str]:
    """The shell commands of a run: training, which evaluates it too, and evaluation with other shots."""
    training = command(settings)
    if not study.k_shots:
        return [training]
    evaluation = ["python", "-m", "examples.fewshot.evaluate", str(settings.folder)]
    evaluation += ["--k-shots", *map(str, study.k_shots), "--threads", str(options.threads)]
    return [training, shlex.join(evaluation)]


def evaluation_file(study: Study, settings: Settings) -> Path:
    """Where the last program of a run leaves its numbers."""
    evaluation = Evaluation(runs=(settings.folder,), k_shots=study.k_shots)
    return settings.folder / evaluation.file(settings)


def gather(options: Experiments, name: str, study: Study) -> dict[str, Any]:
    """Numbers of a study whose runs are finished: of each preset, of its runs and over them."""
    compared = {}
    for preset, label in study.presets.items():
        runs = []
        for seed in options.seeds:
            settings = replace(PRESETS[preset], name=_name(preset, seed), runs=options.runs)
            result = read_json(evaluation_file(study, settings))
            reports = RunFolder(settings.folder).reports()
            runs.append(
                {
                    "seed": seed,
                    "minutes": reports[-1]["seconds"] / 60,
                    "result": result,
                    "validation": [
                        {key: line[key] for key in ("step", "seconds", "accuracy")}
                        for line in reports
                        if line["split"] == "validation"
                    ],
                }
            )
        compared[preset] = {
            "label": label,
            "settings": PRESETS[preset].record(),
            "parameters": study.parameters(preset),
            "runs": runs,
            "summary": over_runs([run["result"] for run in runs]),
        }
    return {"study": name, "title": study.title, "seeds": list(options.seeds), "compared": compared}


def main(options: Experiments) -> int:
    """Run, gather and draw; returns the exit status."""
    return compare(
        options,
        STUDIES,
        plan=lambda study: planned_runs(options, study),
        commands=lambda study, settings: programs(options, study, settings),
        evaluation=lambda study, settings: evaluation_file(study, settings),
        gather=lambda name, study: gather(options, name, study),
        draw=draw_comparison,
        after=lambda settings: None if settings.encoder_from is None else settings.encoder_from.name,
    )


if __name__ == "__main__":
    run_program(main, "examples.fewshot.experiments", Experiments)
