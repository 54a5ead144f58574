"""What a phase of supervised training minimises, and the part of its batches that each process sees."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

Batch = dict[str, Tensor]
L = TypeVar("L", bound=nn.Module)


@dataclass(frozen=True)
class Share:
    """The part of the training that one process sees.

    A step's joined batch is cut into ``accumulation`` rounds of one micro-batch per process, and is
    the same however it is cut.

    Attributes
    ----------
    rank : of this process, from 0.
    processes : how many train together, on all machines.
    accumulation : micro-batches of each process that make up a step.
    """

    rank: int = 0
    processes: int = 1
    accumulation: int = 1

    def size(self, units: int, what: str) -> int:
        """Of a micro-batch, when a step's joined batch holds ``units`` of ``what``.

        Raises
        ------
        ValueError : if they cannot be shared evenly.
        """
        parts = self.processes * self.accumulation
        if units % parts:
            raise ValueError(
                f"train: {what} must be a multiple of processes * accumulation = "
                f"{self.processes} * {self.accumulation}, got {units}"
            )
        return units // parts

    def first(self, index: int, size: int) -> int:
        """The first unit of this process's micro-batch ``index``, counted from the start of the phase."""
        return (index * self.processes + self.rank) * size


class MicroBatches(Dataset[Batch]):
    """Item i is the i-th micro-batch of one process, and a function of i alone.

    ``draw(first, size)`` gives the micro-batch of these units; it is picklable, for the loader's processes.
    """

    def __init__(self, draw: Callable[[int, int], Batch], share: Share, size: int) -> None:
        self.draw, self.share, self.size = draw, share, size

    def __getitem__(self, index: int) -> Batch:
        return self.draw(self.share.first(index, self.size), self.size)


class Objective(nn.Module, ABC, Generic[L]):
    """A phase of training, seen from the loop; a module, so that DistributedDataParallel can wrap it.

    Parameters
    ----------
    learner : what is trained.
    steps : optimiser steps of the phase.
    units_per_step : size of the joined batch of a step, over all processes and micro-batches.
    accumulation : micro-batches of each process that make up a step.
    minutes : the phase's own limit of time, if it has one.

    Attributes
    ----------
    unit : what the joined batch is counted in, and the progress bar shows.
    head : what is trained beside the learner, and thrown away after the phase.
    """

    unit: str

    def __init__(
        self,
        learner: L,
        *,
        steps: int,
        units_per_step: int,
        accumulation: int = 1,
        minutes: float | None = None,
    ) -> None:
        super().__init__()
        self.learner: L = learner
        self.head = nn.Module()
        self.steps, self.minutes = steps, minutes
        self.units_per_step, self.accumulation = units_per_step, accumulation

    def prepare(self) -> None:
        """What is to be done once before the first step, when all weights are in their place."""

    @abstractmethod
    def dataset(self, share: Share) -> Dataset[Batch]:
        """The micro-batches of one process, tensors on the CPU.

        Raises
        ------
        ValueError : if a step's joined batch cannot be shared evenly.
        """

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars of a micro-batch; "loss" is minimised, and all are reported, as means."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Adam's groups, each with its peak learning rate; what is in none is not trained."""


def micro_batches(
    objective: Objective[Any], share: Share, first: int, *, workers: int, pin_memory: bool
) -> DataLoader[Batch]:
    """The micro-batches from number ``first`` to the last of the phase, drawn ahead if there are workers.

    With ``pin_memory`` copies to a GPU need not be waited for. Raises as `Objective.dataset`.
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
