"""Several processes that stop together, and go by one clock."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from .interrupt import StopRequest


def agree(accelerator: Accelerator, stop: StopRequest, seconds: float) -> tuple[bool, float]:
    """Whether any process was asked to stop, and how many seconds the main process has counted."""
    if accelerator.num_processes == 1:
        return stop.made, seconds
    counted = seconds if accelerator.is_main_process else 0.0
    both = torch.tensor([float(stop.made), counted], dtype=torch.float64, device=accelerator.device)
    stops, seconds = accelerator.reduce(both, reduction="sum").tolist()
    return bool(stops), seconds
