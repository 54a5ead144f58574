import dataclasses
import json
import subprocess
import sys

import pytest

from examples.training.run_folder import RunFolder
from tests.examples.launching import ROOT
from tests.examples.runs import assert_same_run


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither fork nor SIGKILL")
@pytest.mark.slow_where(lambda change: change.get("protocol") != "sequential")
@pytest.mark.parametrize(
    "change",
    [
        {"train_encoder": True},
        {"protocol": "bootstrapping", "future_shots": 1, "feature_views": 2, "pools": 0},
        {"protocol": "sequential", "second_data": "textures", "k_shot": 3, "max_trim": 4},
    ],
    ids=lambda change: change.get("protocol", "sync"),
)
def test_a_killed_run_continues_to_the_same_numbers(tiny_settings, tmp_path, change):
    """With dropout; the encoder's running statistics, where it is trained too, must come back as well."""
    settings = dataclasses.replace(tiny_settings, runs=tmp_path, **change)
    process = subprocess.run(
        [sys.executable, "-m", "tests.examples.fewshot.kills"],
        cwd=ROOT,
        input=json.dumps(settings.record()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    kinds = json.loads(process.stdout.splitlines()[-1])
    assert kinds == [
        "after a line",
        "after best.pt",
        "after checkpoint.pt",
        "after evaluation.json",
        "before best.pt",
        "before checkpoint.pt",
        "before evaluation.json",
        "before the disk has it",
        "half a line",
        "half written",
        "in a step",
    ]
    whole = RunFolder(tmp_path / "whole")
    for kind in kinds:
        killed = RunFolder(tmp_path / kind.replace(" ", "-"))
        assert_same_run(killed, whole)
        assert {file.name for file in killed.path.iterdir()} == {
            file.name for file in whole.path.iterdir()
        }, "something half written was left"
