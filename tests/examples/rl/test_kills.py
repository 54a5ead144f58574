import dataclasses
import json
import subprocess
import sys

import pytest

from examples.training.run_folder import RunFolder
from tests.examples.launching import ROOT
from tests.examples.runs import assert_same_run


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither fork nor SIGKILL")
def test_a_killed_run_continues_to_the_same_numbers(tiny_settings, tmp_path):
    """With games in the middle of their episodes, and an unroll under way."""
    settings = dataclasses.replace(tiny_settings, runs=tmp_path)
    process = subprocess.run(
        [sys.executable, "-m", "tests.examples.rl.kills"],
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
        "after checkpoint.pt",
        "before an unroll",
        "before checkpoint.pt",
        "before the disk has it",
        "half a line",
        "half written",
        "in an update",
        "waiting for an unroll",
    ]
    whole = RunFolder(tmp_path / "whole")
    for kind in kinds:
        killed = RunFolder(tmp_path / kind.replace(" ", "-"))
        assert_same_run(killed, whole)
        assert {file.name for file in killed.path.iterdir()} == {
            file.name for file in whole.path.iterdir()
        }, "something half written was left"
