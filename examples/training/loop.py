"""The training loop of every program: reports, validation, checkpoints, stopping and going on."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from tqdm import tqdm

from .accelerator import start_trackers
from .broadcasting import from_main
from .checkpoint import describe, save
from .clock import Clock
from .divergence import DivergenceError
from .interrupt import StopRequest
from .run_folder import RunFolder
from .settings import TrainingSettings

_SHOW_EVERY = 0.2  # seconds; on a GPU, reading a loss waits for it

Values = Mapping[str, float | Tensor]
State = dict[str, Any]  # of a checkpoint


@dataclass
class Progress:
    """Where a run stands; part of its checkpoint."""

    phase: str = ""
    step: int = 0  # of the phase
    steps_before: int = 0  # of earlier phases
    seconds: float = 0.0  # of training, all phases and sessions
    phase_began: float = 0.0  # in the same seconds
    validated: int = -1  # the phase's last validated step
    best_accuracy: float = -1.0  # or whatever `Work.score` is
    best_step: int = -1
    worse_validations: int = 0  # since the best
    is_solved: bool = False
    metrics_bytes: int = 0  # of metrics.json
    metrics_checksum: int = 0
    # Since the last report, over all processes.
    sums: dict[str, float] = field(default_factory=dict)
    steps_summed: int = 0
    seconds_summed: float = 0.0


class Work(ABC):
    """What a loop carries out: what a program trains, one step at a time."""

    project: ClassVar[str]  # what trackers call the program
    phases: Sequence[str] = ("training",)  # their names, in their order
    score: ClassVar[str] = (
        "accuracy"  # the one of the validation's scores that decides which weights are kept
    )
    unit: str  # what this phase is counted in
    units_per_step: int  # over all processes
    units: int  # of the whole phase; its last step may go beyond
    minutes: float | None = None  # the phase's own limit of time, if it has one
    validate_every: int = 0  # steps between two validations; 0: this phase has none
    early_stop: int = (
        0  # the phase ends after so many validations in a row that were not the best; 0: never so
    )

    def enter(self, phase: str, *, steps_before: int = 0) -> None:  # noqa: B027 - most have one phase
        """Make ready for a phase, after so many steps of earlier ones; the first is entered at once."""

    @abstractmethod
    def begin(self, step: int) -> None:
        """Start drawing what is learnt from, for this step of the phase; all weights are in their place."""

    @abstractmethod
    def step(self, step: int, share_done: float) -> Values:
        """Take a step of the phase, the first being 0; what it is measured by, which is summed up until the
        next report. Schedules follow the share done, 0 to 1, of the phase's units or time. Where it raises
        DivergenceError nothing is changed.
        """

    @abstractmethod
    def trained(self) -> Sequence[Tensor]:
        """The weights that must stay finite."""

    def at(self, step: int) -> dict[str, Any]:
        """What a line of metrics.json begins with."""
        return {"step": step}

    def place(self, step: int) -> int:
        """Where trackers put the line."""
        return step

    @abstractmethod
    def line(self, sums: Mapping[str, float], steps: int, seconds: float) -> dict[str, Any]:
        """What a line of metrics.json says, of sums over the steps since the last line, so many and in so
        many seconds, and over all processes."""

    def shown(self, sums: Mapping[str, float], steps: int) -> dict[str, str]:
        """What the progress bar says, of the same sums over this process alone."""
        return {name: f"{value / steps:.3f}" for name, value in sums.items()}

    def validate(self) -> dict[str, float]:
        """Scores of held-out data; called by the main process alone."""
        raise NotImplementedError  # only works with a `validate_every` are asked, and have one

    def is_solved(self, scores: Mapping[str, float]) -> bool:
        """Whether nothing is left to learn: the run ends."""
        return False

    @abstractmethod
    def weights(self) -> State:
        """What best.pt holds."""

    @abstractmethod
    def state(self, step: int) -> State:
        """What a checkpoint needs beside that; called by every process."""

    @abstractmethod
    def load(self, state: State, path: Path) -> None:
        """Stand where that checkpoint stood."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what was held, whatever has happened."""


class Loop:
    """Carries out a work; everything that decides the next step is in its checkpoint.

    Checkpoints and metrics go to the folder, where the main process alone writes.
    """

    def __init__(
        self, settings: TrainingSettings, work: Work, folder: RunFolder, accelerator: Accelerator
    ) -> None:
        self.settings, self.work, self.folder, self.accelerator = settings, work, folder, accelerator
        self.progress = Progress(phase=work.phases[0])
        self.sums: dict[str, Any] = {}  # since the last report; of tensors where values are
        self._is_new = True  # nothing of it is on the disk
        self.clock = Clock()
        work.enter(self.progress.phase)

    def resume(self, state: State) -> None:
        """Stand where a checkpoint of the run stood."""
        path = self.folder.checkpoint
        if unknown := state["progress"].keys() - asdict(Progress()).keys():
            raise ValueError(
                f"{path} was written by another version of the program, which counts "
                f"{', '.join(sorted(unknown))}; use that version"
            )
        p = self.progress = Progress(**state["progress"])
        if p.phase not in self.work.phases:
            raise ValueError(
                f"{path} stands in the phase {p.phase!r}; this run has {', '.join(self.work.phases)}; put "
                "back a copy of it, or train anew"
            )
        self.work.enter(p.phase, steps_before=p.steps_before)
        self.work.load(state, path)
        if self.accelerator.is_main_process:
            self.sums = dict(p.sums)
        self._is_new = False

    def train(self, stop: StopRequest) -> bool:
        """Train to the end of the budget; False if a stop was requested.

        A checkpoint is there from before the first step on, and is up to date on return.
        """
        p, work = self.progress, self.work
        if p.best_step == p.step:
            self.save_best()  # perhaps the run was killed between this checkpoint and that file
        self.save()
        start_trackers(self.accelerator, self.settings, work.project, work.place(p.step))
        while True:
            over = self._train_phase(stop)
            stopped = self._agree(stop)
            if not over:
                self.save()
            if not over or p.phase == work.phases[-1]:
                return over and not stopped
            p.steps_before, p.step, p.phase_began = p.steps_before + p.step, 0, p.seconds
            p.phase, p.validated = work.phases[work.phases.index(p.phase) + 1], -1
            work.enter(p.phase, steps_before=p.steps_before)

    def _train_phase(self, stop: StopRequest) -> bool:
        """False if a stop was requested before the phase was over."""
        p, work = self.progress, self.work
        self.clock.lap()  # what is made ready counts as training
        work.begin(p.step)
        with tqdm(
            desc=p.phase,
            total=work.units,
            initial=p.step * work.units_per_step,
            unit=work.unit,
            unit_scale=True,
            # None: no bar where the output is no terminal.
            disable=None if self.accelerator.is_main_process else True,
            mininterval=_SHOW_EVERY,
            miniters=1,
        ) as bar:
            while True:
                stopped = self._agree(stop)
                over = self.share_done() >= 1
                self._validate_if_due(over)
                if over or p.is_solved or 0 < work.early_stop <= p.worse_validations:
                    self._report()
                    return True
                if stopped:
                    return False
                self._step()
                if bar.update(work.units_per_step):  # it has been drawn
                    shown = work.shown(_as_numbers(self.sums), p.steps_summed)
                    bar.set_postfix(shown, minutes=f"{p.seconds / 60:.1f}")
                if p.step % self.settings.report_every == 0:
                    self._report()

    def share_done(self) -> float:
        """Of the phase's units or of its time, whichever is further."""
        p, work, limit = self.progress, self.work, self.settings.max_minutes
        shares = [p.step * work.units_per_step / work.units if work.units else 1.0]
        if work.minutes is not None:
            shares.append((p.seconds - p.phase_began) / (60 * work.minutes))
        if limit is not None:
            left = 60 * limit - p.phase_began
            shares.append((p.seconds - p.phase_began) / left if left > 0 else 1.0)
        return max(shares)

    def _step(self) -> None:
        p = self.progress
        for name, value in self.work.step(p.step, self.share_done()).items():
            value = value.detach().double() if isinstance(value, Tensor) else value
            self.sums[name] = self.sums.get(name, 0) + value
        p.step += 1
        p.steps_summed += 1
        seconds = self.clock.lap()
        p.seconds += seconds
        p.seconds_summed += seconds

    def _agree(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop; and all go by the main process's clock."""
        accelerator = self.accelerator
        if accelerator.num_processes == 1:
            return stop.made
        counted = self.progress.seconds if accelerator.is_main_process else 0.0
        both = torch.tensor([float(stop.made), counted], dtype=torch.float64, device=accelerator.device)
        stops, self.progress.seconds = accelerator.reduce(both, reduction="sum").tolist()
        return bool(stops)

    def _collect(self) -> None:
        """Add up the sums of all processes. Every one raises DivergenceError if a weight is no number, and
        no checkpoint has it then.
        """
        p = self.progress
        if not all(weights.isfinite().all() for weights in self.work.trained()):
            raise DivergenceError(
                f"train: {p.phase}: the weights must be finite, but are not after step {p.step}: the run "
                "has diverged. Its last checkpoint is from before; begin anew with a smaller "
                "--learning-rate, or with --clip"
            )
        total: Counter[str] = Counter()
        for sums in gather_object([_as_numbers(self.sums)]):
            total.update(sums)
        p.sums = dict(total)

    def _report(self) -> None:
        """A line of metrics.json, if there is anything new, and a checkpoint."""
        p = self.progress
        if p.steps_summed:
            self._collect()
            said = self.work.line(p.sums, p.steps_summed, p.seconds_summed)
            self._write({"split": "train", **self.work.at(p.step), **said, "seconds": p.seconds})
            self.sums, p.sums = {}, {}
            p.steps_summed, p.seconds_summed = 0, 0.0
        self.save()

    def _validate_if_due(self, over: bool) -> None:
        """Score the held-out data, and keep the weights if they are the best so far."""
        p, work = self.progress, self.work
        if not work.validate_every or p.validated == p.step:
            return
        if not over and p.step % work.validate_every:
            return
        found: list[dict[str, float]] = [{}]
        if self.accelerator.is_main_process:
            found = [work.validate()]
        [scores] = broadcast_object_list(found)
        p.seconds += self.clock.lap()
        self._write({"split": "validation", **work.at(p.step), **scores, "seconds": p.seconds})
        p.validated, p.is_solved = p.step, work.is_solved(scores)
        is_best = scores[work.score] > p.best_accuracy
        p.worse_validations = 0 if is_best else p.worse_validations + 1
        if is_best:
            p.best_accuracy, p.best_step = scores[work.score], p.step
        self.save()
        if is_best:
            self.save_best()  # after the checkpoint: then no weights of a lost future are the best
        if self.accelerator.is_main_process:
            shown = "  ".join(f"{name.replace('_', ' ')} {value:6.1%}" for name, value in scores.items())
            tqdm.write(f"step {p.step:>6}  validation {shown}  ({p.seconds / 60:.1f} min)")

    def _write(self, line: dict[str, Any]) -> None:
        """Append to metrics.json and tell the trackers."""
        p = self.progress

        def write() -> None:
            p.metrics_bytes, p.metrics_checksum = self.folder.report(
                line, p.metrics_bytes, p.metrics_checksum
            )

        from_main(self.accelerator, write)
        if not self.accelerator.is_main_process:
            return
        head = "/".join(line[key] for key in ("split", "phase") if key in line)
        values = {f"{head}/{name}": value for name, value in line.items() if isinstance(value, float)}
        self.accelerator.log(values, step=self.work.place(p.step))

    def save(self) -> None:
        """Write checkpoint.pt, from which the run continues."""
        self._collect()
        self._save(self.work.state(self.progress.step), self.folder.checkpoint)

    def save_best(self) -> None:
        """Write best.pt, the weights that did best in validation."""
        self._save({}, self.folder.best)

    def _save(self, more: State, path: Path) -> None:
        def write() -> None:
            state = {
                **describe(self.settings),
                "progress": asdict(self.progress),
                **self.work.weights(),
                **more,
            }
            if self._is_new:
                self.folder.begin(self.settings, state)
            else:
                save(state, path)

        from_main(self.accelerator, write)
        self._is_new = False


def _as_numbers(sums: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Plain ones; of a tensor on a GPU this waits until it is known."""
    return {name: float(value) for name, value in sums.items()}
