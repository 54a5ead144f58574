"""Opening a run's folder when several processes train together."""

from __future__ import annotations

from typing import Any

import torch
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


def use_threads(wanted: int, state: dict[str, Any] | None) -> None:
    """Let PyTorch compute with as many threads as wanted; with 0, as many as the run had so far.

    The order in which PyTorch adds up depends on their number.

    Parameters
    ----------
    state : the checkpoint to continue from; None for a new run, which leaves PyTorch its own choice.
    """
    recorded = 0 if state is None else state.get("threads", 0)  # format 1 does not know
    if wanted or recorded:
        torch.set_num_threads(wanted or recorded)
