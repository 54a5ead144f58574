"""A process's micro-batches in their order, drawn ahead of the training if there are workers."""

from __future__ import annotations

import signal

import torch
from torch.utils.data import DataLoader

from .objectives import Batch, Objective, Share


def micro_batches(
    objective: Objective, share: Share, first: int, *, workers: int, pin_memory: bool
) -> DataLoader[Batch]:
    """The micro-batches from number ``first`` to the last of the phase.

    Parameters
    ----------
    objective : its dataset is read, and its number of steps.
    share : of this process.
    first : where the run stands.
    workers : processes that draw them; 0 draws them where they are asked for.
    pin_memory : for GPUs, so that copies need not be waited for.

    Raises
    ------
    ValueError : if a step's joined batch cannot be shared evenly.
    """
    return DataLoader(
        objective.dataset(share),
        batch_size=None,
        sampler=range(first, objective.steps * share.accumulation),
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_the_trainer,
        generator=torch.Generator(),  # what the loader draws from it, and never needs
    )


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C reaches every process of the terminal; the trainer still wants its next batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
