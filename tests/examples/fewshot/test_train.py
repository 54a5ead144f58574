"""What the program does with data, encoders and phases."""

import dataclasses
import math
from pathlib import Path

import pytest

from examples.fewshot import evaluate, train
from examples.training.checkpoint import load
from examples.training.interrupt import INTERRUPTED
from examples.training.run_folder import RunFolder
from tests.examples.fewshot.test_class_counts import hidden
from tests.examples.runs import act_in_step, press_ctrl_c


@pytest.fixture(autouse=True)
def _data_and_no_pictures(splits, monkeypatch):
    monkeypatch.setattr(train, "load_domains", lambda settings: [splits])
    monkeypatch.setattr(train, "draw_curves", lambda *given: None)
    monkeypatch.setattr(evaluate, "draw_gallery", lambda *given: None)


def stopped(settings, step: int) -> RunFolder:
    """The folder of a run that was stopped in a step."""
    with pytest.MonkeyPatch.context() as patch:
        act_in_step(patch, train.Training, step, press_ctrl_c)
        assert train.main(settings) == INTERRUPTED
    return RunFolder(settings.folder)


def test_the_loss_falls_in_both_phases(settings):
    sizes = {"n_way": 2, "n_layers": 2, "n_heads": 4, "d_model": 32, "batch_size": 16, "dropout": 0.0}
    rates = {"encoder_warmup_learning_rate": 1e-2, "learning_rate": 5e-3, "lr_final": 1.0}
    steps = {"encoder_warmup_steps": 40, "steps": 120, "report_every": 20, "validate_every": 120}
    longer = dataclasses.replace(settings, **sizes, **rates, **steps)
    assert train.main(longer) == 0
    reports = [line for line in RunFolder(longer.folder).reports() if line["split"] == "train"]
    first, last = ({line["phase"]: line for line in order} for order in (reports[::-1], reports))
    assert last["encoder"]["loss"] < 0.7 * first["encoder"]["loss"]
    # Below log(2): it has found out what the labels beside the support are for.
    assert last["episodes"]["loss"] < 0.8 * math.log(2) < first["episodes"]["loss"]
    assert last["episodes"]["accuracy"] > 0.65


def test_a_stopped_run_is_evaluated_and_continued_where_its_data_have_moved(settings):
    """In the encoder's phase, in which no weights are the best as yet."""
    folder = stopped(dataclasses.replace(settings, root=Path("here")), 2)
    run = evaluate.load_run(folder)
    assert run.settings.n_way == run.model.n_way == 3
    assert train.main(dataclasses.replace(settings, root=Path("there"), resume=True)) == 0
    state = load(folder.checkpoint)
    assert state["settings"]["root"] == "there"
    assert state["progress"]["step"] == settings.steps


def test_a_run_is_not_continued_on_other_data(settings, splits, monkeypatch):
    folder = stopped(settings, 6)
    before = folder.checkpoint.read_bytes()
    other = dataclasses.replace(splits.train, names=tuple(map(str, range(12))))
    monkeypatch.setattr(train, "load_domains", lambda settings: [splits._replace(train=other)])
    with pytest.raises(ValueError, match=r"was trained on other data: .*'images': 168.*, found .*168"):
        train.main(dataclasses.replace(settings, resume=True))
    assert folder.checkpoint.read_bytes() == before


def test_training_never_looks_at_the_pictures_of_the_test_classes(settings, splits, monkeypatch):
    monkeypatch.setattr(train, "load_domains", lambda settings: [splits._replace(test=hidden(8, 6))])
    evaluated = []
    monkeypatch.setattr(train, "evaluate", lambda *args: evaluated.append(args))
    assert train.main(settings) == 0
    assert len(evaluated) == 1
