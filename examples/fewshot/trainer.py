"""How a few-shot learner is trained: its phases, their objectives and schedules, and the validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from ..training.loop import State
from ..training.objective import Objective
from ..training.schedule import cosine, published
from ..training.supervised import Supervised
from .batch_norm import join_batch_norms
from .bootstrapping import Bootstrapping
from .class_counts import check_training, check_warmup
from .continual import ContinualTraining
from .data.classes import Splits
from .data.lazy import with_rotations
from .domains import check_same_data, describe_data
from .encoder_from import take_encoder
from .models import FewShotLearner, build_learner
from .objectives import EncoderWarmup, EpisodeTraining
from .published import added_parts
from .sequential import SequentialTraining
from .settings import Settings
from .validation import make_validation

ENCODER = "encoder"  # the phase in which it learns alone


class Training(Supervised[FewShotLearner]):
    """A learner of the settings, its encoder first where it has a warm-up.

    Of the data, of one data set or of several, only the training and validation classes are looked at.

    Raises
    ------
    ValueError : if the data do not fit the settings, or a step cannot be shared by the processes.
    FileNotFoundError : if there is no run to take the encoder from.
    """

    project = "fewshot"
    settings: Settings

    def __init__(self, settings: Settings, domains: Sequence[Splits], accelerator: Accelerator) -> None:
        s, self.domains = settings, domains
        torch.manual_seed(s.seed)
        learner = build_learner(s)
        super().__init__(learner, s, accelerator)
        if accelerator.num_processes > 1:
            join_batch_norms(learner)
        self._validate = make_validation(s, domains)
        self.phases = ["sequences" if s.reads_several_tasks else "episodes"]
        if s.encoder_from is None and s.encoder_warmup_steps:
            self.phases.insert(0, ENCODER)
        elif s.encoder_from is not None and not s.resume:
            take_encoder(learner, s.encoder_from, accelerator)
        for phase in self.phases:
            self.check_share(self.make_objective(phase))  # all errors come before any work

    def make_objective(self, phase: str) -> Objective[FewShotLearner]:
        s = self.settings
        train = [splits.train for splits in self.domains]
        if phase == ENCODER:
            check_warmup(s, train)
            return EncoderWarmup(self.learner, train, s)
        if s.rotate_classes == "train":
            train[0] = with_rotations(train[0])
        check_training(s, train)
        if s.reads_several_tasks:
            of_tasks = SequentialTraining if s.protocol == "sequential" else ContinualTraining
            return of_tasks(self.learner, train, s)
        kind = Bootstrapping if s.protocol == "bootstrapping" else EpisodeTraining
        return kind(self.learner, train[0], s)

    def rate(self, peak: float, step: int, share_done: float) -> float:
        s = self.settings
        if self.phase == ENCODER or s.schedule == "cosine":
            return peak * cosine(share_done, s.lr_warmup, s.lr_final)
        if s.schedule == "constant":
            return peak
        return peak / s.learning_rate * published(step + 1, s.d_model, s.warmup_steps)

    def enter(self, phase: str, *, steps_before: int = 0) -> None:
        super().enter(phase, steps_before=steps_before)
        self.phase = phase
        self.validate_every = 0 if phase == ENCODER else self.settings.validate_every
        self.early_stop = self.settings.early_stop

    def parts(self, step: int) -> range:
        parts = super().parts(step)
        return added_parts(step, parts) if self.settings.accumulation_rule == "published" else parts

    def divisor(self, parts: range) -> int:
        return 1 if self.settings.accumulation_rule == "published" else super().divisor(parts)

    def at(self, step: int) -> dict[str, object]:
        return {"phase": self.phase, "step": step}

    def validate(self) -> dict[str, float]:
        return self._validate(self.learner)

    def weights(self) -> State:
        return {"data": describe_data(self.domains), **super().weights()}

    def load(self, state: State, path: Path) -> None:
        check_same_data("train", state.get("data"), self.domains, path)
        super().load(state, path)
