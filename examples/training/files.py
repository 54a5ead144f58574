"""Files that are written whole or not at all, and errors of the disk that say what to do."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

PARTIAL = ".part"  # of a file that is being written, and left behind by a program that was killed
MEND = "put back a copy of it, or train anew with --overwrite"
ROOM = "make room or mend the disk, then continue with --resume"


def replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file in one step, or not at all."""
    with told(f"cannot write {path}", ROOM):
        partial = stage(path, write)
        try:
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(path.parent)


def stage(path: Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Write what is to replace a file, beside it; nothing is left if that fails."""
    partial = path.with_suffix(PARTIAL)
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


def sync_folder(folder: Path) -> None:
    """Make the names in a folder, and not just the bytes of its files, survive a loss of power."""
    if os.name == "nt":
        return  # where folders cannot be opened
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file, see `replace_file`."""
    replace_file(path, as_json(value))


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote."""
    with told(f"cannot read {path}", MEND):
        content = path.read_bytes()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}; {MEND}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds no settings or results; {MEND}")
    return value


def as_json(value: dict[str, Any]) -> Callable[[IO[bytes]], object]:
    return lambda file: file.write((json.dumps(value, indent=2) + "\n").encode())


def check_writable(path: Path) -> None:
    """Make the folder of a file, and raise OSError if the file could not be written there."""
    with told(f"cannot write {path}", "choose another --output"):
        if path.is_dir():
            raise IsADirectoryError(f"cannot write {path}: it is a folder; choose another --output")
        path.parent.mkdir(parents=True, exist_ok=True)
        stage(path, lambda file: None).unlink()


def exists(path: Path) -> bool:
    """Whether there is something of this name; `Path.exists` says no where it may not look."""
    with told(f"cannot read {path}", "mend its folder's permissions"):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


@contextmanager
def told(what: str, remedy: str) -> Iterator[None]:
    """Say of the system's errors what cannot be done and what to do; an error that is a sentence stays."""
    try:
        yield
    except OSError as error:
        if error.strerror is None:
            raise
        raise type(error)(f"{what}: {error.strerror}; {remedy}") from error
