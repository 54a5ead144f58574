"""What the programs that carry out comparisons have in common: their options, and the runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar

import tyro
from tqdm import tqdm

from .interrupt import INTERRUPTED
from .run_folder import RunFolder, write_json
from .run_pool import RunPool, is_finished
from .settings import RunSettings


class Study(Protocol):
    """A comparison."""

    def table(self, results: dict[str, Any]) -> str:
        """What was gathered, in Markdown."""
        ...


@dataclass(frozen=True)
class ExperimentOptions:
    """Which comparisons, of which runs."""

    least_seeds: ClassVar[int] = 1

    studies: tyro.conf.Positional[tuple[str, ...]]
    """Which; several in the given order."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the runs; at least two, for an interval over them."""
    runs: Path = Path("runs/experiments")
    """Folder of all runs; <name>.log beside a run's folder is what it printed."""
    output: Path = Path("docs/results")
    """Folder of the numbers, <study>.json, and of the picture, <study>.png."""
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
        least = self.least_seeds
        if len(self.seeds) < least or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"experiments: --seeds must be at least {least}, all different, got {self.seeds}"
            )
        for name in ("parallel", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"experiments: --{name} must be at least 1, got {getattr(self, name)}")


S = TypeVar("S", bound=RunSettings)
Y = TypeVar("Y", bound=Study)
P = TypeVar("P", bound=ExperimentOptions)


def compare(
    options: ExperimentOptions,
    studies: Mapping[str, Y],
    *,
    plan: Callable[[Y], Iterable[S]],
    commands: Callable[[Y, S], Sequence[str]],
    evaluation: Callable[[Y, S], Path],
    gather: Callable[[str, Y], dict[str, Any]],
    draw: Callable[[dict[str, Any], Path], None],
    after: Callable[[S], str | None] = lambda settings: None,
) -> int:
    """Carry out studies, write and draw what they found; returns the exit status.

    Parameters
    ----------
    options : which, and how many runs at a time.
    studies : all there are.
    plan : the runs of a study, each after the one that it waits for.
    commands : the programs of a run, from where it stands.
    evaluation : the file that the last of them leaves.
    gather : a study's numbers, once its runs are finished.
    draw : makes a picture of them.
    after : the run that one waits for.

    Raises
    ------
    ValueError : for options that do not fit, or if a planned run was run with other settings; none is
        begun then.
    RuntimeError : if a run failed.
    """
    options.check(studies)
    plans = {name: list(plan(studies[name])) for name in options.studies}
    unfinished = {
        name: [run for run in runs if not is_finished(run, evaluation(studies[name], run))]
        for name, runs in plans.items()
    }
    total, missing = (sum(map(len, of.values())) for of in (plans, unfinished))
    with (
        tqdm(desc=", ".join(plans), total=total, initial=total - missing, unit="run") as bar,
        RunPool(options.parallel, options.threads, bar) as pool,
    ):
        # All at once, so that no processor waits for the last run of a study.
        for name, runs in unfinished.items():
            for settings in runs:
                resume = RunFolder(settings.folder).checkpoint.exists()
                pool.submit(
                    settings.name,
                    commands(studies[name], replace(settings, resume=resume)),
                    log=settings.folder.with_suffix(".log"),
                    after=after(settings),
                )
        try:
            for name, runs in plans.items():
                pool.wait(settings.name for settings in runs)
                results = gather(name, studies[name])
                options.output.mkdir(parents=True, exist_ok=True)
                write_json(options.output / f"{name}.json", results)
                draw(results, options.output / f"{name}.png")
                print(studies[name].table(results))
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here")
            return INTERRUPTED
    return 0


def run_program(main: Callable[[P], int], module: str, options: type[P]) -> NoReturn:
    """Read the options from the command line, run, and leave with the exit status.

    Parameters
    ----------
    main : options -> exit status.
    module : the program's name, as ``python -m`` takes it.
    options : their type.
    """
    given = tyro.cli(options, prog=f"python -m {module}")
    try:
        sys.exit(main(given))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"{error}")
