"""The files of a run, written so that an interruption at any moment leaves them usable."""

import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from .checkpoint import load_state
from .files import MEND, PARTIAL, ROOM, as_json, exists, stage, sync_folder, told
from .settings import RunSettings

_FOLDER = "make room there, mend its permissions or choose another place"


class RunFolder:
    """``<runs>/<name>/``: paths, checkpoints and metrics."""

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
        self.tasks = path / "tasks.png"
        self.contact_sheet = path / "contact_sheet.png"
        self.trackers = path / "trackers"  # what TensorBoard reads, and the run's id in Weights & Biases
        self.lock = path / ".lock"  # empty, locked by the program that trains or evaluates into the folder
        self._claim: FileLock | None = None

    def claim(self) -> None:
        """Keep other programs from training this run and from evaluating into its folder.

        The claim lasts as long as this object, or another one of this folder in this program. The system
        ends it with the program, however that ends: nothing is left to be cleared up after a kill.
        """
        if self._claim is not None:
            return
        with told(f"cannot write to the folder {self.path}", _FOLDER):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.lock.resolve(), timeout=0, is_singleton=True, thread_local=False)
            try:
                lock.acquire()
            except Timeout:
                raise BlockingIOError(
                    f"{self.path} is in use: another program trains this run or evaluates it; wait until "
                    "that has ended, or choose another place"
                ) from None
        self._claim = lock

    def open(self, settings: RunSettings) -> dict[str, Any] | None:
        """Claim the run for training: the checkpoint to continue from, or None for a new run.

        Nothing of an earlier run is deleted yet; `begin` does that.
        """
        if settings.resume and settings.overwrite:
            raise ValueError("train: --resume and --overwrite exclude each other; give one")
        if settings.resume:
            return self._resume(settings)
        if exists(self.checkpoint) and not settings.overwrite:
            raise FileExistsError(
                f"train: {self.path} already holds a run; add --resume to continue it, "
                "--overwrite to replace it, or choose another --name"
            )
        self.claim()
        self._check_files()
        return None

    def _resume(self, settings: RunSettings) -> dict[str, Any]:
        if not exists(self.checkpoint):
            raise FileNotFoundError(
                f"train: --resume found no {self.checkpoint}; leave --resume out to start the run"
            )
        self.claim()
        self._check_files()
        state = load_state(self.checkpoint, type(settings))
        changes = settings.changes(state["settings"])
        if changes:
            raise ValueError(
                f"train: cannot resume {self.path} with changed settings: {'; '.join(changes)}; "
                "give the old values, or start another run with --name"
            )
        progress = state["progress"]
        content = self._written(progress.get("metrics_bytes"), progress.get("metrics_checksum"))
        progress["metrics_checksum"] = zlib.crc32(content)
        # A run that was killed between the checkpoint of its best step and best.pt writes that again.
        if progress.get("best_step", -1) not in (-1, progress.get("step")):
            if not exists(self.best):
                raise FileNotFoundError(
                    f"{self.best} is missing, the weights that did best in validation; {MEND}"
                )
            load_state(self.best, type(settings))
        self._remove_partial()
        # Lines written after the checkpoint will be written again.
        os.truncate(self.metrics, len(content))
        return state

    def _written(self, size: object, checksum: object) -> bytes:
        """What a checkpoint says of metrics.json, once it is known to be there."""
        if not isinstance(size, int):
            raise ValueError(f"{self.checkpoint} does not say how long {self.metrics.name} was; {MEND}")
        with told(f"cannot read {self.metrics}", MEND):
            content = self.metrics.read_bytes()[:size]
        # Earlier versions kept no checksum.
        if len(content) < size or checksum not in (None, zlib.crc32(content)):
            raise ValueError(f"{self.metrics} is not as the run wrote it; {MEND}")
        return content

    def begin(self, settings: RunSettings, state: dict[str, Any]) -> None:
        """Write the first checkpoint of a new run, and delete an earlier run of this name.

        What needs room on the disk is written before anything is deleted: where that fails, the earlier
        run is still there, whole.
        """
        self.claim()
        self._check_files()
        self._remove_partial()
        files = {
            self.config: as_json(settings.record()),
            self.checkpoint: lambda file: torch.save(state, file),
        }
        staged: dict[Path, Path] = {}
        with told(f"cannot begin a run in {self.path}", _FOLDER):
            try:
                for path, write in files.items():
                    staged[path] = stage(path, write)
                self._delete()
                self.metrics.touch()
                for path, partial in staged.items():
                    partial.replace(path)
            finally:
                for partial in staged.values():
                    partial.unlink(missing_ok=True)
        sync_folder(self.path)
        self._remove_partial()

    def _check_files(self) -> None:
        """Raise OSError where a folder is in the place of one of the files."""
        for path in self.files_of_training:
            if path.is_dir():
                raise IsADirectoryError(
                    f"{path} is a folder where the run has a file; move it away, or choose another --name"
                )

    @property
    def files_of_training(self) -> list[Path]:
        """All but evaluations; the checkpoint first: without it, the rest is no run."""
        pictures = (self.curves, self.episodes, self.positions, self.tasks, self.contact_sheet)
        return [self.checkpoint, self.best, self.metrics, self.config, *pictures]

    def _evaluations(self) -> Iterator[Path]:
        """Numbers, tables and pictures of evaluations; what else is called so is not the run's."""
        for suffix in (".json", ".md", ".png"):
            for name in (f"evaluation{suffix}", f"evaluation-*{suffix}"):
                yield from (path for path in self.path.glob(name) if not path.is_dir())

    def _delete(self) -> None:
        if self.trackers.is_symlink() or self.trackers.exists():
            # In one step; `_remove_partial` does the rest, and of a link does not follow it.
            self.trackers.replace(self.trackers.with_suffix(PARTIAL))
        for file in (*self.files_of_training, *self._evaluations()):
            file.unlink(missing_ok=True)

    def _remove_partial(self) -> None:
        for left in self.path.glob("*" + PARTIAL):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()

    def best_or_last(self, kind: type[RunSettings]) -> dict[str, Any]:
        """The weights that did best in validation, or the last ones while there are none, of a run of the
        program with settings of this kind.
        """
        path = self.best_or_last_path
        if not exists(path):
            raise FileNotFoundError(
                f"found neither {self.best} nor {self.checkpoint}; give the folder of a run"
            )
        return load_state(path, kind)

    @property
    def best_or_last_path(self) -> Path:
        """Of the file that `best_or_last` reads."""
        return self.best if exists(self.best) else self.checkpoint

    def report(self, line: dict[str, Any], size: int = 0, checksum: int = 0) -> tuple[int, int]:
        """Append a line to metrics.json, of which so many bytes with this CRC-32 are written; the same of
        what is written then. The checkpoint knows nothing of half a line.
        """
        text = (json.dumps(line) + "\n").encode()
        with told(f"cannot write {self.metrics}", ROOM), self.metrics.open("ab") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        return size + len(text), zlib.crc32(text, checksum)

    def reports(self) -> list[dict[str, Any]]:
        """The lines of metrics.json; half a last line, of a program that was killed, is none."""
        return list(self._lines(self.metrics.read_bytes()))

    def _lines(self, content: bytes) -> Iterator[dict[str, Any]]:
        *lines, _ = content.split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                report = json.loads(line)
            except (ValueError, RecursionError):
                report = None
            if not isinstance(report, dict):
                raise ValueError(f"{self.metrics}: line {number} is no report of the run; {MEND}")
            yield report
