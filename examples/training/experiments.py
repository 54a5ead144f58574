"""Comparisons of runs: which runs a study has, how they are carried out, and what is kept of them.

The numbers of a study are one JSON object, whatever the program:

    {"study", "title", "seeds",
     "compared": {name of a row: {"label", "settings", "parameters",
                                  "runs": [{"seed", "minutes", "result", "curve": [...], ...}],
                                  "summary": the results as one, see `over_runs`}},
     "diverged": [{"row", "settings", "seed", "said"}], where runs have,
     ... what the study adds: `Study.facts` and `Study.over_all`}
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import tyro
from tqdm import tqdm

from .command_line import run_with_options
from .divergence import DIVERGED
from .files import read_json, write_json
from .interrupt import INTERRUPTED
from .run_folder import RunFolder
from .settings import RunSettings, check_least
from .statistics import over_runs

S = TypeVar("S", bound=RunSettings)

Results = dict[str, Any]


@dataclass(frozen=True)
class Study(ABC, Generic[S]):
    """A comparison of settings, each run with one or several seeds."""

    title: str  # of the picture
    rows: Mapping[str, S]  # what a line and row are called -> its settings, whose names differ
    draw: Callable[[Results, Path], None]  # a picture of the numbers
    leader: str | None = None  # the name of the settings whose encoder, of the same seed, all others take

    @abstractmethod
    def of_seed(self, row: S, seed: int, threads: int, leader: Path | None) -> S:
        """The settings of a run: a row's with this seed and the encoder of the run in this folder."""

    @abstractmethod
    def programs(self, settings: S) -> Sequence[str]:
        """The shell commands of a run, ``python -m ...``, in their order."""

    def evaluation(self, settings: S) -> Path:
        """The file that the last of them leaves."""
        return RunFolder(settings.folder).evaluation

    @abstractmethod
    def read(self, settings: S, reports: list[dict[str, Any]]) -> dict[str, Any]:
        """What is kept of a finished run: its "result", its "curve", and what else the table needs. The
        reports are the lines of its metrics.json."""

    @abstractmethod
    def parameters(self, row: S) -> int:
        """Trainable parameters."""

    @abstractmethod
    def table(self, results: Results) -> str:
        """The numbers in Markdown."""

    def facts(self) -> dict[str, Any]:
        """How runs are evaluated, as JSON values; numbers of others are not taken over."""
        return {}

    def over_all(self, runs: list[dict[str, Any]]) -> dict[str, Any]:
        """What the runs of all rows tell together."""
        return {}


@dataclass(frozen=True)
class ExperimentOptions:
    """Train and evaluate what studies compare, and put numbers and a picture side by side.

    Runs that are finished are not made again, and interrupted ones continue: the same command goes on
    where it was stopped.
    """

    studies: tyro.conf.Positional[tuple[str, ...]]
    """Names of studies; several are carried out in the given order."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the runs. Of several, intervals are over seeds; of one, over what it was evaluated on."""
    runs: Path = Path("runs/experiments")
    """Folder of all runs; <name>.log beside a run's folder is what it printed."""
    output: Path = Path("docs/results")
    """Folder of the numbers, <study>.json, and of the picture, <study>.png. Runs whose numbers are there
    already are finished, on whichever machine they were made."""
    again: bool = False
    """Make runs again whose numbers are in --output, but not in --runs."""
    parallel: int = 2
    """Runs at a time, each a process of its own."""
    threads: int = 1
    """Threads of each run."""

    def check(self, known: Collection[str]) -> None:
        """Raise ValueError for options that do not fit together; `known` are the names of all studies."""
        unknown = [name for name in self.studies if name not in known]
        if unknown or not self.studies:
            raise ValueError(
                f"experiments: studies are {', '.join(known)}, got {', '.join(unknown) or 'none'}"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"experiments: --seeds must be at least one, all different, got {self.seeds}")
        check_least("experiments", self, parallel=1, threads=1)


@dataclass(frozen=True)
class Run(Generic[S]):
    """One of a comparison: of a row, with a seed, perhaps with the encoder of a leader."""

    row: S
    seed: int
    settings: S
    leader: Run[S] | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from the study's other runs, on any machine."""
        return self.row.name, self.seed


class Comparison(Generic[S]):
    """A study with the seeds that were asked for, and the numbers of its runs, of which those that are
    `missing` must be carried out.
    """

    def __init__(self, name: str, study: Study[S], options: ExperimentOptions) -> None:
        self.name, self.study, self.seeds = name, study, options.seeds
        self.file = options.output / f"{name}.json"
        self.runs = planned_runs(study, options)
        self._parameters: dict[str, int] = {}  # by the rows' names
        self._found: dict[tuple[str, int], dict[str, Any]] = {}  # by the runs' keys
        self._diverged: dict[tuple[str, int], str] = {}  # what they said
        if self.file.exists() and not options.again:
            self._take_recorded(read_json(self.file))
        here = [run for run in self.runs if self._take_if_finished(run)]
        missing = [run for run in self.runs if run.key not in self._found | self._diverged]
        # An encoder is in its run's folder alone, and not among the numbers.
        leaders = [run.leader for run in missing if run.leader not in here]
        self.missing = [run for run in self.runs if run in missing or run in leaders]

    def _take_recorded(self, recorded: Results) -> None:
        """Take over the numbers of runs, on whichever machine they were made."""
        if recorded.get("study") != self.name:
            raise ValueError(
                f"experiments: {self.file} holds no numbers of the study {self.name}; move it away, or "
                "choose another --output"
            )
        rows = {row.name: row for row in self.study.rows.values()}
        for name, entry in recorded.get("compared", {}).items():
            if name in rows and self._is_as_now(rows[name], entry["settings"], recorded):
                self._found |= {(name, run["seed"]): run for run in entry["runs"]}
                self._parameters[name] = entry["parameters"]
        for run in recorded.get("diverged", []):
            name = run["row"]
            if name in rows and self._is_as_now(rows[name], run["settings"], recorded):
                self._diverged[name, run["seed"]] = run["said"]

    def _is_as_now(self, row: S, settings: dict[str, Any], recorded: Results) -> bool:
        changes = row.changes(settings)
        for fact, value in self.study.facts().items():
            if recorded.get(fact) != value:
                changes.append(f"{fact}: was {recorded.get(fact)}, now {value}")
        if changes:
            print(f"{self.file}: {row.name} is run again, it was run otherwise ({'; '.join(changes)})")
        return not changes

    def _take_if_finished(self, run: Run[S]) -> bool:
        finished = is_finished(run.settings, self.study.evaluation(run.settings))
        if finished:
            self._take(run)
        return finished

    def _take(self, run: Run[S]) -> None:
        reports = RunFolder(run.settings.folder).reports()
        kept = {"seed": run.seed, "minutes": reports[-1]["seconds"] / 60}
        self._found[run.key] = kept | self.study.read(run.settings, reports)
        if run.row.name not in self._parameters:
            self._parameters[run.row.name] = self.study.parameters(run.row)

    def finish(self, run: Run[S], diverged: str | None) -> None:
        """Keep a run's numbers once its programs have ended, or what it said when it diverged."""
        if diverged is None:
            self._take(run)
        else:
            self._diverged[run.key] = diverged
        self._write(self.results())

    def _write(self, results: Results) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file, results)

    def results(self) -> Results:
        """The numbers so far, see the head of the module."""
        compared: dict[str, Any] = {}
        for label, row in self.study.rows.items():
            keys = [(row.name, seed) for seed in self.seeds]
            if runs := [self._found[key] for key in keys if key in self._found]:
                compared[row.name] = {
                    "label": label,
                    "settings": row.record(),
                    "parameters": self._parameters[row.name],
                    "runs": runs,
                    "summary": over_runs([run["result"] for run in runs]),
                }
        everything = [run for entry in compared.values() for run in entry["runs"]]
        numbers = {"compared": compared, **self.study.over_all(everything)} if compared else {}
        about = {"study": self.name, "title": self.study.title, "seeds": list(self.seeds)}
        rows = {row.name: row for row in self.study.rows.values()}
        diverged = [
            {"row": name, "settings": rows[name].record(), "seed": seed, "said": said}
            for (name, seed), said in sorted(self._diverged.items())
            if seed in self.seeds
        ]
        return {**about, **self.study.facts(), **numbers} | ({"diverged": diverged} if diverged else {})

    def report(self) -> None:
        """Write the numbers there are, draw them, and print the table."""
        for run in self.runs:
            if run.key not in self._found:  # it ended while the others were stopped
                self._take_if_finished(run)
        results = self.results()
        for (name, seed), said in self._diverged.items():
            print(f"diverged: {name}, seed {seed}: {said}")
        if "compared" not in results:
            return
        self._write(results)
        self.study.draw(results, self.file.with_suffix(".png"))
        print(self.study.table(results))
        named = results["compared"].keys() | {name for name, _ in self._diverged}
        none = [label for label, row in self.study.rows.items() if row.name not in named]
        if none:
            print(f"no run yet: {'; '.join(none)}")


def planned_runs(study: Study[S], options: ExperimentOptions) -> list[Run[S]]:
    """The runs of a study, those of the leader first."""
    leaders: dict[int, Run[S]] = {}
    planned = []
    for row in sorted(study.rows.values(), key=lambda row: row.name != study.leader):
        for seed in options.seeds:
            leader = leaders.get(seed)
            settings = replace(row, name=f"{row.name}-seed{seed}", runs=options.runs)
            folder = None if leader is None else leader.settings.folder
            run = Run(row, seed, study.of_seed(settings, seed, options.threads, folder), leader)
            if row.name == study.leader:
                leaders[seed] = run
            planned.append(run)
    return planned


def row_label(entry: dict[str, Any], results: Results) -> str:
    """What a row is called; while it lacks runs, with how many of the seeds it has."""
    count, of = len(entry["runs"]), len(results["seeds"])
    return str(entry["label"]) if count == of else f"{entry['label']} ({count} of {of} seeds)"


def intervals_of(results: Results, over: str = "episodes") -> str:
    """What the means and intervals of the numbers are; of one seed, they are over these."""
    count = len(results["seeds"])
    if count == 1:
        return f"one seed, mean and 95 % interval over {over}"
    counts = {len(entry["runs"]) for entry in results["compared"].values()}
    alone = f"; where there is one seed alone, over {over}" if 1 in counts else ""
    return f"mean and 95 % interval over {count} seeds{alone}"


def mean_over(entry: dict[str, Any], what: str) -> float:
    """The mean over a row's runs of what is kept of each, such as their "minutes"."""
    return float(sum(run[what] for run in entry["runs"]) / len(entry["runs"]))


def is_finished(settings: RunSettings, evaluation: Path) -> bool:
    """Whether the run is there, whole: run with these settings, and its last program left `evaluation`."""
    folder = RunFolder(settings.folder)
    if not folder.config.exists():
        return False
    changes = settings.changes(read_json(folder.config))
    if changes:
        raise ValueError(
            f"experiments: {folder.path} was run with other settings ({'; '.join(changes)}); "
            "remove it, or choose other --runs"
        )
    return evaluation.exists()


def run_studies(module: str, studies: Mapping[str, Study[S]]) -> NoReturn:
    """The program that carries out a package's studies; its help lists them."""
    listed = "\n".join(f"- {name}: {study.title}" for name, study in studies.items())
    about = f"{ExperimentOptions.__doc__}\n\nStudies:\n\n{listed}"
    run_with_options(lambda options: compare(options, studies), module, ExperimentOptions, about)


def compare(options: ExperimentOptions, studies: Mapping[str, Study[S]]) -> int:
    """Carry out studies, write and draw what they found; returns the exit status.

    No run is begun where the options do not fit, or one was run with other settings. The numbers are
    written after every run. Table and picture are made at the end, of what is there.
    """
    options.check(studies)
    comparisons = [Comparison(name, studies[name], options) for name in options.studies]
    try:
        _carry_out(comparisons, options)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here")
        return INTERRUPTED
    finally:
        for comparison in comparisons:
            comparison.report()
    return 0


def _carry_out(comparisons: Sequence[Comparison[S]], options: ExperimentOptions) -> None:
    """All missing runs at once, so that no processor waits for the last run of a study."""
    missing = [(comparison, run) for comparison in comparisons for run in comparison.missing]
    missing.sort(key=lambda job: job[1].leader is not None)
    total = sum(len(comparison.runs) for comparison in comparisons)
    stopping = threading.Event()
    done, names = total - len(missing), ", ".join(options.studies)
    bar = tqdm(desc=names, total=total, initial=done, unit="run", disable=None)  # none without a terminal
    with bar, ThreadPoolExecutor(options.parallel) as pool:
        jobs: dict[Future[str | None], tuple[Comparison[S], Run[S]]] = {}
        of_folder: dict[Path, Future[str | None]] = {}
        for comparison, run in missing:
            # A study may have a run of another one: each has programs of its own, one after the other.
            folders = [run.settings.folder, *([run.leader.settings.folder] if run.leader else [])]
            first = [of_folder[folder] for folder in folders if folder in of_folder]
            job = pool.submit(_run_programs, comparison.study, run.settings, first, options, stopping)
            jobs[job] = (comparison, run)
            of_folder[run.settings.folder] = job
        try:
            for job in as_completed(jobs):
                diverged = job.result()
                comparison, run = jobs[job]
                comparison.finish(run, diverged)
                bar.update()
        finally:
            stopping.set()  # what is left would run for a comparison that cannot be made


def _run_programs(
    study: Study[S],
    settings: S,
    first: Sequence[Future[str | None]],
    options: ExperimentOptions,
    stopping: threading.Event,
) -> str | None:
    """Carry out a run, once the jobs are over that it waits for; what it or they said if it diverged."""
    for job in first:
        if diverged := job.result():  # it has its thread already: the pool starts jobs in order
            return diverged
    log = settings.folder.parent / f"{settings.folder.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    resume = RunFolder(settings.folder).checkpoint.exists()
    for command in study.programs(replace(settings, resume=resume)):
        if stopping.is_set():
            break
        _, *arguments = shlex.split(command)
        with log.open("a") as file:
            status = subprocess.run(
                [sys.executable, *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": str(options.threads)},
                check=False,
            ).returncode
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        if status == DIVERGED:
            return log.read_text().splitlines()[-1]
        if status != 0:
            raise ChildProcessError(f"experiments: {settings.name} failed with status {status}; see {log}")
    return None
