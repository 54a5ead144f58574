"""Opening a run's folder when several processes train together."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from .run_folder import RunFolder
from .settings import RunSettings


def open_run(folder: RunFolder, settings: RunSettings, accelerator: Accelerator) -> dict[str, Any] | None:
    """The checkpoint to continue from, on every process; only the main one touches the folder.

    Raises
    ------
    ValueError, OSError : as `RunFolder.open`, on every process.
    """
    opened: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            opened = [folder.open(settings)]
        except (ValueError, OSError) as error:
            if accelerator.num_processes == 1:
                raise
            opened = [error]  # or the others would wait for ever
    [state] = broadcast_object_list(opened)
    if isinstance(state, Exception):
        raise state
    return state
