"""What a phase of supervised training minimises, and the part of its batches that each process sees."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, nn
from torch.utils.data import Dataset

Batch = dict[str, Tensor]
L = TypeVar("L", bound=nn.Module)


@dataclass(frozen=True)
class Share:
    """The part of the training that one process sees.

    A step's joined batch is cut into ``accumulation`` rounds of one micro-batch per process, and is
    the same however it is cut.
    """

    rank: int = 0  # of this process
    processes: int = 1  # that train together, on all machines
    accumulation: int = 1  # micro-batches of each process that make up a step

    def size(self, units: int, what: str) -> int:
        """Of a micro-batch, when a step's joined batch holds ``units`` of ``what``."""
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
    """A phase of training, seen from the loop; a module, so that DistributedDataParallel can wrap it."""

    unit: str  # what a step's joined batch is counted in, and the progress bar shows

    def __init__(
        self,
        learner: L,
        steps: int,
        units_per_step: int,  # over all processes and micro-batches
        accumulation: int = 1,
        minutes: float | None = None,  # the phase's own limit of time, if it has one
    ) -> None:
        super().__init__()
        self.learner: L = learner
        self.head = nn.Module()  # what is trained beside the learner, and thrown away after the phase
        self.steps, self.minutes = steps, minutes
        self.units_per_step, self.accumulation = units_per_step, accumulation

    def prepare(self) -> None:
        """What is to be done once before the first step, when all weights are in their place."""

    @abstractmethod
    def dataset(self, share: Share) -> Dataset[Batch]:
        """The micro-batches of one process, tensors on the CPU."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars of a micro-batch; "loss" is minimised, and all are reported, as means."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Adam's groups, each with its peak learning rate; what is in none is not trained."""
