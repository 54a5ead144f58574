"""Runs that an earlier version left, the first of this format; Ctrl-C stopped them in the middle."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest

from examples.fewshot import evaluate as fewshot_evaluate
from examples.fewshot import settings as fewshot_settings
from examples.fewshot import train as fewshot
from examples.fewshot.data.classes import Splits
from examples.rl import evaluate as rl_evaluate
from examples.rl import settings as rl_settings
from examples.rl import train as rl
from examples.training.checkpoint import load
from examples.training.run_folder import RunFolder
from examples.training.settings import RunSettings
from tests.examples.fewshot.conftest import patterns

RUNS = Path(__file__).parent / "stopped_runs"


@pytest.fixture(autouse=True)
def _data_and_no_pictures(monkeypatch):
    splits = Splits(train=patterns(12, 6, 0), validation=patterns(8, 6, 1), test=patterns(8, 6, 2))
    for module in (fewshot, fewshot_evaluate):
        monkeypatch.setattr(module, "load_domains", lambda settings: [splits])
    for module in (fewshot, rl):
        monkeypatch.setattr(module, "draw_curves", lambda *given: None)
    monkeypatch.setattr(fewshot_evaluate, "draw_gallery", lambda *given: None)
    monkeypatch.setattr(rl_evaluate, "draw_returns", lambda *given: None)


def copy(name: str, runs: Path) -> tuple[RunFolder, dict]:
    folder = RunFolder(shutil.copytree(RUNS / name, runs / name))
    return folder, json.loads(folder.config.read_text())


def resumed(settings: RunSettings, runs: Path) -> RunSettings:
    return dataclasses.replace(settings, runs=runs, resume=True)


def test_a_few_shot_run_is_evaluated_and_continued(tmp_path):
    folder, recorded = copy("fewshot", tmp_path)
    assert load(folder.checkpoint)["progress"]["step"] == 3
    found = fewshot_evaluate.evaluate(fewshot_evaluate.Evaluation(runs=(folder.path,)))
    assert found["step"] == 0, "the best weights are those of the first validation"
    lines = folder.reports()
    settings = resumed(fewshot_settings.Settings.from_record(recorded), tmp_path)
    assert fewshot.main(settings) == 0
    assert folder.reports()[: len(lines)] == lines
    assert [line["step"] for line in folder.reports() if line["split"] == "train"] == [2, 2, 4, 6]
    assert all(math.isfinite(line.get("loss", 0)) for line in folder.reports())
    assert load(folder.checkpoint)["progress"]["step"] == 6
    assert fewshot.main(settings) == 0, "and what it is now is read as well"


def test_an_agents_run_is_evaluated_and_continued(tmp_path):
    folder, recorded = copy("rl", tmp_path)
    options = rl_evaluate.Evaluation(runs=(folder.path,), episodes=2)
    [found] = rl_evaluate.evaluate(options)["runs"]
    assert found["frames"] == 18
    lines = folder.reports()
    settings = resumed(rl_settings.Settings.from_record(recorded), tmp_path)
    assert rl.main(settings) == 0
    assert folder.reports()[: len(lines)] == lines
    assert [line["update"] for line in folder.reports()] == [2, 4, 6]
    assert all(math.isfinite(line["loss"]) for line in folder.reports())
    assert rl.main(settings) == 0, "and what it is now is read as well"


@pytest.mark.parametrize(
    ("name", "read", "message"),
    [
        ("rl", fewshot_evaluate.load_run, "examples.rl.train, not of examples.fewshot.train"),
        ("fewshot", rl_evaluate.load_run, "examples.fewshot.train, not of examples.rl.train"),
    ],
)
def test_a_run_of_the_other_program_is_named(tmp_path, name, read, message):
    folder, _ = copy(name, tmp_path)
    with pytest.raises(ValueError, match=rf"is of a run of {message}; use that program"):
        read(folder)
