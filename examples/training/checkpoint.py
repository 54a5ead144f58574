"""Checkpoints of runs: what they say of themselves, and how they are looked at before they are used."""

import io
import pickle
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from .files import MEND, replace_file, told
from .settings import RunSettings

# What `zipfile` raises for damaged headers (of sizes and places, of the compression, of encryption), and
# PyTorch for what is in the archive.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError),
    pickle.UnpicklingError,
)

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
    try:
        kind.from_record(recorded)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return state


def save(state: dict[str, Any], path: Path) -> None:
    """`torch.save` that replaces the file in one step, or not at all, see `replace_file`."""
    replace_file(path, lambda file: torch.save(state, file))


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote; only tensors and plain values are read, so no code of the file is run."""
    with told(f"cannot read {path}", MEND):
        file = io.BytesIO(path.read_bytes())
    state = None
    with suppress(*_DAMAGE):
        # PyTorch does not look at the checksums of the archive's parts.
        if zipfile.ZipFile(file).testzip() is None:
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError(f"{path} is damaged, cut short or no checkpoint of a run; {MEND}")
    return state
