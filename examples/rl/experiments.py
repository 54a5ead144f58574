"""The comparisons behind docs/results: ``python -m examples.rl.experiments --help``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import tyro

from ..training.experiments import ExperimentOptions, compare, run_program
from ..training.run_folder import RunFolder, read_json
from ..training.statistics import over_runs
from .comparison_plots import draw_comparison
from .presets import command
from .settings import Settings
from .studies import STUDIES, Study


@dataclass(frozen=True)
class Experiments(ExperimentOptions):
    """Train and evaluate what a study compares, and put numbers and a picture side by side.

    Runs that are finished are not trained again, and interrupted ones continue: the same command goes
    on where it was stopped.
    """

    studies: tyro.conf.Positional[tuple[str, ...]]
    """Which: cue; starpilot, coinrun, fruitbot; several in the given order."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the runs. Of several, intervals are over seeds; of one, over episodes."""


def planned_runs(options: Experiments, study: Study) -> Iterator[Settings]:
    """The runs of a study."""
    for settings in study.runs.values():
        for seed in options.seeds:
            yield replace(
                settings,
                name=f"{settings.name}-seed{seed}",
                runs=options.runs,
                seed=seed,
                threads=options.threads,
                environment_threads=options.threads,
            )


def evaluation_command(options: Experiments, study: Study, settings: Settings) -> str:
    """The shell command that evaluates a run: on episodes of its own, as chance is part of the interval."""
    return shlex.join(
        [
            *("python", "-m", "examples.rl.evaluate", str(settings.folder), "--random"),
            *("--seed", str(1 + settings.seed)),
            *("--episodes", str(study.episodes), "--splits", *study.splits),
            *("--threads", str(options.threads), "--environment-threads", str(options.threads)),
            *("--output", str(RunFolder(settings.folder).evaluation)),
        ]
    )


def gather(options: Experiments, name: str, study: Study) -> dict[str, Any]:
    """Numbers of a study whose runs are finished: of all that is compared, of its runs and over them."""
    compared: dict[str, Any] = {}
    for label, settings in study.runs.items():
        [game] = settings.games
        runs = []
        for seed in options.seeds:
            folder = RunFolder(options.runs / f"{settings.name}-seed{seed}")
            evaluation = read_json(folder.evaluation)
            [measured] = evaluation["runs"]
            reports = folder.reports()
            seconds = reports[-1]["seconds"]
            runs.append(
                {
                    "seed": seed,
                    "minutes": seconds / 60,
                    "frames_per_second": reports[-1]["frames"] / seconds,
                    "shares": {
                        part: sum(line[f"{part}_share"] for line in reports) / len(reports)
                        for part in ("environment", "acting", "learning")
                    },
                    "result": _returns(measured["games"][game]),
                    "training": [
                        {key: line.get(key) for key in ("frames", "seconds", "episode_return")}
                        for line in reports
                    ],
                }
            )
        results = [run["result"] for run in runs]
        compared[settings.name] = {
            "label": label,
            "settings": settings.record(),
            "runs": runs,
            "summary": over_runs(results) if len(results) > 1 else results[0],
        }
    return {
        "study": name,
        "title": study.title,
        "seeds": list(options.seeds),
        "episodes": study.episodes,
        "splits": evaluation["splits"],
        "compared": compared,
        "random": _returns(evaluation["random"]["games"][game]),
    }


def _returns(of_game: dict[str, Any]) -> dict[str, Any]:
    """Split -> policy -> what the mean return is, and its interval."""
    return {
        split: {policy: values["return"] for policy, values in of_split.items()}
        for split, of_split in of_game.items()
    }


def main(options: Experiments) -> int:
    """Run, gather and draw; returns the exit status."""
    return compare(
        options,
        STUDIES,
        plan=lambda study: planned_runs(options, study),
        commands=lambda study, settings: [
            command(settings),
            evaluation_command(options, study, settings),
        ],
        evaluation=lambda _, settings: RunFolder(settings.folder).evaluation,
        gather=lambda name, study: gather(options, name, study),
        draw=draw_comparison,
    )


if __name__ == "__main__":
    run_program(main, "examples.rl.experiments", Experiments)
