"""Programs of a comparison's runs, several at a time, each a process of its own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .interrupt import INTERRUPTED
from .run_folder import RunFolder, read_json
from .settings import RunSettings


class RunPool:
    """Carries out runs, each a few programs one after the other.

    As a context it ends with its block: runs that have not begun by then never do.

    Parameters
    ----------
    parallel : how many runs at a time.
    threads : of each program's OpenMP.
    bar : counts the runs.
    """

    def __init__(self, parallel: int, threads: int, bar: tqdm[Any]) -> None:
        self.threads, self.bar = threads, bar
        self._pool = ThreadPoolExecutor(parallel)
        self._stopping = threading.Event()
        self._jobs: dict[str, Future[None]] = {}

    def submit(self, name: str, commands: Sequence[str], log: Path, after: str | None = None) -> None:
        """Carry out a run once there is room for it.

        Parameters
        ----------
        name : of the run.
        commands : its programs, each ``python ...``, as a shell would take them.
        log : where what they print is appended.
        after : the run that must be over first, if it was submitted, before this one.
        """
        leader = None if after is None else self._jobs.get(after)
        self._jobs[name] = self._pool.submit(self._carry_out, name, commands, log, leader)

    def wait(self, names: Iterable[str]) -> None:
        """Until these runs are over; those that were not submitted are.

        Raises
        ------
        RuntimeError : if a program failed.
        KeyboardInterrupt : if one was interrupted.
        """
        for name in names:
            if name in self._jobs:
                self._jobs[name].result()

    def __enter__(self) -> RunPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()  # what is left would run for a comparison that cannot be made
        self._pool.shutdown(cancel_futures=True)

    def _carry_out(
        self, name: str, commands: Sequence[str], log: Path, leader: Future[None] | None
    ) -> None:
        if leader is not None:
            leader.result()  # it has its thread already: the pool starts jobs in order
        log.parent.mkdir(parents=True, exist_ok=True)
        for command in commands:
            if self._stopping.is_set():
                return
            _, *arguments = shlex.split(command)
            with log.open("a") as file:
                status = subprocess.run(
                    [sys.executable, *arguments],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=os.environ | {"OMP_NUM_THREADS": str(self.threads)},
                    check=False,
                ).returncode
            if status == INTERRUPTED:
                raise KeyboardInterrupt
            if status != 0:
                raise RuntimeError(f"experiments: {name} failed with status {status}; see {log}")
        self.bar.update()


def is_finished(settings: RunSettings, evaluation: Path) -> bool:
    """Whether the run is there, whole: trained with these settings and evaluated.

    Parameters
    ----------
    settings : of the run.
    evaluation : the file that its last program leaves.

    Raises
    ------
    ValueError : if what is there was run with other settings.
    """
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
