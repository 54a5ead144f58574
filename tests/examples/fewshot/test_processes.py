"""What one process reads for all, and its errors; that they train as one does `training` tests."""

import dataclasses
from pathlib import Path

import pytest
import torch

from examples.training.checkpoint import load
from examples.training.run_folder import RunFolder
from tests.examples.fewshot.conftest import TINY
from tests.examples.fewshot.test_evaluate import begun
from tests.examples.launching import launch


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Name -> (what is compared, settings)."""
    base = dataclasses.replace(TINY, runs=tmp_path_factory.mktemp("runs"), encoder_warmup_steps=0, pools=0)
    source = begun(base, name="source", seed=5).path
    missing = dataclasses.replace(base, encoder_from=source / "nothing")
    return {
        "taken": ("taken_encoder", dataclasses.replace(base, name="taken", encoder_from=source)),
        "missing-encoder": ("missing_encoder", missing),
        "missing-data": ("missing_data", base),
    }


@pytest.fixture(scope="module")
def results(jobs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("results")
    launch("tests.examples.fewshot.processes", jobs, out)
    return out


def test_only_the_main_process_reads_the_run_that_an_encoder_is_taken_from(results, jobs):
    theirs = load(RunFolder(jobs["taken"][1].encoder_from).checkpoint)["learner"]
    for rank in range(2):
        taken = torch.load(results / f"taken-{rank}.pt")
        assert taken
        for name, value in taken.items():
            assert torch.equal(value.to(theirs["encoder." + name].dtype), theirs["encoder." + name]), name


def test_an_error_of_the_process_that_goes_first_reaches_all(results):
    for rank in range(2):
        assert "give the folder of a run" in torch.load(results / f"missing-encoder-{rank}.pt")["error"]
        found = torch.load(results / f"missing-data-{rank}.pt")
        assert found == {"error": "process 0 found no data", "tried": [0] * (rank == 0)}
