"""Carrying out runs, comparing what they leave behind, and leaving it without a run."""

import json
import os
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from examples.training.accelerator import make_accelerator
from examples.training.broadcasting import from_main
from examples.training.checkpoint import load
from examples.training.files import write_json
from examples.training.interrupt import StopRequest
from examples.training.loop import Loop, Values, Work
from examples.training.run_folder import RunFolder
from examples.training.settings import RunSettings, TrainingSettings

TIMINGS = ("seconds", "_per_second", "_share")  # how their names end


def make_loop(settings: TrainingSettings, make: Callable[[Accelerator], Work]) -> Loop:
    """That of a new run, or of one that stands where it stood; its folder is claimed."""
    accelerator = make_accelerator(settings)
    loop = Loop(settings, make(accelerator), RunFolder(settings.folder), accelerator)
    state = from_main(accelerator, lambda: loop.folder.open(settings))
    if state is not None:
        loop.resume(state)
    return loop


def run(
    settings: TrainingSettings, make: Callable[[Accelerator], Work]
) -> tuple[Loop, list[dict[str, Any]]]:
    """A whole run, or the rest of one; and its reports of training."""
    loop = make_loop(settings, make)
    with closing(loop.work):
        assert loop.train(StopRequest())
    return loop, [line for line in loop.folder.reports() if line["split"] == "train"]


def interrupt() -> None:
    """As a second Ctrl-C does, at once."""
    raise KeyboardInterrupt


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def act_in_step(
    patch: pytest.MonkeyPatch, training: type[Work], number: int, act: Callable[[], object]
) -> None:
    """Once, when a step is all but over; their numbers count from 0, over all phases, from here on."""
    step, taken = training.step, []

    def acting(self: Work, *given: Any) -> Values:
        values = step(self, *given)
        taken.append(given)
        if len(taken) == number + 1:
            act()
        return values

    patch.setattr(training, "step", acting)


def without_times(line: dict) -> dict:
    return {name: value for name, value in line.items() if not name.endswith(TIMINGS)}


def tensors_in(value: object, name: str = "") -> dict[str, torch.Tensor]:
    """All tensors in dictionaries and lists, by name."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    found: dict[str, torch.Tensor] = {}
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            found |= tensors_in(inner, f"{name}.{key}")
    return found


def numbers_of(folder: RunFolder) -> dict[str, torch.Tensor]:
    """Every tensor of the checkpoint and of the best weights, if any are kept, by name."""
    kept = [path for path in (folder.checkpoint, folder.best) if path.exists()]
    return tensors_in({path.name: load(path) for path in kept})


def assert_same_run(one: RunFolder, other: RunFolder) -> None:
    """To the bit, but for the times."""
    assert [without_times(line) for line in one.reports()] == [
        without_times(line) for line in other.reports()
    ]
    tensors, others = numbers_of(one), numbers_of(other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.numpy(), others[name].numpy(), err_msg=name, strict=True)
    assert one.evaluation.exists() == other.evaluation.exists()
    if one.evaluation.exists():
        assert one.evaluation.read_text() == other.evaluation.read_text()


def write_run(
    settings: RunSettings, reports: list[dict], evaluation: dict, file: Path | None = None
) -> None:
    """What a finished run leaves, but for its weights.

    Parameters
    ----------
    settings : of the run.
    reports : the lines of metrics.json.
    evaluation : its numbers.
    file : where they are, if not in evaluation.json.
    """
    folder = RunFolder(settings.folder)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in reports))
    write_json(folder.config, settings.record())
    write_json(file or folder.evaluation, evaluation)


def cells_of(text: str) -> list[list[str]]:
    """The rows of all Markdown tables in a text, heads too, without the lines below these."""
    cells = [
        [cell.strip() for cell in line[1:-1].split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return [row for row in cells if set("".join(row)) != {"-"}]
