"""Training by Adam on labelled batches, which several processes share and each cuts into parts."""

import contextlib
import signal
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .loop import State, Values, Work
from .objective import Batch, Objective, Share
from .settings import SupervisedSettings
from .weights import load_optimizer, load_weights

L = TypeVar("L", bound=nn.Module)


class Supervised(Work, Generic[L]):
    """A learner with fresh weights, the same on every process, that is trained phase by phase, each with an
    objective and an optimiser of its own.
    """

    settings: SupervisedSettings
    objective: Objective[L]

    def __init__(self, learner: L, settings: SupervisedSettings, accelerator: Accelerator) -> None:
        self.learner: L = learner
        self.settings, self.accelerator = settings, accelerator

    @abstractmethod
    def make_objective(self, phase: str) -> Objective[L]:
        """That of a phase."""

    @abstractmethod
    def rate(self, peak: float, step: int, share_done: float) -> float:
        """The learning rate of a step of this phase, of parameters with this peak rate."""

    def check_share(self, objective: Objective[L]) -> Share:
        """This process's share of an objective."""
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
        s = self.settings
        self.optimizer = torch.optim.Adam(groups, betas=(s.beta1, s.beta2), eps=s.epsilon)
        for group in self.optimizer.param_groups:
            group["peak"] = group["lr"]

    def trained(self) -> Sequence[Tensor]:
        return self._trained

    def begin(self, step: int) -> None:
        self.objective.prepare()
        parts = self.share.accumulation
        batches = DataLoader(
            self.objective.dataset(self.share),
            batch_size=None,
            sampler=range(step * parts + self.parts(step).start, self.objective.steps * parts),
            num_workers=self.settings.workers,
            pin_memory=self.accelerator.device.type == "cuda",  # then copies to it need not be waited for
            worker_init_fn=_leave_signals_to_the_trainer,
            generator=torch.Generator(),  # what the loader draws from it, and never needs
        )
        self.batches: Iterator[Batch] = iter(batches)

    def parts(self, step: int) -> range:
        """The micro-batches of a step, within its joined batch."""
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
        if self.settings.clip:
            self.accelerator.clip_grad_norm_(self._trained, self.settings.clip)
        self.optimizer.step()
        return sums

    def _move(self, value: Tensor) -> Tensor:
        return value.to(self.accelerator.device, non_blocking=True)

    def _seed(self, step: int, part: int) -> int:
        """Of dropout in this part of this step: no generator's state need be kept to resume."""
        where = (self.settings.seed, self.steps_before + step, part, self.share.rank)
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
        return {"head": self.objective.head.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: State, path: Path) -> None:
        load_weights(self.learner, state.get("learner"), path)
        load_weights(self.objective.head, state.get("head"), path)
        load_optimizer(self.optimizer, state.get("optimizer"), path)


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C reaches every process of the terminal; the trainer still wants its next batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
