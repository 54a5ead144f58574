"""The training loop: phases, schedule, reports, validation, checkpoints."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from tqdm import tqdm

from ..training.accelerator import make_accelerator, start_trackers
from ..training.agreement import agree
from ..training.broadcasting import on_main
from ..training.clock import Clock
from ..training.interrupt import StopRequest
from ..training.run_folder import RunFolder, Written, describe, save
from ..training.weights import load_optimizer, load_weights, read_progress
from .batch_norm import join_batch_norms
from .bootstrapping import Bootstrapping
from .class_counts import check_training, check_warmup
from .data.classes import Splits
from .data.rotations import with_rotations
from .domains import check_same_data, describe_data
from .encoder_from import take_encoder
from .loader import micro_batches
from .objectives import Batch, EncoderWarmup, EpisodeTraining, Objective, Share
from .schedule import cosine, published
from .sequential import SequentialTraining
from .settings import Settings, build_learner
from .validation import make_validation

_SHOW_EVERY = 0.2  # seconds; on a GPU, reading a loss waits for it


@dataclass
class Progress:
    """Where a run stands; part of its checkpoint."""

    phase: str = "encoder"  # then that of the protocol
    step: int = 0  # of the phase
    steps_before: int = 0  # of earlier phases
    seconds: float = 0.0  # of training, all phases and sessions
    phase_began: float = 0.0  # in the same seconds
    validated: int = -1  # the phase's last validated step
    best_accuracy: float = -1.0
    best_step: int = -1
    worse_validations: int = 0  # since the best
    metrics_bytes: int = 0  # of metrics.json
    metrics_checksum: int = 0
    # Since the last report.
    sums: dict[str, float] = field(default_factory=dict)
    steps_summed: int = 0
    seconds_summed: float = 0.0


class Trainer:
    """Trains a learner; everything that decides the next step is in its checkpoint.

    Parameters
    ----------
    settings : of the run.
    domains : the data, of one data set or of two; only the training and validation classes are
        looked at.
    folder : where checkpoints and metrics go; only the main process writes there.
    accelerator : of this process; by default a new one.

    Raises
    ------
    ValueError : if the data do not fit the settings, or a step cannot be shared by the processes.
    FileNotFoundError : if there is no run to take the encoder from.
    """

    def __init__(
        self,
        settings: Settings,
        domains: Sequence[Splits],
        folder: RunFolder,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.settings, self.domains, self.folder = settings, domains, folder
        self.accelerator = make_accelerator(settings) if accelerator is None else accelerator
        torch.manual_seed(settings.seed)
        self.learner = build_learner(settings)
        if self.accelerator.num_processes > 1:
            join_batch_norms(self.learner)
        self.validate = make_validation(settings, domains)
        self.main_phase = "sequences" if settings.protocol == "sequential" else "episodes"
        phases = [self.main_phase]
        if settings.encoder_from is None and settings.encoder_warmup_steps:
            phases.insert(0, "encoder")
        elif settings.encoder_from is not None and not settings.resume:
            take_encoder(self.learner, settings.encoder_from, self.accelerator)
        for phase in phases[1:]:
            self._check(self._make_objective(phase))  # its errors too come before any work
        self.progress = Progress()
        self._is_new = True  # nothing of it is on the disk
        self.enter_phase(phases[0])

    def resume(self, state: dict[str, Any]) -> None:
        """Stand where a checkpoint of the run stood.

        Raises
        ------
        ValueError : if it is not one of this learner and these data.
        """
        path = self.folder.checkpoint
        self.progress = read_progress(Progress, state["progress"], path)
        check_same_data("train", state.get("data"), self.domains, path)
        self.enter_phase(self.progress.phase)
        load_weights(self.learner, state.get("learner"), path)
        load_weights(self.objective.head, state.get("head"), path)
        load_optimizer(self.optimizer, state.get("optimizer"), path)
        self._is_new = False

    def enter_phase(self, phase: str) -> None:
        """Make ready for the phase: its objective, and a new optimiser."""
        s = self.settings
        self.progress.phase = phase
        self.objective = self._make_objective(phase)
        self.share = self._check(self.objective)
        groups = self.objective.parameter_groups()
        self.trained = [parameter for group in groups for parameter in group["params"]]
        # DistributedDataParallel waits for the gradient of whatever could have one.
        self.objective.requires_grad_(False)
        for parameter in self.trained:
            parameter.requires_grad_(True)
        if self.accelerator.num_processes > 1:
            self.accelerator.free_memory()  # or that of the phase before would go on listening
        self.model = self.accelerator.prepare_model(self.objective)
        self.optimizer = torch.optim.Adam(groups, betas=(s.beta1, s.beta2), eps=s.epsilon)
        for group in self.optimizer.param_groups:
            group["peak"] = group["lr"]
        self.sums = {name: self._tensor(value) for name, value in self.progress.sums.items()}

    def _check(self, objective: Objective) -> Share:
        """This process's share of an objective, if it can be had."""
        share = Share(
            rank=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
            accumulation=objective.accumulation,
        )
        objective.dataset(share)
        return share

    def _make_objective(self, phase: str) -> Objective:
        s = self.settings
        train = [splits.train for splits in self.domains]
        if phase == "encoder":
            check_warmup(s, train)
            return EncoderWarmup(self.learner, train, s)
        if s.rotate_classes == "train":
            train[0] = with_rotations(train[0])
        check_training(s, train)
        if s.protocol == "sequential":
            return SequentialTraining(self.learner, train, s)
        kind = Bootstrapping if s.protocol == "bootstrapping" else EpisodeTraining
        return kind(self.learner, train[0], s)

    def train(self, stop: StopRequest) -> bool:
        """Train to the end of the budget; False if a stop was requested.

        A checkpoint is there from before the first step on, and is up to date on return.
        """
        p = self.progress
        if p.best_step == p.step:
            self.save_best()  # perhaps the run was killed between this checkpoint and that file
        self.save()
        start_trackers(self.accelerator, self.settings, "fewshot", p.steps_before + p.step)
        while True:
            over = self._train_phase(stop)
            stopped = self._agree(stop)
            if not over or p.phase != "encoder":
                if not over:
                    self.save()
                return over and not stopped
            p.steps_before, p.step, p.phase_began = p.step, 0, p.seconds
            self.enter_phase(self.main_phase)

    def _train_phase(self, stop: StopRequest) -> bool:
        """False if a stop was requested before the phase was over."""
        p, objective = self.progress, self.objective
        self._start_drawing()
        with tqdm(
            desc=p.phase,
            total=objective.steps * objective.units_per_step,
            initial=p.step * objective.units_per_step,
            unit=objective.unit,
            unit_scale=True,
            disable=not self.accelerator.is_main_process,
        ) as bar:
            while True:
                stopped = self._agree(stop)
                over = self._share_done() >= 1
                self._validate_if_due(over)
                if over or self._out_of_patience():
                    self._report()
                    return True
                if stopped:
                    return False
                self._step()
                bar.update(objective.units_per_step)
                self._show(bar)
                if p.step % self.settings.report_every == 0:
                    self._report()

    def _start_drawing(self) -> None:
        """From where the run stands."""
        self.clock = Clock()
        self.objective.prepare()
        batches = micro_batches(
            self.objective,
            self.share,
            self.progress.step * self.share.accumulation + self._parts().start,
            workers=self.settings.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        self.batches: Iterator[Batch] = iter(batches)

    def _parts(self) -> range:
        """The micro-batches of the next step, within its joined batch.

        The published loop steps after every micro-batch whose number, from 0, is a multiple of
        ``accumulation``: after the very first one, then after as many each time. Here the first step
        leaves its other parts out, so that the later ones still begin where a joined batch does.
        """
        parts = range(self.share.accumulation)
        is_first = self.progress.step == 0
        return parts[-1:] if is_first and self.settings.accumulation_rule == "published" else parts

    def _step(self) -> None:
        p = self.progress
        parts = self._parts()
        divisor = 1 if self.settings.accumulation_rule == "published" else len(parts)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(group["peak"])
        self.optimizer.zero_grad()
        for part in parts:
            is_last = part == parts[-1]
            batch = {name: self._move(value) for name, value in next(self.batches).items()}
            torch.manual_seed(self._seed(part))
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.model):
                values = self.model(batch)
                self.accelerator.backward(values["loss"] / divisor)
            for name, value in values.items():
                mean = value.detach().double() / len(parts)
                self.sums[name] = self.sums[name] + mean if name in self.sums else mean
        if self.settings.clip:
            self.accelerator.clip_grad_norm_(self.trained, self.settings.clip)
        self.optimizer.step()
        p.step += 1
        p.steps_summed += 1
        seconds = self.clock.lap()
        p.seconds += seconds
        p.seconds_summed += seconds

    def _move(self, value: Tensor) -> Tensor:
        return value.to(self.accelerator.device, non_blocking=True)

    def _tensor(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)

    def _seed(self, part: int) -> int:
        """Of dropout in this part of this step: no generator's state need be kept to resume."""
        p = self.progress
        where = (self.settings.seed, p.steps_before + p.step, part, self.share.rank)
        return int(np.random.SeedSequence(where).generate_state(1, np.uint64)[0])

    def _learning_rate(self, peak: float) -> float:
        s, p = self.settings, self.progress
        if p.phase == "encoder" or s.schedule == "cosine":
            return peak * cosine(self._share_done(), s.lr_warmup, s.lr_final)
        if s.schedule == "constant":
            return peak
        return peak / s.learning_rate * published(p.step + 1, s.d_model, s.warmup_steps)

    def _share_done(self) -> float:
        """Of the phase's steps or of its time, whichever is further."""
        p = self.progress
        shares = [p.step / self.objective.steps if self.objective.steps else 1.0]
        if self.objective.minutes is not None:
            shares.append((p.seconds - p.phase_began) / (60 * self.objective.minutes))
        if self.settings.max_minutes is not None:
            left = 60 * self.settings.max_minutes - p.phase_began
            shares.append((p.seconds - p.phase_began) / left if left > 0 else 1.0)
        return max(shares)

    def _agree(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop; and all go by the main process's clock."""
        stopped, self.progress.seconds = agree(self.accelerator, stop, self.progress.seconds)
        return stopped

    def _show(self, bar: Any) -> None:
        if bar.disable or time.perf_counter() - self.clock.shown < _SHOW_EVERY:
            return
        self.clock.shown = time.perf_counter()
        p = self.progress
        if p.steps_summed:
            means = {name: value.item() / p.steps_summed for name, value in self.sums.items()}
            bar.set_postfix(
                {name: f"{mean:.3f}" for name, mean in means.items()}, minutes=f"{p.seconds / 60:.1f}"
            )

    def _collect(self) -> None:
        """Sums over the steps, as means over the processes.

        Raises
        ------
        ValueError : if the run has diverged, on every process; no checkpoint has it then.
        """
        if not all(parameter.isfinite().all() for parameter in self.trained):
            raise ValueError(
                f"train: {self.progress.phase}: the weights must be finite, but are not after step "
                f"{self.progress.step}: the run has diverged. Its last checkpoint is from before; begin "
                "anew with a smaller --learning-rate, or with --clip"
            )
        names = sorted(self.sums)
        if not names:
            return
        joined = torch.stack([self.sums[name] for name in names])
        if self.accelerator.num_processes > 1:
            joined = self.accelerator.reduce(joined, reduction="mean")
        self.sums = dict(zip(names, joined, strict=True))
        self.progress.sums = {name: value.item() for name, value in self.sums.items()}

    def _report(self) -> None:
        p = self.progress
        if p.steps_summed:
            self._collect()
            units = p.steps_summed * self.objective.units_per_step
            self._write(
                {
                    "split": "train",
                    "phase": p.phase,
                    "step": p.step,
                    **{name: p.sums[name] / p.steps_summed for name in self.sums},
                    "learning_rate": self.optimizer.param_groups[0]["lr"],
                    "seconds": p.seconds,
                    f"{self.objective.unit}s_per_second": units / p.seconds_summed,
                }
            )
            self.sums, p.sums = {}, {}
            p.steps_summed, p.seconds_summed = 0, 0.0
        self.save()

    def _validate_if_due(self, over: bool) -> None:
        """Score the validation episodes, and keep the weights if they are the best so far."""
        p = self.progress
        due = over or p.step % self.settings.validate_every == 0
        if p.phase == "encoder" or not due or p.validated == p.step:
            return
        found: list[dict[str, float]] = [{}]
        if self.accelerator.is_main_process:
            found = [self.validate(self.learner)]
        [scores] = broadcast_object_list(found)
        p.seconds += self.clock.lap()
        self._write(
            {"split": "validation", "phase": p.phase, "step": p.step, **scores, "seconds": p.seconds}
        )
        p.validated = p.step
        is_best = scores["accuracy"] > p.best_accuracy
        p.worse_validations = 0 if is_best else p.worse_validations + 1
        if is_best:
            p.best_accuracy, p.best_step = scores["accuracy"], p.step
        self.save()
        if is_best:
            self.save_best()  # after the checkpoint: then no weights of a lost future are the best
        if self.accelerator.is_main_process:
            shown = "  ".join(f"{name.replace('_', ' ')} {value:6.1%}" for name, value in scores.items())
            tqdm.write(f"step {p.step:>6}  validation {shown}  ({p.seconds / 60:.1f} min)")

    def _out_of_patience(self) -> bool:
        patience = self.settings.early_stop
        return bool(patience) and self.progress.worse_validations >= patience

    def _write(self, line: dict[str, Any]) -> None:
        """Append to metrics.json and tell the trackers."""
        p = self.progress

        def write() -> None:
            before = Written(p.metrics_bytes, p.metrics_checksum)
            p.metrics_bytes, p.metrics_checksum = self.folder.report(line, before)

        on_main(self.accelerator, write)
        if not self.accelerator.is_main_process:
            return
        values = {
            f"{line['split']}/{line['phase']}/{name}": value
            for name, value in line.items()
            if isinstance(value, float)
        }
        self.accelerator.log(values, step=p.steps_before + p.step)

    def save(self) -> None:
        """Write checkpoint.pt, from which the run continues.

        Raises
        ------
        OSError : if it cannot be written, on every process.
        """
        self._collect()
        self._save(
            {"head": self.objective.head.state_dict(), "optimizer": self.optimizer.state_dict()},
            self.folder.checkpoint,
        )

    def save_best(self) -> None:
        """Write best.pt, the weights that did best in validation."""
        self._save({}, self.folder.best)

    def _save(self, more: dict[str, Any], path: Path) -> None:
        def write() -> None:
            state = {
                **describe(self.settings),
                "data": describe_data(self.domains),
                "progress": asdict(self.progress),
                "learner": self.learner.state_dict(),
                **more,
            }
            if self._is_new:
                self.folder.begin(self.settings, state)
            else:
                save(state, path)

        on_main(self.accelerator, write)
        self._is_new = False
