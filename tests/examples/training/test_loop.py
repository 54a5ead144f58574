"""The loop alone, with work that does nothing but count."""

import dataclasses

import pytest
import torch

from examples.training.checkpoint import load, save
from examples.training.interrupt import StopRequest
from examples.training.loop import Loop, Work
from examples.training.settings import TrainingSettings
from tests.examples.runs import make_loop, run


@dataclasses.dataclass(frozen=True)
class Settings(TrainingSettings):
    program = "nothing"


class Counting(Work):
    """Its weight is the number of steps taken; its validations find what they are given."""

    project, unit, units_per_step = "counting", "item", 3

    def __init__(self, phases=("first",), units=30, found=(), early_stop=0):
        self.phases, self.units, self.found, self.early_stop = phases, units, iter(found), early_stop
        self.validate_every = 1 if found else 0
        self.weight = torch.zeros(1)
        self.entered, self.begun, self.shares = [], [], []

    def enter(self, phase, *, steps_before=0):
        self.entered.append((phase, steps_before))

    def begin(self, step):
        self.begun.append(step)

    def step(self, step, share_done):
        self.shares.append(share_done)
        self.weight += 1
        return {"steps": 1.0, "number": torch.tensor(float(step))}

    def trained(self):
        return [self.weight]

    def line(self, sums, steps, seconds):
        return {name: value / steps for name, value in sums.items()}

    def validate(self):
        return {"accuracy": next(self.found)}

    def is_solved(self, scores):
        return scores["accuracy"] == 1

    def weights(self):
        return {"weight": self.weight}

    def state(self, step):
        return {}

    def load(self, state, path):
        self.weight = state["weight"]


@pytest.fixture
def settings(tmp_path):
    return Settings(runs=tmp_path, report_every=4)


def carried_out(settings, **options) -> tuple[Loop, list[dict]]:
    return run(settings, lambda accelerator: Counting(**options))


def test_shares_and_means_of_a_phase_whose_last_step_goes_beyond(settings):
    loop, lines = carried_out(settings, units=29)
    assert loop.work.shares == [3 * step / 29 for step in range(10)]
    assert [(line["step"], line["number"], line["steps"]) for line in lines] == [
        *((4, 1.5, 1), (8, 5.5, 1), (10, 8.5, 1))
    ]


def test_phases_follow_one_another_and_go_on_where_they_were(settings):
    options = {"phases": ("first", "second", "third"), "units": 9}
    loop, _ = carried_out(settings, **options)
    assert loop.work.entered == [("first", 0), ("second", 3), ("third", 6)]
    assert loop.work.begun == [0, 0, 0]
    assert (loop.progress.phase, loop.progress.step, loop.progress.steps_before) == ("third", 3, 6)
    resumed, _ = carried_out(dataclasses.replace(settings, resume=True), **options)
    assert resumed.work.entered == [("first", 0), ("third", 6)]
    assert resumed.work.begun == [3]
    assert resumed.work.weight == 9
    with pytest.raises(ValueError, match="stands in the phase 'third'; this run has first, second; put"):
        carried_out(dataclasses.replace(settings, resume=True), phases=("first", "second"))


def test_progress_of_another_version_is_named(settings):
    loop, _ = carried_out(settings)
    state = load(loop.folder.checkpoint)
    state["progress"] |= {"lap": 1, "epoch": 2}
    save(state, loop.folder.checkpoint)
    with pytest.raises(ValueError, match=r"another version of the program, which counts epoch, lap; use"):
        carried_out(dataclasses.replace(settings, resume=True))


def test_training_stops_when_validation_no_longer_improves(settings):
    options = {"found": [0.5, 0.6, 0.6, 0.7, 0.1, 0.7, 0.6], "units": 1000, "early_stop": 3}
    loop, _ = carried_out(settings, **options)
    assert loop.progress.step == 6
    assert load(loop.folder.best)["progress"]["step"] == loop.progress.best_step == 3
    resumed, _ = carried_out(dataclasses.replace(settings, resume=True), **options)
    assert resumed.progress.step == 6, "the run was over"


def test_training_stops_when_all_is_solved(settings):
    loop, _ = carried_out(settings, found=[0.5, 0.2, 1.0])
    assert loop.progress.step == loop.progress.best_step == load(loop.folder.best)["weight"] == 2
    resumed, _ = carried_out(dataclasses.replace(settings, resume=True), found=[0.0])
    assert resumed.progress.step == 2, "the run was over"


def test_best_weights_lost_between_checkpoint_and_copy_are_copied_on_resuming(settings):
    loop = make_loop(settings, lambda accelerator: Counting(units=6, found=[0.1, 0.2, 0.3]))
    saved = loop.save_best
    loop.save_best = lambda: saved() if loop.progress.step < 2 else None
    assert loop.train(StopRequest())
    assert load(loop.folder.best)["weight"] == 1
    carried_out(dataclasses.replace(settings, resume=True), units=6)
    best = load(loop.folder.best)
    assert best["progress"]["step"] == best["weight"] == 2
