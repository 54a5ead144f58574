"""The device, the processes and the trackers of a run, by Accelerate."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import ProjectConfiguration

# The main process validates alone while the others wait.
_PATIENCE = timedelta(hours=4)


class AcceleratedSettings(Protocol):
    """What is read of a run's settings here."""

    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def trackers(self) -> Sequence[str]: ...
    @property
    def mixed_precision(self) -> str: ...
    def record(self) -> dict[str, Any]: ...


def make_accelerator(settings: AcceleratedSettings) -> Accelerator:
    """For this process, alone or one of those that `accelerate launch` or `torchrun` started.

    Raises
    ------
    ValueError : for a tracker that is not installed.
    """
    for tracker in settings.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise ValueError(
                f"train: --trackers {tracker} needs the package {tracker}, which is not installed; "
                f"pip install {tracker}, or leave the tracker out"
            )
    folder = settings.folder
    return Accelerator(
        # Without CUDA Accelerate would choose Apple's GPU, which the operator has no kernels for.
        cpu=not torch.cuda.is_available(),
        mixed_precision=settings.mixed_precision,
        log_with=list(settings.trackers) or None,
        project_config=ProjectConfiguration(str(folder), logging_dir=str(folder / "trackers")),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
    )


def start_trackers(
    accelerator: Accelerator, settings: AcceleratedSettings, project: str, step: int
) -> None:
    """Open the trackers; what they hold from after ``step``, of a run that was cut off, is replaced.

    Parameters
    ----------
    step : of the checkpoint; what was reported at this step came before it, and is not reported again.
    """
    options: dict[str, dict[str, Any]] = {
        "tensorboard": {"purge_step": step + 1},  # the first step that is hidden
        "wandb": {"name": settings.name, "config": settings.record()},
    }
    accelerator.init_trackers(project, init_kwargs=options)
