"""The files of a run, written so that an interruption at any moment leaves them usable."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from filelock import FileLock, Timeout

from .settings import RunSettings

_PARTIAL = ".part"  # of a file that is being written, and left behind by a program that was killed
_FORMAT = 3  # of checkpoints: raise it when earlier ones can no longer be read. Those of 1 do not say so.
_MEND = "put back a copy of it, or train anew with --overwrite"


class Written(NamedTuple):
    """How much of metrics.json was written: its size in bytes, and their CRC-32."""

    size: int = 0
    checksum: int = 0


class RunFolder:
    """``<runs>/<name>/``: paths, checkpoints and metrics.

    Attributes
    ----------
    config, metrics, checkpoint, best, evaluation, curves, episodes, positions, tasks, contact_sheet : paths
        of the files.
    trackers : folder of what TensorBoard reads, and of the run's id in Weights & Biases.
    lock : an empty file, locked by the program that trains the run or evaluates into its folder.
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
        self.tasks = path / "tasks.png"
        self.contact_sheet = path / "contact_sheet.png"
        self.trackers = path / "trackers"
        self.lock = path / ".lock"
        self._claim: FileLock | None = None

    def claim(self) -> None:
        """Keep other programs from training this run and from evaluating into its folder.

        The claim lasts as long as this object, or another one of this folder in this program. The system
        ends it with the program, however that ends: nothing is left to be cleared up after a kill.

        Raises
        ------
        BlockingIOError : if another program has claimed it.
        OSError : if the folder cannot be made or written.
        """
        if self._claim is not None:
            return
        if _exists(self.path) and not self.path.is_dir():
            raise NotADirectoryError(
                f"{self.path} is a file where the run's folder goes; move it away, or choose another --name"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.lock.resolve(), timeout=0, is_singleton=True, thread_local=False)
            lock.acquire()
        except Timeout:
            raise BlockingIOError(
                f"{self.path} is in use: another program trains this run or evaluates it; wait until that "
                "has ended, or choose another place"
            ) from None
        except OSError as error:
            raise _refused(f"cannot write to the folder {self.path}", error, _FOLDER) from error
        self._claim = lock

    def open(self, settings: RunSettings) -> dict[str, Any] | None:
        """Claim the run for training: the checkpoint to continue from, or None for a new run.

        Nothing of an earlier run is deleted yet; `begin` does that.

        Raises
        ------
        FileExistsError : if the folder holds a run that is neither resumed nor overwritten.
        FileNotFoundError : if there is nothing to resume.
        BlockingIOError : if another program has claimed it.
        OSError : if the folder cannot be made or written.
        ValueError : if both are asked for, the settings are not those of the run to resume, or one of its
            files is damaged.
        """
        if settings.resume and settings.overwrite:
            raise ValueError("train: --resume and --overwrite exclude each other; give one")
        if settings.resume:
            return self._resume(settings)
        if _exists(self.checkpoint) and not settings.overwrite:
            raise FileExistsError(
                f"train: {self.path} already holds a run; add --resume to continue it, "
                "--overwrite to replace it, or choose another --name"
            )
        self.claim()
        self._check_files()
        return None

    def _resume(self, settings: RunSettings) -> dict[str, Any]:
        if not _exists(self.checkpoint):
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
            if not _exists(self.best):
                raise FileNotFoundError(
                    f"{self.best} is missing, the weights that did best in validation; {_MEND}"
                )
            load_state(self.best, type(settings))
        self._remove_partial()
        # Lines written after the checkpoint will be written again.
        os.truncate(self.metrics, len(content))
        return state

    def _written(self, size: object, checksum: object) -> bytes:
        """What a checkpoint says of metrics.json, once it is known to be there."""
        if not isinstance(size, int):
            raise ValueError(f"{self.checkpoint} does not say how long {self.metrics.name} was; {_MEND}")
        try:
            with self.metrics.open("rb") as file:
                content = file.read(size)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.metrics} is missing; {_MEND}") from error
        except OSError as error:
            raise _refused(f"cannot read {self.metrics}", error, _MEND) from error
        if len(content) < size:
            raise ValueError(
                f"{self.metrics} has {len(content)} bytes, and had {size} at the last checkpoint; {_MEND}"
            )
        for _ in self._lines(content):  # raises for what is no report
            pass
        if checksum is not None and checksum != zlib.crc32(content):
            raise ValueError(f"{self.metrics} is not as the run wrote it; {_MEND}")
        return content

    def begin(self, settings: RunSettings, state: dict[str, Any]) -> None:
        """Write the first checkpoint of a new run, and delete an earlier run of this name.

        What needs room on the disk is written before anything is deleted: where that fails, the earlier
        run is still there, whole.

        Raises
        ------
        OSError : if the folder cannot be made or written.
        """
        self.claim()
        self._check_files()
        self._remove_partial()
        staged = []
        try:
            for path, write in (
                (self.config, _as_json(settings.record())),
                (self.checkpoint, lambda file: torch.save(state, file)),
            ):
                staged.append(_stage(path, write))
            self._delete()
            self.metrics.touch()
            for path, partial in zip((self.config, self.checkpoint), staged, strict=True):
                partial.replace(path)
        except OSError as error:
            raise _refused(f"cannot begin a run in {self.path}", error, _FOLDER) from error
        finally:
            for partial in staged:
                partial.unlink(missing_ok=True)
        _sync_folder(self.path)
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
            self.trackers.replace(self.trackers.with_suffix(_PARTIAL))
        for file in (*self.files_of_training, *self._evaluations()):
            file.unlink(missing_ok=True)

    def _remove_partial(self) -> None:
        for left in self.path.glob("*" + _PARTIAL):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()

    def best_or_last(self, kind: type[RunSettings]) -> dict[str, Any]:
        """The weights that did best in validation, or the last ones while there are none, of a run of the
        program with settings of this kind.

        Raises
        ------
        FileNotFoundError : if the folder holds no checkpoint.
        ValueError : if it is damaged, or one of another program or version.
        """
        path = self.best_or_last_path
        if not _exists(path):
            raise FileNotFoundError(
                f"found neither {self.best} nor {self.checkpoint}; give the folder of a run"
            )
        return load_state(path, kind)

    @property
    def best_or_last_path(self) -> Path:
        """Of the file that `best_or_last` reads."""
        return self.best if _exists(self.best) else self.checkpoint

    def report(self, line: dict[str, Any], after: Written) -> Written:
        """Append a line to metrics.json; how much of it is written then.

        Raises
        ------
        OSError : if it cannot be written; the checkpoint knows nothing of half a line.
        """
        text = (json.dumps(line) + "\n").encode()
        try:
            with self.metrics.open("ab") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _refused(f"cannot write {self.metrics}", error, _ROOM) from error
        return Written(after.size + len(text), zlib.crc32(text, after.checksum))

    def reports(self) -> list[dict[str, Any]]:
        """The lines of metrics.json; half a last line, of a program that was killed, is none.

        Raises
        ------
        ValueError : if another line is no report.
        """
        return list(self._lines(self.metrics.read_bytes()))

    def _lines(self, content: bytes) -> Iterator[dict[str, Any]]:
        *lines, _ = content.split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                report = json.loads(line)
            except (ValueError, RecursionError):
                report = None
            if not isinstance(report, dict):
                raise ValueError(f"{self.metrics}: line {number} is no report of the run; {_MEND}")
            yield report


_ROOM = "make room or mend the disk, then continue with --resume"
_FOLDER = "make room there, mend its permissions or choose another place"


def describe(settings: RunSettings) -> dict[str, Any]:
    """What every checkpoint begins with: which program wrote it, in what form, and how it was run."""
    return {
        "format": _FORMAT,
        "program": settings.program,
        "settings": settings.record(),
        "threads": torch.get_num_threads(),  # PyTorch's sums depend on it
    }


def load_state(path: Path, kind: type[RunSettings]) -> dict[str, Any]:
    """A checkpoint, once it is known to be whole and of the program and version that reads it.

    The settings of that program are of this kind.

    Raises
    ------
    OSError : if the file cannot be read.
    ValueError : if it is damaged, or no checkpoint, or one of another program or version.
    """
    state = load(path)
    recorded, progress = (state.get(part) for part in ("settings", "progress"))
    if not isinstance(recorded, dict) or not isinstance(progress, dict):
        raise ValueError(f"{path} is no checkpoint of a run: it has no settings; {_MEND}")
    format_ = state.get("format", 1)
    if format_ != _FORMAT:
        raise ValueError(
            f"{path} was written by another version of the program, in format {format_}; this one reads "
            f"format {_FORMAT} alone, use the version that wrote it, or train anew with --overwrite"
        )
    program = state.get("program")
    if program != kind.program:
        raise ValueError(f"{path} is of a run of {program}, not of {kind.program}; use that program")
    unknown, missing = kind.differences(recorded)
    if unknown or missing:
        what = f"a newer version, with {_some(unknown)}" if unknown else f"one without {_some(missing)}"
        raise ValueError(
            f"{path} was written by another version of {kind.program}: {what}; use the version that "
            "wrote it"
        )
    return state


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def save(state: dict[str, Any], path: Path) -> None:
    """`torch.save` that replaces the file in one step, or not at all, whatever happens to the program.

    Raises
    ------
    OSError : if it cannot be written; the earlier file is then still there.
    """
    _replace(path, lambda file: torch.save(state, file))


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote; only tensors and plain values are read, so no code of the file is run.

    Raises
    ------
    OSError : if the file cannot be read.
    ValueError : if it is no such file, or was changed since it was written.
    """
    try:
        with path.open("rb") as file:
            _check_archive(file, path)
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _refused(f"cannot read {path}", error, _MEND) from error
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is no checkpoint of a run; {_MEND}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} is no checkpoint of a run; {_MEND}")
    return state


_ZIP = b"PK\x03\x04"  # how archives begin


def _check_archive(file: IO[bytes], path: Path) -> None:
    """Raise ValueError if the file is no archive, or if the checksums in it, which PyTorch does not
    look at, are not those of its parts."""
    head = file.read(len(_ZIP))
    if not head:
        raise ValueError(f"{path} is empty; {_MEND}")
    if head != _ZIP:
        raise ValueError(f"{path} is no checkpoint of a run; {_MEND}")
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    # What `zipfile` raises for damaged headers: of sizes and places, of the compression, of encryption.
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or cut short; {_MEND}") from error
    if damaged is not None:
        raise ValueError(f"{path} is damaged: the checksum of a part of it is wrong; {_MEND}")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file in one step, or not at all.

    Raises
    ------
    OSError : if it cannot be written; an earlier file is then still there.
    """
    _replace(path, _as_json(value))


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote.

    Raises
    ------
    OSError : if the file cannot be read.
    ValueError : if it is something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise _refused(f"cannot read {path}", error, _MEND) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}; {_MEND}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds no settings or results; {_MEND}")
    return value


def _as_json(value: dict[str, Any]) -> Callable[[IO[bytes]], object]:
    return lambda file: file.write((json.dumps(value, indent=2) + "\n").encode())


def check_writable(path: Path) -> None:
    """Make the folder of a file, and raise OSError if the file could not be written there."""
    try:
        if path.is_dir():
            raise IsADirectoryError(f"cannot write {path}: it is a folder; choose another --output")
        path.parent.mkdir(parents=True, exist_ok=True)
        _stage(path, lambda file: None).unlink()
    except OSError as error:
        raise _refused(f"cannot write {path}", error, "choose another --output") from error


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    try:
        partial = _stage(path, write)
        try:
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise _refused(f"cannot write {path}", error, _ROOM) from error


def _stage(path: Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Write what is to replace a file, beside it; nothing is left if that fails."""
    partial = path.with_suffix(_PARTIAL)
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        partial.unlink(missing_ok=True)
        # `torch.save` hides what the disk said behind an error of its own.
        if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    return partial


def _exists(path: Path) -> bool:
    """Whether there is something of this name; `Path.exists` says no where it may not look."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _refused(f"cannot read {path}", error, "mend its folder's permissions") from error
    return True


def _refused(what: str, error: OSError, remedy: str) -> OSError:
    """The system's error as a sentence that says what to do; one that is a sentence stays."""
    if error.strerror is None:
        return error
    return type(error)(f"{what}: {error.strerror}; {remedy}")


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder, and not just the bytes of its files, survive a loss of power."""
    if os.name == "nt":
        return  # where folders cannot be opened
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
