"""The files of a run, written so that an interruption at any moment leaves them usable."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from .settings import RunSettings

_PARTIAL = ".part"  # of a file that is being written, and left behind by a program that was killed


class RunFolder:
    """``<runs>/<name>/``: paths, checkpoints and metrics.

    Attributes
    ----------
    config, metrics, checkpoint, best, evaluation, curves, episodes, positions, contact_sheet : paths of the
        files.
    trackers : folder of what TensorBoard reads, and of the run's id in Weights & Biases.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.json"
        self.checkpoint = path / "checkpoint.pt"
        self.best = path / "best.pt"
        self.evaluation = path / "evaluation.json"
        self.curves = path / "curves.png"
        self.episodes = path / "episodes.png"
        self.positions = path / "positions.png"
        self.contact_sheet = path / "contact_sheet.png"
        self.trackers = path / "trackers"

    def open(self, settings: RunSettings) -> dict[str, Any] | None:
        """Make ready for training: the checkpoint to continue from, or None for a new run.

        Raises
        ------
        FileExistsError : if the folder holds a run that is neither resumed nor overwritten.
        FileNotFoundError : if there is nothing to resume.
        ValueError : if both are asked for, or the settings are not those of the run to resume.
        """
        if settings.resume and settings.overwrite:
            raise ValueError("train: --resume and --overwrite exclude each other; give one")
        if settings.resume:
            return self._resume(settings)
        if self.checkpoint.exists() and not settings.overwrite:
            raise FileExistsError(
                f"train: {self.path} already holds a run; add --resume to continue it, "
                "--overwrite to replace it, or choose another --name"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        # The checkpoint goes first: without it, the rest is no run.
        for file in (self.checkpoint, self.best, self.metrics, self.evaluation):
            file.unlink(missing_ok=True)
        pictures = (self.curves, self.episodes, self.positions, self.contact_sheet)
        for made in (*pictures, *self.path.glob("evaluation*")):
            made.unlink(missing_ok=True)
        if self.trackers.exists():
            shutil.rmtree(self.trackers)
        self._remove_partial()
        self.metrics.touch()
        write_json(self.config, settings.record())
        return None

    def _resume(self, settings: RunSettings) -> dict[str, Any]:
        if not self.checkpoint.exists():
            raise FileNotFoundError(
                f"train: --resume found no {self.checkpoint}; leave --resume out to start the run"
            )
        state = load(self.checkpoint)
        changes = settings.changes(state["settings"])
        if changes:
            raise ValueError(
                f"train: cannot resume {self.path} with changed settings: {'; '.join(changes)}; "
                "give the old values, or start another run with --name"
            )
        self._remove_partial()
        # Lines written after the checkpoint will be written again.
        os.truncate(self.metrics, state["progress"]["metrics_bytes"])
        return state

    def _remove_partial(self) -> None:
        for file in self.path.glob("*" + _PARTIAL):
            file.unlink()

    def best_or_last(self) -> dict[str, Any]:
        """The weights that did best in validation, or the last ones while there are none.

        Raises
        ------
        FileNotFoundError : if the folder holds no checkpoint.
        """
        path = self.best if self.best.exists() else self.checkpoint
        if not path.exists():
            raise FileNotFoundError(
                f"found neither {self.best} nor {self.checkpoint}; give the folder of a run"
            )
        return load(path)

    def report(self, line: dict[str, Any]) -> int:
        """Append a line to metrics.json; returns the file's size."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def reports(self) -> list[dict[str, Any]]:
        """The lines of metrics.json."""
        return [json.loads(line) for line in self.metrics.read_text().splitlines()]


def save(state: dict[str, Any], path: Path) -> None:
    """`torch.save` that replaces the file in one step, or not at all, whatever happens to the program."""

    def write(file: IO[bytes]) -> None:
        torch.save(state, file)

    _replace(path, write)


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote; only tensors and plain values are read, so no code of the file is run."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file in one step, or not at all."""
    _replace(path, lambda file: file.write((json.dumps(value, indent=2) + "\n").encode()))


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    partial = path.with_suffix(_PARTIAL)
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder, and not just the bytes of its files, survive a loss of power."""
    if os.name == "nt":
        return  # where folders cannot be opened
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
