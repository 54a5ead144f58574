"""Runs that are killed by SIGKILL, which no program can catch, at given moments of their life.

A moment is one that matters to the files: half of a checkpoint or of a line of metrics written, written
but not renamed, renamed but not yet sure to be on the disk; a program's tests add others, such as the
middle of a training step. One process imports everything and forks the runs, which costs a fraction of
starting each.
"""

import dataclasses
import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from examples.training import run_folder
from examples.training.settings import RunSettings

# Settings, and the moments to reach, -> exit status.
Program = Callable[[Any, "Moments"], int]


class Moments:
    """Counts them, by name, and kills the program at one of them."""

    def __init__(self, fatal: int | None) -> None:
        self.fatal = fatal
        self.names: list[str] = []

    def reach(self, name: str, last_words: Callable[[], object] = lambda: None) -> None:
        if len(self.names) == self.fatal:
            last_words()
            os.kill(os.getpid(), signal.SIGKILL)
        self.names.append(name)

    def reach_in(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The function, with the moment of its beginning."""

        def noted(*args: Any, **kwargs: Any) -> Any:
            self.reach(name)
            return function(*args, **kwargs)

        return noted


def watch_files(moments: Moments) -> None:
    """Watch the calls through which a run's files are written."""
    save, replace, fsync = torch.save, Path.replace, os.fsync

    def saving(state: Any, file: Any) -> None:
        def write_half() -> None:
            save(state, file)
            file.truncate(file.tell() // 2)
            file.flush()

        moments.reach("half written", write_half)
        save(state, file)

    def replacing(self: Path, target: Path) -> Path:
        moments.reach(f"before {target.name}")
        result = replace(self, target)
        moments.reach(f"after {target.name}")
        return result

    def syncing(descriptor: int) -> None:
        moments.reach("before the disk has it")
        fsync(descriptor)

    report = run_folder.RunFolder.report

    def reporting(self: run_folder.RunFolder, line: dict[str, Any], *after: int) -> tuple[int, int]:
        def write_half() -> None:
            with self.metrics.open("a") as file:
                file.write(json.dumps(line)[:20])

        moments.reach("half a line", write_half)
        written = report(self, line, *after)
        moments.reach("after a line")
        return written

    run_folder.torch.save = saving
    run_folder.os.fsync = syncing
    Path.replace = replacing
    run_folder.RunFolder.report = reporting


def fork_run(program: Program, settings: RunSettings, fatal: int | None) -> list[str] | None:
    """Moments of a run that came to its end, or None if it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        moments = Moments(fatal)
        watch_files(moments)
        code = program(settings, moments)
        with os.fdopen(writing, "w") as file:
            json.dump(moments.names, file)
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert os.WEXITSTATUS(status) == 0, status
    names: list[str] = json.loads(text)
    return names


def run_and_kill(program: Program, settings: RunSettings) -> list[str]:
    """Run once in peace, under the name "whole", then with kills; the kinds of moments met.

    The run that was killed at a moment, and continued, is named after its kind.
    """
    whole = fork_run(program, dataclasses.replace(settings, name="whole"), None)
    assert whole is not None
    usable = whole.index("after checkpoint.pt")
    rng = random.Random(0)
    kinds = sorted(set(whole[usable:]))
    for number, kind in enumerate(kinds):
        fatal = rng.choice([n for n, name in enumerate(whole) if name == kind and n >= usable])
        killed = dataclasses.replace(settings, name=kind.replace(" ", "-"))
        assert fork_run(program, killed, fatal) is None
        again = dataclasses.replace(killed, resume=True)
        # Some of them a second time, soon.
        if number % 3 == 0:
            assert fork_run(program, again, rng.randrange(1, 5)) is None
        assert fork_run(program, again, None) is not None
    return kinds
