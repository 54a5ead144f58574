"""The device, the processes and the trackers of a run, by Accelerate."""

import importlib.util
import uuid
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs, PartialState
from accelerate.utils import ProjectConfiguration, parse_flag_from_env

from .files import read_json, write_json
from .run_folder import RunFolder
from .settings import TrainingSettings

# The main process validates alone while the others wait.
_PATIENCE = timedelta(hours=4)


def make_accelerator(settings: TrainingSettings) -> Accelerator:
    """For this process, alone or one of those that `accelerate launch` or `torchrun` started."""
    for tracker in settings.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise ValueError(
                f"train: --trackers {tracker} needs the package {tracker}, which is not installed; "
                f"pip install {tracker}, or leave the tracker out"
            )
    folder = RunFolder(settings.folder)
    return Accelerator(
        cpu=_needs_cpu(),
        mixed_precision=settings.mixed_precision,
        log_with=list(settings.trackers) or None,
        project_config=ProjectConfiguration(str(folder.path), logging_dir=str(folder.trackers)),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
    )


def choose_device() -> torch.device:
    """Where a process that does not train computes: where it would train, or has trained."""
    return PartialState(cpu=_needs_cpu()).device


def _needs_cpu() -> bool:
    # Without CUDA Accelerate would choose Apple's GPU, which the operator has no kernels for.
    return not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")


def start_trackers(accelerator: Accelerator, settings: TrainingSettings, project: str, step: int) -> None:
    """Open the trackers; what they hold from after the checkpoint's ``step``, of a run that was cut off, is
    replaced. Weights & Biases replaces nothing: of a step it keeps what it heard first.
    """
    options: dict[str, dict[str, Any]] = {
        "tensorboard": {"purge_step": step + 1},  # the first step that is hidden
    }
    if accelerator.is_main_process and "wandb" in settings.trackers:
        options["wandb"] = {
            "name": settings.name,
            "config": settings.record(),
            "id": _wandb_id(RunFolder(settings.folder)),
            "resume": "allow",  # a run of this id goes on, or it begins
        }
    accelerator.init_trackers(project, init_kwargs=options)


def _wandb_id(folder: RunFolder) -> str:
    """What Weights & Biases knows the run by; it goes with the trackers' folder when a run begins anew."""
    path = folder.trackers / "wandb.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"id": uuid.uuid4().hex})
    found = read_json(path).get("id")
    if not isinstance(found, str):
        raise ValueError(f"{path} has no id of a run in Weights & Biases; remove it to begin another there")
    return found
