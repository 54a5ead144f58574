"""A training step, or a whole tiny run, by one process or by one of several; `launch` starts those.

In double precision, in which one process and several must agree to the last digits.
"""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which a run imports late; once for all
import torch.distributed.tensor

from examples.fewshot import train
from examples.fewshot.data.classes import Splits
from examples.fewshot.interrupt import StopRequest
from examples.fewshot.objectives import EpisodeTraining
from examples.fewshot.run_folder import RunFolder
from examples.fewshot.settings import Settings, load_settings
from examples.fewshot.trainer import Trainer
from tests.examples.fewshot.conftest import patterns

ROOT = Path(__file__).parents[3]
SPLITS = Splits(train=patterns(12, 6, 0), validation=patterns(8, 6, 1), test=patterns(8, 6, 2))


class DoubleTrainer(Trainer):
    def _move(self, value: torch.Tensor) -> torch.Tensor:
        return super()._move(value.double() if value.is_floating_point() else value)


def trainer(settings: Settings) -> DoubleTrainer:
    torch.set_default_dtype(torch.float64)
    try:
        made = DoubleTrainer(settings, [SPLITS], RunFolder(settings.folder))
    finally:
        torch.set_default_dtype(torch.float32)
    made.validate = lambda learner: {"accuracy": 0.0}  # its images would be in single precision
    return made


def gradients(settings: Settings) -> dict[str, torch.Tensor]:
    """Of a step from fresh weights, of everything trained; and the running statistics after it."""
    one = trainer(settings)
    one.progress.step = 2
    one._start_drawing()
    one._step()
    found = {name: p.grad for name, p in one.objective.named_parameters() if p.grad is not None}
    return {**found, **dict(one.objective.named_buffers())}


def final_weights(settings: Settings) -> dict[str, torch.Tensor]:
    settings.folder.mkdir(parents=True, exist_ok=True)
    one = trainer(settings)
    assert one.train(StopRequest())
    return one.learner.state_dict()


def stopped_program(settings: Settings) -> dict[str, int]:
    """The exit status of the whole program when the last process is asked to stop in its third step."""
    forward = EpisodeTraining.forward
    steps = []

    def noted(self: EpisodeTraining, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        steps.append(batch)
        if len(steps) == 3 and torch.distributed.get_rank() == torch.distributed.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(self, batch)

    train.load_domains = lambda settings: [SPLITS]
    train.draw_curves = lambda *args: None
    EpisodeTraining.forward = noted
    return {"status": train.main(settings), "steps": len(steps)}


def launch(jobs: dict[str, tuple[str, Settings]], out: Path, processes: int = 2) -> None:
    """Run every job in the same few processes; the results of rank r are in ``out``/<job>-<r>.pt."""
    text = json.dumps({name: (what, settings.record()) for name, (what, settings) in jobs.items()})
    subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.examples.fewshot.processes", str(out), str(processes)],
        cwd=ROOT,
        input=text,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )


def main() -> None:
    """Fork the processes: importing everything in each would take most of the time."""
    out, processes = Path(sys.argv[1]), int(sys.argv[2])
    jobs = json.load(sys.stdin)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    gc.freeze()  # a collection then passes over all that was imported
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            run_jobs(jobs, out, rank)
            return
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    assert statuses == [0] * processes, statuses


def run_jobs(jobs: dict[str, tuple[str, dict]], out: Path, rank: int) -> None:
    for name, (what, recorded) in jobs.items():
        result = _JOBS[what](load_settings(recorded))
        torch.save(result, out / f"{name}-{rank}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


_JOBS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "gradients": gradients,
    "final_weights": final_weights,
    "stopped_program": stopped_program,
}


if __name__ == "__main__":
    main()
