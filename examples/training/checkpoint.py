"""Checkpoints of runs: what they say of themselves, and how they are looked at before they are used."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import torch

from .files import MEND, refused, replace_file
from .settings import RunSettings

_FORMAT = 3  # raise it when earlier ones can no longer be read. Those of 1 do not say so.


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
        raise ValueError(f"{path} is no checkpoint of a run: it has no settings; {MEND}")
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
    """`torch.save` that replaces the file in one step, or not at all, see `replace_file`."""
    replace_file(path, lambda file: torch.save(state, file))


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
        raise refused(f"cannot read {path}", error, MEND) from error
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is no checkpoint of a run; {MEND}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} is no checkpoint of a run; {MEND}")
    return state


_ZIP = b"PK\x03\x04"  # how archives begin


def _check_archive(file: IO[bytes], path: Path) -> None:
    """Raise ValueError if the file is no archive, or if the checksums in it, which PyTorch does not
    look at, are not those of its parts."""
    head = file.read(len(_ZIP))
    if not head:
        raise ValueError(f"{path} is empty; {MEND}")
    if head != _ZIP:
        raise ValueError(f"{path} is no checkpoint of a run; {MEND}")
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    # What `zipfile` raises for damaged headers: of sizes and places, of the compression, of encryption.
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or cut short; {MEND}") from error
    if damaged is not None:
        raise ValueError(f"{path} is damaged: the checksum of a part of it is wrong; {MEND}")
