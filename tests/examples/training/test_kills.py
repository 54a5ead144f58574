import json
import subprocess
import sys

import pytest

from examples.training.run_folder import RunFolder
from tests.examples.launching import ROOT
from tests.examples.programs import PROGRAMS
from tests.examples.runs import assert_same_run

MOMENTS = {
    "after a line",
    "after checkpoint.pt",
    "before checkpoint.pt",
    "before the disk has it",
    "half a line",
    "half written",
}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither fork nor SIGKILL")
@pytest.mark.slow_where(lambda kind: kind not in ("sequential", "plain"))
@pytest.mark.parametrize(
    ("program", "kind"),
    [(program, kind) for program in PROGRAMS.values() for kind in program.killed],
    ids=str,
)
def test_a_killed_run_continues_to_the_same_numbers(program, kind, tmp_path):
    """With dropout, an encoder's running statistics, games within their episodes, an unroll under way."""
    settings = program.of_kind(kind, runs=tmp_path)
    process = subprocess.run(
        [sys.executable, "-m", "tests.examples.kills", program.name],
        cwd=ROOT,
        input=json.dumps(settings.record()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    met = json.loads(process.stdout.splitlines()[-1])
    written = {f"{when} {file}" for file in ("best.pt", "evaluation.json") for when in ("before", "after")}
    expected = {moment for moment in written if moment.split()[1] in program.files}
    assert set(met) == MOMENTS | expected | {moment for _, _, moment in program.moments}
    whole = RunFolder(tmp_path / "whole")
    for moment in met:
        killed = RunFolder(tmp_path / moment.replace(" ", "-"))
        assert_same_run(killed, whole)
        assert {file.name for file in killed.path.iterdir()} == {
            file.name for file in whole.path.iterdir()
        }, "something half written was left"
