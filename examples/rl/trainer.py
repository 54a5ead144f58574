"""The training loop: updates, schedule, reports, checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from ..training.accelerator import make_accelerator, start_trackers
from ..training.agreement import agree
from ..training.broadcasting import on_main
from ..training.clock import Clock
from ..training.interrupt import StopRequest
from ..training.run_folder import RunFolder, Written, describe, save
from ..training.weights import check_weights, load_optimizer, load_weights, read_progress
from .actors import Actor, ThreadedActor
from .agent import Agent
from .division import divide
from .environments.vector import VectorEnvironment
from .losses import actor_critic_losses
from .rollouts import Collector, Unroll
from .settings import Settings
from .tally import Tally

_SHOW_EVERY = 0.2  # seconds


def make_optimizer(agent: Agent, settings: Settings, learning_rate: float) -> torch.optim.Optimizer:
    """RMSProp with the settings' constants."""
    return torch.optim.RMSprop(
        agent.parameters(),
        lr=learning_rate,
        alpha=settings.alpha,
        eps=settings.epsilon,
        momentum=settings.momentum,
    )


@dataclass
class Progress:
    """Where a run stands; part of its checkpoint."""

    update: int = 0
    seconds: float = 0.0  # of training, all sessions
    metrics_bytes: int = 0  # of metrics.json
    metrics_checksum: int = 0
    updates_summed: int = 0  # since the last report, as is
    tally: dict[str, Any] = field(default_factory=lambda: asdict(Tally()))  # of all processes


class Trainer:
    """Trains an agent; everything that decides the next update is in its checkpoint.

    The exception are environments that cannot say where they stand: after a resumption they begin
    new episodes.

    Parameters
    ----------
    settings : of the run.
    agent : with fresh weights, the same on every process.
    environments : of this process, a vector for each block of its `Division`.
    folder : where checkpoints and metrics go; only the main process writes there.
    accelerator : of this process; by default a new one.

    Raises
    ------
    ValueError : if the processes cannot share an update.
    """

    def __init__(
        self,
        settings: Settings,
        agent: Agent,
        environments: Sequence[VectorEnvironment],
        folder: RunFolder,
        accelerator: Accelerator | None = None,
    ) -> None:
        s = self.settings = settings
        self.folder = folder
        self.accelerator = make_accelerator(settings) if accelerator is None else accelerator
        division = divide(s, self.accelerator.process_index, self.accelerator.num_processes)
        self.agent = agent.to(self.accelerator.device)
        acting = copy.deepcopy(self.agent).eval().requires_grad_(False)
        collector = Collector(
            environments,
            acting,
            unroll=s.unroll,
            seed=s.seed,
            rows=division.rows,
            autocast=self.accelerator.autocast,
        )
        self.actor: Actor = (ThreadedActor if s.overlap else Actor)(self.agent, collector)
        self.optimizer = make_optimizer(self.agent, s, s.learning_rate)
        self.progress, self.tally = Progress(), Tally()
        self._is_new = True  # nothing of it is on the disk
        self.shown_return: float | None = None

    def resume(self, state: dict[str, Any]) -> None:
        """Stand where a checkpoint of the run stood.

        Raises
        ------
        ValueError : if it is not one of this agent.
        """
        path = self.folder.checkpoint
        self.progress = read_progress(Progress, state["progress"], path)
        if self.accelerator.is_main_process:
            self.tally = Tally(**self.progress.tally)
        load_weights(self.agent, state.get("agent"), path)
        load_optimizer(self.optimizer, state.get("optimizer"), path)
        self._is_new = False
        actor = state.get("actor")
        if actor is None:
            return  # the run is over
        check_weights(actor["weights"], self.agent.state_dict(), path)
        of_processes = actor["environments"]
        shared_alike = len(of_processes) == self.accelerator.num_processes
        self.actor.resume(actor, of_processes[self.accelerator.process_index] if shared_alike else None)

    def train(self, stop: StopRequest) -> bool:
        """Train until all frames are played or the time is over; False if a stop was requested.

        A checkpoint is there from before the first update on, and is up to date on return. The
        environments are closed, whatever happens.
        """
        try:
            return self._train(stop)
        finally:
            self.actor.close()

    def _train(self, stop: StopRequest) -> bool:
        s, p = self.settings, self.progress
        self.clock = Clock()
        if self.actor.snapshot() is None and p.update < s.updates:
            self.actor.start(p.update)
        self.save()
        start_trackers(self.accelerator, s, "rl", self.frames)
        with tqdm(
            total=s.updates * s.frames_per_update,
            initial=self.frames,
            unit="frame",
            unit_scale=True,
            disable=not self.accelerator.is_main_process,
        ) as bar:
            while True:
                stopped, p.seconds = agree(self.accelerator, stop, p.seconds)
                if self._share_done() >= 1:
                    self._report()
                    return not stopped
                if stopped:
                    self.save()
                    return False
                self._update()
                bar.update(s.frames_per_update)
                self._show(bar)
                if p.update % s.report_every == 0:
                    self._report()

    @property
    def frames(self) -> int:
        """Steps of all environments that were learnt from."""
        return self.progress.update * self.settings.frames_per_update

    def _share_done(self) -> float:
        """Of the frames or of the time, whichever is further."""
        s = self.settings
        by_time = 0.0 if s.max_minutes is None else self.progress.seconds / (60 * s.max_minutes)
        return max(self.frames / s.frames, by_time)

    def _update(self) -> None:
        """Learn from an unroll, while the next one is collected."""
        s, p = self.settings, self.progress
        unroll = self.actor.finish()
        waiting = self.clock.lap()
        is_last = p.update + 1 == s.updates
        if s.overlap and not is_last:
            self.actor.start(p.update + 1)
        values = self._learn(unroll.to(self.accelerator.device))
        p.update += 1
        if not s.overlap and not is_last:
            self.actor.start(p.update)
        learning = self.clock.lap()
        p.seconds += waiting + learning
        p.updates_summed += 1
        self.tally.add(
            {
                **values,
                "environment_seconds": unroll.environment_seconds,
                "acting_seconds": unroll.acting_seconds,
                "learning_seconds": learning,
                "seconds": waiting + learning,
            }
        )
        self.tally.add_episodes(unroll.episodes)

    def _learn(self, unroll: Unroll) -> dict[str, float]:
        """Take a step of RMSProp; what it is measured by, sums over this process's unrolls.

        Raises
        ------
        ValueError : if the gradient is not finite; nothing is changed then.
        """
        s = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.zero_grad()
        self.agent.train()
        torch.manual_seed(self._seed())
        with self.accelerator.autocast():
            output, _ = self.agent(
                unroll.frames,
                unroll.rewards,
                unroll.dones,
                unroll.states,
                bptt=s.bptt,
                return_states=False,
            )
        precision = torch.promote_types(output.logits.dtype, torch.float32)
        losses = actor_critic_losses(
            output.logits.to(precision),
            output.values.to(precision),
            unroll.rewards,
            unroll.dones,
            unroll.actions,
            unroll.behaviour_logits.to(precision),
            s.loss_constants,
        )
        self.accelerator.backward(losses.total)
        self._sum_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.agent.parameters(), s.clip or math.inf)
        measured = {
            "loss": losses.total,
            "policy_loss": losses.policy,
            "baseline_loss": losses.baseline,
            "entropy": losses.entropy,
            "gradient_norm": norm,
        }
        numbers = torch.stack([value.detach().double() for value in measured.values()]).tolist()
        values = dict(zip(measured, numbers, strict=True))
        if not math.isfinite(values["gradient_norm"]):  # of the joined batch: all processes stop
            raise ValueError(
                f"train: update {self.progress.update + 1}: the gradient's norm must be finite, got "
                f"{values['gradient_norm']} (loss {values['loss']}); the run has diverged. Its last "
                "checkpoint is from before; begin anew with a smaller --learning-rate or --clip"
            )
        self.optimizer.step()
        return values

    def _sum_gradients(self) -> None:
        """Over the processes, as the losses are sums: then they are those of the joined batch.

        DistributedDataParallel would give their mean, and wait for parameters that get no gradient, as
        the published layers have some.
        """
        if self.accelerator.num_processes == 1:
            return
        gradients = [p.grad for p in self.agent.parameters() if p.grad is not None]
        joined = torch.cat([gradient.flatten() for gradient in gradients])
        joined = self.accelerator.reduce(joined, reduction="sum")
        for gradient, part in zip(
            gradients, joined.split([gradient.numel() for gradient in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def _learning_rate(self) -> float:
        s = self.settings
        return s.learning_rate * (1 - self._share_done() if s.schedule == "linear" else 1.0)

    def _seed(self) -> int:
        """Of dropout in this update: no generator's state need be kept to resume."""
        where = (self.settings.seed, self.progress.update, self.accelerator.process_index)
        return int(np.random.SeedSequence(where).generate_state(1, np.uint64)[0])

    def _show(self, bar: Any) -> None:
        if bar.disable or time.perf_counter() - self.clock.shown < _SHOW_EVERY:
            return
        self.clock.shown = time.perf_counter()
        self.shown_return = self.tally.of_episodes().get("episode_return", self.shown_return)
        if self.shown_return is not None:
            bar.set_postfix({"return": f"{self.shown_return:.2f}"})

    def _joined_tally(self) -> Tally:
        """That of all processes."""
        joined = Tally()
        for tally in gather_object([self.tally]):
            joined.merge(tally)
        return joined

    def _report(self) -> None:
        """A line of metrics.json, if there is anything new, and a checkpoint."""
        p = self.progress
        if p.updates_summed:
            self._write(self._line(self._joined_tally()))
            self.tally, p.updates_summed = Tally(), 0
        self.save()

    def _line(self, tally: Tally) -> dict[str, Any]:
        s, p, sums = self.settings, self.progress, tally.sums
        processes = self.accelerator.num_processes
        played = p.updates_summed * s.frames_per_update
        return {
            "split": "train",
            "update": p.update,
            "frames": self.frames,
            **tally.of_episodes(),
            **{name: sums[name] / p.updates_summed for name in ("loss", "policy_loss", "baseline_loss")},
            "entropy": sums["entropy"] / played,
            "gradient_norm": sums["gradient_norm"] / (processes * p.updates_summed),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": p.seconds,
            "frames_per_second": played * processes / sums["seconds"],
            **{
                f"{part}_share": sums[f"{part}_seconds"] / sums["seconds"]
                for part in ("environment", "acting", "learning")
            },
        }

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
            f"{line['split']}/{name}": value for name, value in line.items() if isinstance(value, float)
        }
        self.accelerator.log(values, step=self.frames)

    def save(self) -> None:
        """Write checkpoint.pt, from which the run continues.

        Raises
        ------
        OSError : if it cannot be written, on every process.
        """
        snapshot = self.actor.snapshot()
        if snapshot is not None and snapshot["number"] < self.progress.update:
            snapshot = None  # the last unroll was learnt from
        if snapshot is not None:
            snapshot = {**snapshot, "environments": gather_object([snapshot["environments"]])}
        self.progress.tally = asdict(self._joined_tally())

        def write() -> None:
            state = {
                **describe(self.settings),
                "progress": asdict(self.progress),
                "agent": self.agent.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "actor": snapshot,
            }
            if self._is_new:
                self.folder.begin(self.settings, state)
            else:
                save(state, self.folder.checkpoint)

        on_main(self.accelerator, write)
        self._is_new = False
