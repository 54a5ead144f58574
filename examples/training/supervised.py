"""Training by Adam on labelled batches, which several processes share and each cuts into parts."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .loop import State, Values, Work
from .objective import Batch, Objective, Share, micro_batches
from .weights import load_optimizer, load_weights

L = TypeVar("L", bound=nn.Module)


@dataclass(frozen=True)
class Adam:
    """Adam's constants."""

    beta1: float = 0.9  # decay of the mean of the gradient
    beta2: float = 0.999  # and of its square
    epsilon: float = 1e-8  # addend to the denominator
    clip: float = 0.0  # largest norm of the gradient; 0: any


class Supervised(Work, Generic[L]):
    """A learner, trained phase by phase, each with an objective and an optimiser of its own.

    Parameters
    ----------
    learner : what is trained, with fresh weights, the same on every process.
    accelerator : of this process.
    adam : its constants.
    seed : of dropout.
    workers : processes that draw batches ahead, for each one that trains.
    """

    objective: Objective[L]

    def __init__(
        self, learner: L, accelerator: Accelerator, adam: Adam, *, seed: int, workers: int
    ) -> None:
        self.learner: L = learner
        self.accelerator, self.adam = accelerator, adam
        self.seed, self.workers = seed, workers

    @abstractmethod
    def make_objective(self, phase: str) -> Objective[L]:
        """That of a phase.

        Raises
        ------
        ValueError : if there is too little to draw from.
        """

    @abstractmethod
    def rate(self, peak: float, step: int, share_done: float) -> float:
        """The learning rate of a step of this phase, of parameters with this peak rate."""

    def check_share(self, objective: Objective[L]) -> Share:
        """This process's share of an objective.

        Raises
        ------
        ValueError : if it cannot be had.
        """
        share = Share(
            rank=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
            accumulation=objective.accumulation,
        )
        objective.dataset(share)
        return share

    def enter(self, phase: str, *, steps_before: int = 0) -> None:
        self.steps_before = steps_before
        objective = self.objective = self.make_objective(phase)
        self.share = self.check_share(objective)
        self.unit, self.units_per_step = objective.unit, objective.units_per_step
        self.units, self.minutes = objective.steps * objective.units_per_step, objective.minutes
        groups = objective.parameter_groups()
        self._trained: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
        # DistributedDataParallel waits for the gradient of whatever could have one.
        objective.requires_grad_(False)
        for parameter in self._trained:
            parameter.requires_grad_(True)
        if self.accelerator.num_processes > 1:
            self.accelerator.free_memory()  # or that of the phase before would go on listening
        self.model = self.accelerator.prepare_model(objective)
        a = self.adam
        self.optimizer = torch.optim.Adam(groups, betas=(a.beta1, a.beta2), eps=a.epsilon)
        for group in self.optimizer.param_groups:
            group["peak"] = group["lr"]

    def trained(self) -> Sequence[Tensor]:
        return self._trained

    def begin(self, step: int) -> None:
        self.objective.prepare()
        batches = micro_batches(
            self.objective,
            self.share,
            step * self.share.accumulation + self.parts(step).start,
            workers=self.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        self.batches: Iterator[Batch] = iter(batches)

    def parts(self, step: int) -> range:
        """The micro-batches of a step, within its joined batch."""
        del step
        return range(self.share.accumulation)

    def divisor(self, parts: range) -> int:
        """Of the sum of the parts' losses."""
        return len(parts)

    def step(self, step: int, share_done: float) -> Values:
        parts = self.parts(step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(group["peak"], step, share_done)
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for part in parts:
            is_last = part == parts[-1]
            batch = {name: self._move(value) for name, value in next(self.batches).items()}
            torch.manual_seed(self._seed(step, part))
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.model):
                values = self.model(batch)
                self.accelerator.backward(values["loss"] / self.divisor(parts))
            for name, value in values.items():
                share = value.detach().double() / (len(parts) * self.share.processes)  # of the mean
                sums[name] = sums[name] + share if name in sums else share
        if self.adam.clip:
            self.accelerator.clip_grad_norm_(self._trained, self.adam.clip)
        self.optimizer.step()
        return sums

    def _move(self, value: Tensor) -> Tensor:
        return value.to(self.accelerator.device, non_blocking=True)

    def _seed(self, step: int, part: int) -> int:
        """Of dropout in this part of this step: no generator's state need be kept to resume."""
        where = (self.seed, self.steps_before + step, part, self.share.rank)
        return int(np.random.SeedSequence(where).generate_state(1, np.uint64)[0])

    def place(self, step: int) -> int:
        return self.steps_before + step

    def line(self, sums: Mapping[str, float], steps: int, seconds: float) -> dict[str, Any]:
        return {
            **{name: value / steps for name, value in sums.items()},
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            f"{self.objective.unit}s_per_second": steps * self.units_per_step / seconds,
        }

    def shown(self, sums: Mapping[str, float], steps: int) -> dict[str, str]:
        mine = {name: value * self.share.processes for name, value in sums.items()}
        return super().shown(mine, steps)

    def weights(self) -> State:
        return {"learner": self.learner.state_dict()}

    def state(self, step: int) -> State:
        del step
        return {"head": self.objective.head.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: State, path: Path) -> None:
        load_weights(self.learner, state.get("learner"), path)
        load_weights(self.objective.head, state.get("head"), path)
        load_optimizer(self.optimizer, state.get("optimizer"), path)
