"""Runs that an earlier version left, the first of this format; Ctrl-C stopped them in the middle."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest

from examples.fewshot import evaluate as fewshot_evaluate
from examples.training.run_folder import RunFolder
from tests.examples.fewshot.conftest import DOMAINS
from tests.examples.programs import PROGRAMS

RUNS = Path(__file__).parent / "stopped_runs"


@pytest.mark.parametrize(
    ("name", "found", "steps"), [("fewshot", {"step": 0}, [2, 2, 4, 6]), ("rl", {"frames": 18}, [2, 4, 6])]
)
def test_a_run_is_evaluated_and_continued(tmp_path, monkeypatch, name, found, steps):
    program = PROGRAMS[name]
    program.stand_in(monkeypatch.setattr)
    program.without_pictures(monkeypatch.setattr)
    monkeypatch.setattr(fewshot_evaluate, "load_domains", lambda settings: DOMAINS[:1])
    folder = RunFolder(shutil.copytree(RUNS / name, tmp_path / name))
    evaluated = program.evaluate(folder.path)
    [of_run] = evaluated.get("runs", [evaluated])
    assert found.items() <= of_run.items(), "the best weights are those of the first validation"
    lines, recorded = folder.reports(), json.loads(folder.config.read_text())
    settings = type(program.settings).from_record(recorded)
    settings = dataclasses.replace(settings, runs=tmp_path, resume=True)
    assert program.module.main(settings) == 0
    reports = folder.reports()
    assert reports[: len(lines)] == lines
    assert [r.get("step", r.get("update")) for r in reports if r["split"] == "train"] == steps
    assert all(math.isfinite(line.get("loss", 0)) for line in reports)
    assert program.module.main(settings) == 0, "and what it is now is read as well"
