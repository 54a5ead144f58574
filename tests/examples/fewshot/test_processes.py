"""Several processes compute what one does on the joined batch."""

import dataclasses
from pathlib import Path

import pytest
import torch

from examples.fewshot.batch_norm import JoinedBatchNorm2d, join_batch_norms
from examples.training.checkpoint import load
from examples.training.run_folder import RunFolder
from tests.examples.fewshot import processes
from tests.examples.fewshot.test_evaluate import begun
from tests.examples.launching import launch

SEQUENTIAL = {"protocol": "sequential", "second_data": "textures", "k_shot": 3, "max_trim": 4}
CONTINUAL = {"protocol": "continual", "second_data": "textures", "k_shot": 2, "queries": 3}
POOLED = {"pools": 4, "accumulation": 2}
STEPS = {
    "episodes": {},
    "episodes-accumulated": {"accumulation": 2},
    "pooled": POOLED,
    "warmup": {"encoder_warmup_steps": 3},
    "sequential": SEQUENTIAL,
    "sequential-pooled": {**SEQUENTIAL, **POOLED},
    "bootstrapping": {"protocol": "bootstrapping", "k_shot": 2, "future_shots": 1},
    "continual": CONTINUAL,
    "continual-pooled": {**CONTINUAL, **POOLED, "third_data": "digits"},
    # As the presets for letters, but for the noise, which each process draws for itself.
    "features": {"train_encoder": False, "feature_views": 2, "hard_episodes": 0.5},
}


@pytest.fixture(scope="module")
def jobs(tiny_settings, tmp_path_factory):
    """Name -> (what is compared, settings)."""
    base = dataclasses.replace(
        tiny_settings,
        runs=tmp_path_factory.mktemp("runs"),
        train_encoder=True,
        dropout=0.0,
        encoder_warmup_steps=0,
        pools=0,
    )
    steps = {
        name: ("gradients", dataclasses.replace(base, name=name, **changes))
        for name, changes in STEPS.items()
    }
    source = begun(base, name="source", seed=5).path
    missing = dataclasses.replace(base, encoder_from=source / "nothing")
    return {
        **steps,
        "taken": ("taken_encoder", dataclasses.replace(base, name="taken", encoder_from=source)),
        "missing-encoder": ("missing_encoder", missing),
        "missing-data": ("missing_data", base),
    }


@pytest.fixture(scope="module")
def results(jobs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("results")
    launch("tests.examples.fewshot.processes", jobs, out)
    return out


@pytest.mark.parametrize("name", STEPS)
def test_two_processes_have_the_gradient_of_one(results, jobs, name):
    expected = processes.gradients(jobs[name][1])
    assert sum(value.dtype == torch.float64 for value in expected.values()) > 10
    for rank in range(2):
        found = torch.load(results / f"{name}-{rank}.pt")
        assert found.keys() == expected.keys()
        for part, value in expected.items():
            error = (found[part] - value).abs().max()
            assert error <= 1e-10 * max(value.abs().max(), 1e-2), part


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


def test_batch_norm_of_one_process_is_pytorchs_own():
    theirs, ours = (torch.nn.Sequential(torch.nn.BatchNorm2d(3)) for _ in range(2))
    join_batch_norms(ours)
    assert isinstance(ours[0], JoinedBatchNorm2d)
    images = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    for mode in (True, True, False):
        assert torch.equal(ours.train(mode)(images), theirs.train(mode)(images))
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name
