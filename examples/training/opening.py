"""Opening a run's folder when several processes train together."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator

import srwm

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


def use_threads(wanted: int, state: dict[str, Any] | None = None) -> None:
    """Let PyTorch and srwm compute with as many threads as wanted; with 0, as many as the run had so far.

    The order in which sums are added up depends on their number. From here on it decides alone: a variable
    such as SRWM_NUM_THREADS has no part in a run that is continued elsewhere.

    Parameters
    ----------
    state : the checkpoint to continue from; None for a new run, which takes PyTorch's own choice.
    """
    recorded = 0 if state is None else state.get("threads", 0)  # format 1 does not know
    threads = wanted or recorded or torch.get_num_threads()
    torch.set_num_threads(threads)
    srwm.set_num_threads(threads)
