"""The training loop: phases, schedule, reports, validation, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tqdm import tqdm

from .data.classes import ImageClasses, Splits
from .data.episodes import EpisodeSampler
from .data.rotations import with_rotations
from .interrupt import StopRequest
from .models import FewShotLearner
from .objectives import EncoderWarmup, EpisodeTraining, Objective
from .protocol import score
from .run_folder import RunFolder, save
from .schedule import schedule
from .settings import Settings, build_learner

_PHASES: dict[str, Callable[[FewShotLearner, ImageClasses, Settings], Objective]] = {
    "encoder": EncoderWarmup,
    "episodes": EpisodeTraining,
}


@dataclass
class Progress:
    """Where a run stands; part of its checkpoint."""

    phase: str = "encoder"
    step: int = 0  # of the phase
    seconds: float = 0.0  # of training, all phases and sessions
    phase_began: float = 0.0  # in the same seconds
    validated: int = -1  # the phase's last validated step
    best_accuracy: float = -1.0
    metrics_bytes: int = 0  # of metrics.json
    # Sums since the last report.
    loss_sum: float = 0.0
    accuracy_sum: float = 0.0
    steps_summed: int = 0
    seconds_summed: float = 0.0


class Trainer:
    """Trains a learner; everything that decides the next step is in its checkpoint.

    Parameters
    ----------
    settings : of the run.
    splits : only the training and validation classes are looked at.
    folder : where checkpoints and metrics go.
    state : a checkpoint of the run to continue from.
    """

    def __init__(
        self,
        settings: Settings,
        splits: Splits,
        folder: RunFolder,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.settings, self.folder = settings, folder
        turned = with_rotations(splits.train) if settings.rotate_classes else splits.train
        self.classes = {"encoder": splits.train, "episodes": turned}
        torch.manual_seed(settings.seed)
        self.learner = build_learner(settings)
        self.validation = EpisodeSampler(
            splits.validation,
            n_way=settings.n_way,
            k_shot=settings.k_shot,
            n_query=settings.test_queries,
            seed=settings.seed,
            augment=settings.augment_evaluation,
        )
        self.progress = Progress() if state is None else Progress(**state["progress"])
        self._enter_phase()
        if state is not None:
            self.learner.load_state_dict(state["learner"])
            self.objective.head.load_state_dict(state["head"])
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["random"])

    def _enter_phase(self) -> None:
        s = self.settings
        phase = self.progress.phase
        self.objective: Objective = _PHASES[phase](self.learner, self.classes[phase], s)
        self.optimizer = torch.optim.Adam(
            self.objective.parameter_groups(), betas=(s.beta1, s.beta2), eps=s.epsilon
        )
        for group in self.optimizer.param_groups:
            group["peak"] = group["lr"]

    def train(self, stop: StopRequest) -> bool:
        """Train to the end of the budget; False if a stop was requested.

        A checkpoint is there from before the first step on, and is up to date on return.
        """
        self.save()
        while True:
            if not self._train_phase(stop):
                self.save()
                return False
            if self.progress.phase == "episodes":
                return not stop.made
            self.progress.phase, self.progress.step = "episodes", 0
            self.progress.phase_began = self.progress.seconds
            self._enter_phase()

    def _train_phase(self, stop: StopRequest) -> bool:
        """False if a stop was requested before the phase was over."""
        p, objective = self.progress, self.objective
        with tqdm(
            desc=p.phase,
            total=objective.steps * objective.units_per_step,
            initial=p.step * objective.units_per_step,
            unit=objective.unit,
            unit_scale=True,
        ) as bar:
            while True:
                over = self._share_done() >= 1
                self._validate_if_due(over)
                if over:
                    self._report()
                    return True
                if stop.made:
                    return False
                self._step()
                bar.update(objective.units_per_step)
                bar.set_postfix(
                    loss=f"{p.loss_sum / p.steps_summed:.3f}",
                    accuracy=f"{p.accuracy_sum / p.steps_summed:.1%}",
                    minutes=f"{p.seconds / 60:.1f}",
                )
                if p.step % self.settings.report_every == 0:
                    self._report()

    def _step(self) -> None:
        began = time.perf_counter()
        p = self.progress
        factor = schedule(self._share_done(), self.settings.lr_warmup, self.settings.lr_final)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.optimizer.zero_grad()
        loss, accuracy = self.objective.loss(p.step)
        loss.backward()
        if self.settings.clip:
            trained = [q for group in self.optimizer.param_groups for q in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, self.settings.clip)
        self.optimizer.step()
        p.step += 1
        p.loss_sum += loss.item()
        p.accuracy_sum += accuracy.item()
        p.steps_summed += 1
        seconds = time.perf_counter() - began
        p.seconds += seconds
        p.seconds_summed += seconds

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

    def _report(self) -> None:
        p = self.progress
        if p.steps_summed:
            units = p.steps_summed * self.objective.units_per_step
            p.metrics_bytes = self.folder.report(
                {
                    "split": "train",
                    "phase": p.phase,
                    "step": p.step,
                    "loss": p.loss_sum / p.steps_summed,
                    "accuracy": p.accuracy_sum / p.steps_summed,
                    "learning_rate": self.optimizer.param_groups[0]["lr"],
                    "seconds": p.seconds,
                    f"{self.objective.unit}s_per_second": units / p.seconds_summed,
                }
            )
            p.loss_sum = p.accuracy_sum = p.seconds_summed = 0.0
            p.steps_summed = 0
        self.save()

    def _validate_if_due(self, over: bool) -> None:
        """Score the validation episodes, and keep the weights if they are the best so far."""
        p, s = self.progress, self.settings
        due = over or p.step % s.validate_every == 0
        if p.phase != "episodes" or not due or p.validated == p.step:
            return
        began = time.perf_counter()
        scores = score(self.learner, self.validation, s.validation_episodes)
        accuracy, nearest = float(scores.learner.mean()), float(scores.nearest.mean())
        p.seconds += time.perf_counter() - began
        p.metrics_bytes = self.folder.report(
            {
                "split": "validation",
                "phase": p.phase,
                "step": p.step,
                "accuracy": accuracy,
                "nearest_neighbour": nearest,
                "seconds": p.seconds,
            }
        )
        p.validated = p.step
        if accuracy > p.best_accuracy:
            p.best_accuracy = accuracy
            self.save_best()
        self.save()
        tqdm.write(
            f"step {p.step:>6}  validation {accuracy:6.1%}  nearest neighbour {nearest:6.1%}  "
            f"({p.seconds / 60:.1f} min)"
        )

    def save(self) -> None:
        """Write checkpoint.pt, from which the run continues."""
        save(
            {
                "settings": self.settings.record(),
                "progress": asdict(self.progress),
                "learner": self.learner.state_dict(),
                "head": self.objective.head.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": torch.get_rng_state(),
            },
            self.folder.checkpoint,
        )

    def save_best(self) -> None:
        """Write best.pt, the weights that did best in validation."""
        save(
            {
                "settings": self.settings.record(),
                "progress": asdict(self.progress),
                "learner": self.learner.state_dict(),
            },
            self.folder.best,
        )
