"""What TensorBoard and Weights & Biases hear of a run of any program."""

import dataclasses
import importlib.util
import sys
from types import SimpleNamespace

import accelerate.tracking
import pytest

from examples.training.interrupt import StopRequest
from examples.training.loop import Loop
from tests.examples.runs import make_loop, run


@pytest.fixture
def settings(program, tmp_path):
    """One phase, a line for every step."""
    return program.of_kind("plain", runs=tmp_path, report_every=1)


def with_tracker(settings, tracker: str, **changes):
    return dataclasses.replace(settings, trackers=(tracker,), **changes)


def made(program, settings):
    return lambda accelerator: program.exact(settings, accelerator)


def heard_by_tensorboard(loop: Loop) -> dict[str, list[tuple[int, float]]]:
    """By what it is called: places and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loop.accelerator.end_training()
    read = EventAccumulator(str(loop.folder.trackers / loop.work.project)).Reload()
    return {
        tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]
    }


def told(loop: Loop) -> dict[str, list[tuple[int, float]]]:
    """What metrics.json has of numbers with a fraction, likewise."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in loop.folder.reports():
        head = "/".join(line[name] for name in ("split", "phase") if name in line)
        place = loop.work.place(line.get("step", line.get("update")))
        for name, value in line.items():
            if isinstance(value, float):
                found.setdefault(f"{head}/{name}", []).append((place, pytest.approx(value)))
    return found


@pytest.mark.parametrize("moment", ["in a step", "between report and checkpoint"])
def test_tensorboard_hears_what_metrics_hold_once_also_of_a_resumed_run(
    program, settings, monkeypatch, moment
):
    tracked = with_tracker(settings, "tensorboard")
    loop = make_loop(tracked, made(program, tracked))

    def interrupt_at_five(act):
        def acting():
            if loop.progress.step == 5:
                raise KeyboardInterrupt
            act()

        return acting

    name = "_step" if moment == "in a step" else "save"
    monkeypatch.setattr(loop, name, interrupt_at_five(getattr(loop, name)))
    with pytest.raises(KeyboardInterrupt):
        loop.train(StopRequest())
    loop.work.close()
    loop.accelerator.end_training()
    resumed, lines = run(dataclasses.replace(tracked, resume=True), made(program, tracked))
    assert len(lines) == 6
    assert heard_by_tensorboard(resumed) == told(resumed)
    assert len(list(loop.folder.trackers.rglob("events.out.*"))) == 2


@pytest.fixture
def wandb_runs(monkeypatch) -> list[dict]:
    """What `wandb.init` is given, of a package that takes everything and does nothing."""
    begun = []

    def init(**options):
        begun.append(options)
        return SimpleNamespace(log=lambda values, step: None, finish=lambda: None)

    package = SimpleNamespace(init=init, __spec__=importlib.util.find_spec("json"))
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [accelerate.tracking.LoggerType.WANDB])
    return begun


def test_a_resumed_run_goes_on_in_wandb_and_a_new_one_begins(program, settings, wandb_runs):
    for change in ({}, {"resume": True}, {"overwrite": True}):
        tracked = with_tracker(settings, "wandb", **change)
        loop, _ = run(tracked, made(program, tracked))
    first, resumed, anew = (options["id"] for options in wandb_runs)
    assert first == resumed != anew
    assert {(options["project"], options["resume"]) for options in wandb_runs} == {(program.name, "allow")}
    (loop.folder.trackers / "wandb.json").write_text("{}")
    with pytest.raises(ValueError, match=r"wandb.json has no id of a run in Weights & Biases; remove it"):
        loop.train(StopRequest())


def test_a_tracker_that_is_not_installed_is_named(program, settings, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else find(name, *more)
    )
    with pytest.raises(ValueError, match=r"--trackers wandb needs the package wandb, .* pip install wandb"):
        program.module.main(with_tracker(settings, "wandb"))
