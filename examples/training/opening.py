"""Opening a run's folder when several processes train together."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator

from .broadcasting import from_main
from .run_folder import RunFolder
from .settings import RunSettings


def open_run(folder: RunFolder, settings: RunSettings, accelerator: Accelerator) -> dict[str, Any] | None:
    """The checkpoint to continue from, on every process; only the main one touches the folder.

    Raises
    ------
    ValueError, OSError : as `RunFolder.open`, on every process.
    """
    return from_main(accelerator, lambda: folder.open(settings))
