"""What the programs that carry out comparisons have in common: their options, and the runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import tyro
from tqdm import tqdm

from .run_pool import RunPool, is_finished
from .settings import RunSettings

S = TypeVar("S", bound=RunSettings)


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


def carry_out(
    options: ExperimentOptions, study: str, planned: Sequence[S], submit: Callable[[RunPool, S], None]
) -> bool:
    """Carry out the planned runs of a study that are not finished; False if they were interrupted.

    Parameters
    ----------
    options : how many runs at a time.
    study : its name.
    planned : all its runs.
    submit : hands one of them to the pool.

    Raises
    ------
    ValueError : if a planned run was run with other settings; nothing is begun then.
    RuntimeError : if one failed.
    """
    finished = [is_finished(settings) for settings in planned]
    with tqdm(desc=study, total=len(planned), initial=sum(finished), unit="run") as bar:
        pool = RunPool(options.parallel, options.threads, bar)
        for settings, is_over in zip(planned, finished, strict=True):
            if not is_over:
                submit(pool, settings)
        try:
            pool.wait()
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here")
            return False
    return True
