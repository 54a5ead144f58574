"""Two processes train every operator and every layer as one does: DDP and FSDP2, tests/distributed.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed import PROBLEMS, WAYS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """All that two processes found, {(rank, how, name): parameters that differ}, and what they printed.

    One start for all rows: it takes longer than they do.
    """
    folder = tmp_path_factory.mktemp("outcomes")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = subprocess.run(
        [*command, "-m", "tests.distributed", str(folder)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    found = {}
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            how, name, differing = json.loads(line)
            found[int(path.name), how, name] = differing
    return found, run


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_two_processes_train_as_one(name, how, outcomes):
    found, run = outcomes
    for rank in range(2):
        assert (rank, how, name) in found, run.stderr[-4000:]
        assert found[rank, how, name] == [], f"process {rank}"


def test_the_processes_end_well(outcomes):
    _, run = outcomes
    assert run.returncode == 0, run.stderr[-4000:]
