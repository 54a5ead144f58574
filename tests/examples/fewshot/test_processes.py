"""Several processes, and several micro-batches, compute what one does on the joined batch."""

import dataclasses
from pathlib import Path

import pytest
import torch

from examples.fewshot.batch_norm import JoinedBatchNorm2d, join_batch_norms
from examples.fewshot.objectives import EpisodeTraining
from examples.fewshot.settings import build_learner
from examples.training.objective import Share
from examples.training.run_folder import RunFolder, describe, load, save
from tests.examples.fewshot import processes
from tests.examples.launching import launch


@pytest.fixture(scope="module")
def base(tiny_settings, tmp_path_factory):
    return dataclasses.replace(
        tiny_settings,
        runs=tmp_path_factory.mktemp("runs"),
        train_encoder=True,
        dropout=0.0,
        encoder_warmup_steps=0,
        pools=0,
    )


@pytest.fixture(scope="module")
def source(base) -> RunFolder:
    """A run whose encoder others take."""
    settings = dataclasses.replace(base, name="source", seed=5)
    folder = RunFolder(settings.folder)
    folder.path.mkdir(parents=True)
    torch.manual_seed(settings.seed)
    learner = build_learner(settings).state_dict()
    save({**describe(settings), "progress": {}, "learner": learner}, folder.best)
    return folder


@pytest.fixture(scope="module")
def jobs(base, source):
    """Name -> (what is compared, settings)."""
    sequential = {"protocol": "sequential", "second_data": "textures", "k_shot": 3, "max_trim": 4}
    continual = {"protocol": "continual", "second_data": "textures", "k_shot": 2, "queries": 3}
    changes = {
        "episodes": {},
        "episodes-accumulated": {"accumulation": 2},
        "pooled": {"pools": 4, "accumulation": 2},
        "warmup": {"encoder_warmup_steps": 3},
        "sequential": sequential,
        "sequential-pooled": {**sequential, "pools": 4, "accumulation": 2},
        "bootstrapping": {"protocol": "bootstrapping", "k_shot": 2, "future_shots": 1},
        "continual": continual,
        "continual-pooled": {**continual, "third_data": "digits", "pools": 4, "accumulation": 2},
        # As the presets for letters, but for the noise, which each process draws for itself.
        "features": {"train_encoder": False, "feature_views": 2, "hard_episodes": 0.5},
    }
    jobs = {
        name: ("gradients", dataclasses.replace(base, name=name, **change))
        for name, change in changes.items()
    }
    taken = dataclasses.replace(base, name="taken", encoder_from=source.path)
    missing = dataclasses.replace(taken, encoder_from=source.path / "nothing")
    return {
        **jobs,
        "taken": ("taken_encoder", taken),
        "missing-encoder": ("missing_encoder", missing),
        "missing-data": ("missing_data", base),
    }


@pytest.fixture(scope="module")
def results(jobs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("results")
    launch("tests.examples.fewshot.processes", jobs, out)
    return out


def assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = (found[name] - value).abs().max()
        assert error <= tolerance * max(value.abs().max(), 1e-2), name


@pytest.mark.parametrize(
    "name",
    [
        "episodes",
        "episodes-accumulated",
        "pooled",
        "warmup",
        "sequential",
        "sequential-pooled",
        "bootstrapping",
        "continual",
        "continual-pooled",
        "features",
    ],
)
def test_two_processes_have_the_gradient_of_one(results, jobs, name):
    expected = processes.gradients(jobs[name][1])
    assert sum(value.dtype == torch.float64 for value in expected.values()) > 10
    for rank in range(2):
        assert_close(torch.load(results / f"{name}-{rank}.pt"), expected, 1e-10)


def test_only_the_main_process_reads_the_run_that_an_encoder_is_taken_from(results, source):
    theirs = load(source.best)["learner"]
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


def test_four_micro_batches_have_the_gradient_of_one(base):
    """Without batch normalisation, which sees one at a time."""
    frozen = dataclasses.replace(base, train_encoder=False)
    expected = processes.gradients(frozen)
    found = processes.gradients(dataclasses.replace(frozen, accumulation=4))
    assert_close(found, expected, 1e-10)


def test_a_step_is_taken_after_all_its_micro_batches_and_no_sooner(base, monkeypatch):
    calls = []
    forward, adam = EpisodeTraining.forward, torch.optim.Adam.step

    def noted_forward(self, batch):
        calls.append("forward")
        return forward(self, batch)

    def noted_step(self, closure=None):
        calls.append("step")
        return adam(self, closure)

    monkeypatch.setattr(EpisodeTraining, "forward", noted_forward)
    monkeypatch.setattr(torch.optim.Adam, "step", noted_step)
    processes.gradients(dataclasses.replace(base, accumulation=4))
    assert calls == ["forward"] * 4 + ["step"]


@pytest.mark.parametrize("share", [Share(0, 3, 1), Share(0, 1, 3), Share(1, 4, 4)])
def test_a_batch_that_cannot_be_shared_is_refused(base, splits, share):
    objective = EpisodeTraining(build_learner(base), splits.train, base)
    with pytest.raises(ValueError, match=r"--batch-size must be a multiple of processes . accumulation"):
        objective.dataset(share)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_of_one_process_is_pytorchs_own(momentum):
    theirs = torch.nn.Sequential(torch.nn.BatchNorm2d(3, momentum=momentum))
    ours = torch.nn.Sequential(torch.nn.BatchNorm2d(3, momentum=momentum))
    join_batch_norms(ours)
    assert isinstance(ours[0], JoinedBatchNorm2d)
    images = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    for mode in (True, True, False):
        assert torch.equal(ours.train(mode)(images), theirs.train(mode)(images))
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name
