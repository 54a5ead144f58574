"""The comparisons behind docs/results: ``python -m examples.fewshot.experiments --help``."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from ..training.interrupt import INTERRUPTED
from ..training.run_folder import RunFolder, write_json
from ..training.statistics import over_runs
from .comparison_plots import draw_comparison
from .evaluate import Evaluation, evaluate
from .presets import PRESETS, command
from .settings import Settings
from .studies import STUDIES, Study


@dataclass(frozen=True)
class Experiments:
    """Train what a study compares, with several seeds, and put numbers and a picture side by side.

    Runs that are finished are not trained again, and interrupted ones continue: the same command goes
    on where it was stopped.
    """

    studies: tyro.conf.Positional[tuple[str, ...]]
    """Which: glyphs, sequential, bootstrapping; several in the given order."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the runs; at least two, for an interval."""
    runs: Path = Path("runs/experiments")
    """Folder of all runs; <name>.log beside a run's folder is what it printed."""
    output: Path = Path("docs/results")
    """Folder of the numbers, <study>.json, and of the picture, <study>.png."""
    parallel: int = 2
    """Runs at a time, each a process of its own."""
    threads: int = 1
    """Threads of each run."""

    def check(self) -> None:
        """Raise ValueError for options that do not fit together."""
        unknown = [name for name in self.studies if name not in STUDIES]
        if unknown or not self.studies:
            raise ValueError(
                f"experiments: studies are {', '.join(STUDIES)}, got {', '.join(unknown) or 'none'}"
            )
        if len(set(self.seeds)) < 2 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"experiments: --seeds must be at least two different ones, got {self.seeds}")
        for name in ("parallel", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"experiments: --{name} must be at least 1, got {getattr(self, name)}")


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


def is_finished(settings: Settings) -> bool:
    """Whether the run is there, whole.

    Raises
    ------
    ValueError : if what is there was run with other settings.
    """
    folder = RunFolder(settings.folder)
    if not folder.config.exists():
        return False
    changes = settings.changes(json.loads(folder.config.read_text()))
    if changes:
        raise ValueError(
            f"experiments: {folder.path} was run with other settings ({'; '.join(changes)}); "
            "remove it, or choose other --runs"
        )
    return folder.evaluation.exists()


class Training:
    """Trains runs in processes of their own, as many at a time as asked for."""

    def __init__(self, parallel: int, bar: tqdm[Any]) -> None:
        self.pool = ThreadPoolExecutor(parallel)
        self.bar = bar
        self.stopping = threading.Event()
        self.jobs: dict[str, Future[None]] = {}

    def submit(self, settings: Settings) -> None:
        """Train it after the run whose encoder it takes, which is submitted before it."""
        leader = None if settings.encoder_from is None else self.jobs.get(settings.encoder_from.name)
        self.jobs[settings.name] = self.pool.submit(self._run, settings, leader)

    def wait(self) -> None:
        """Until all are finished; raises what the first one that failed raised."""
        try:
            for job in self.jobs.values():
                job.result()
        finally:
            self.stopping.set()  # the others would train for a comparison that cannot be made
            self.pool.shutdown(cancel_futures=True)

    def _run(self, settings: Settings, leader: Future[None] | None) -> None:
        if leader is not None:
            leader.result()  # it has its thread already: the pool starts jobs in order
        if self.stopping.is_set():
            return
        resume = RunFolder(settings.folder).checkpoint.exists()
        settings.runs.mkdir(parents=True, exist_ok=True)
        log = settings.folder.with_suffix(".log")
        _, *arguments = shlex.split(command(replace(settings, resume=resume)))
        with log.open("a") as file:
            status = subprocess.run(
                [sys.executable, *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": str(settings.threads)},
                check=False,
            ).returncode
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        if status != 0:
            raise RuntimeError(f"experiments: {settings.name} failed with status {status}; see {log}")
        self.bar.update()


def gather(options: Experiments, name: str, study: Study) -> dict[str, Any]:
    """Numbers of a study whose runs are finished: of each preset, of its runs and over them."""
    compared = {}
    for preset, label in study.presets.items():
        runs = []
        for seed in options.seeds:
            folder = RunFolder(options.runs / _name(preset, seed))
            if study.k_shots:
                result = evaluate(Evaluation(runs=(folder.path,), k_shots=study.k_shots))
            else:
                result = json.loads(folder.evaluation.read_text())
            reports = folder.reports()
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
    options.check()
    for name in options.studies:
        study = STUDIES[name]
        planned = list(planned_runs(options, study))
        finished = [settings for settings in planned if is_finished(settings)]
        with tqdm(desc=name, total=len(planned), initial=len(finished), unit="run") as bar:
            training = Training(options.parallel, bar)
            for settings in planned:
                if settings not in finished:
                    training.submit(settings)
            try:
                training.wait()
            except KeyboardInterrupt:
                print("stopped; the same command goes on from here")
                return INTERRUPTED
        results = gather(options, name, study)
        options.output.mkdir(parents=True, exist_ok=True)
        write_json(options.output / f"{name}.json", results)
        draw_comparison(results, options.output / f"{name}.png")
        print(study.table(results))
    return 0


def program() -> None:
    """The command line."""
    options = tyro.cli(Experiments, prog="python -m examples.fewshot.experiments")
    try:
        sys.exit(main(options))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    program()
