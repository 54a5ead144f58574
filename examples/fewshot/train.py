"""Train a few-shot learner: ``python -m examples.fewshot.train --help``."""

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ..training.broadcasting import from_main, local_main_first
from ..training.command_line import run_program
from ..training.loop import State
from ..training.objective import Objective
from ..training.program import train
from ..training.run_folder import RunFolder
from ..training.schedule import cosine, published
from ..training.supervised import Supervised
from ..training.weights import check_weights
from .bootstrapping import Bootstrapping
from .continual import ContinualTraining
from .data.classes import Splits
from .data.lazy import with_rotations
from .domains import check_same_data, describe_data, load_domains
from .encoders import join_batch_norms
from .evaluate import Evaluation, evaluate
from .models import FewShotLearner, build_learner
from .objectives import EncoderWarmup, EpisodeTraining
from .plots import draw_curves
from .presets import DESCRIPTIONS, PRESETS, smoke
from .protocol import make_validation
from .published import added_parts
from .sequential import SequentialTraining
from .settings import Settings

ENCODER = "encoder"  # the phase in which it learns alone, and how its weights' names begin


class Training(Supervised[FewShotLearner]):
    """A learner of the settings, its encoder first where it has a warm-up.

    Of the data only the training and validation classes are looked at. What does not fit is refused here.
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
        self._validate = make_validation(s, [splits.validation for splits in domains])
        self.phases = ["sequences" if s.reads_several_tasks else "episodes"]
        if s.encoder_from is None and s.encoder_warmup_steps:
            self.phases.insert(0, ENCODER)
        elif s.encoder_from is not None and not s.resume:
            self._take_encoder(s.encoder_from)
        for phase in self.phases:
            self.check_share(self.make_objective(phase))  # all errors come before any work

    def _take_encoder(self, run: Path) -> None:
        """Copy weights and running statistics of the encoder that did best in another run."""
        prefix, encoder = f"{ENCODER}.", self.learner.encoder

        def read() -> dict[str, Tensor]:
            weights = RunFolder(run).best_or_last(Settings).get("learner", {})
            return {name.removeprefix(prefix): a for name, a in weights.items() if name.startswith(prefix)}

        theirs = from_main(self.accelerator, read)  # which alone reads folders of runs
        saved = {
            name: value.float() if value.is_floating_point() else value
            for name, value in encoder.state_dict().items()
        }
        try:
            encoder.load_state_dict(theirs)
        except RuntimeError as error:
            raise ValueError(
                f"train: --encoder-from {run} holds another encoder ({error}); give this run the same "
                "--encoder, --encoder-channels, --channels and --image-size"
            ) from error
        check_weights(theirs, saved, RunFolder(run).best_or_last_path)

    def make_objective(self, phase: str) -> Objective[FewShotLearner]:
        s = self.settings
        train = [splits.train for splits in self.domains]
        if phase == ENCODER:
            return EncoderWarmup(self.learner, train, s)
        if s.rotate_classes == "train":
            train[0] = with_rotations(train[0])
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


def make(settings: Settings, accelerator: Accelerator, state: State | None) -> Training:
    """The work of a run, once its data are there."""
    del state
    domains = local_main_first(accelerator, lambda: load_domains(settings))
    # What could not be drawn from the test classes is refused before any training.
    make_validation(settings, [splits.test for splits in domains])
    return Training(settings, domains, accelerator)


def finish(settings: Settings, training: Training) -> None:
    """Evaluate on the test classes."""
    evaluate(Evaluation(runs=(settings.folder,), threads=settings.threads), training.domains)


def main(settings: Settings) -> int:
    """Train, draw the curves, evaluate on the test classes; returns the exit status."""
    return train(settings, make, draw_curves, finish)


if __name__ == "__main__":
    run_program(main, PRESETS, DESCRIPTIONS, Settings(), smoke)
