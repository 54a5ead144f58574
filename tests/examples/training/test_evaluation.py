"""Evaluations of a program that does not exist: which runs they read, and where they write."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from examples.training import evaluation
from examples.training.checkpoint import describe, load, save
from examples.training.evaluation import alike_but_for_seed, reserve
from examples.training.run_folder import RunFolder
from tests.examples.training import conftest


@dataclasses.dataclass(frozen=True)
class Settings(conftest.Settings):
    seed: int = 0
    encoder_from: str | None = None


def load_run(folder: RunFolder) -> evaluation.Run:
    return evaluation.load_run(folder, Settings, lambda settings: nn.Linear(3, 2), "model")


def begun(runs: Path, name: str, **changes) -> RunFolder:
    settings = Settings(name=name, runs=runs, **changes)
    folder = RunFolder(settings.folder)
    torch.manual_seed(settings.seed)
    weights = nn.Linear(3, 2).state_dict()
    folder.begin(settings, {**describe(settings), "progress": {"step": 7}, "model": weights, "data": "d"})
    return folder


def test_a_run_is_loaded_with_its_best_weights(tmp_path):
    folder = begun(tmp_path, "tiny", steps=9)
    run = load_run(folder)
    assert (run.settings.steps, run.progress, run.data) == (9, {"step": 7}, "d")
    state = load(folder.checkpoint)
    assert torch.equal(run.model.bias, state["model"]["bias"])
    state["model"]["bias"] += 1
    save(state, folder.best)
    assert torch.equal(load_run(folder).model.bias, state["model"]["bias"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["model"].pop("bias"), "the weight bias is no tensor"),
        (lambda state: state.pop("model"), "has no weights"),
        (lambda state: state.update(program="another"), "of a run of another"),
    ],
)
@pytest.mark.parametrize("file", ["checkpoint.pt", "best.pt"])
def test_a_damaged_run_is_named(tmp_path, change, message, file):
    folder = begun(tmp_path, "tiny")
    state = load(folder.checkpoint)
    change(state)
    save(state, folder.path / file)
    with pytest.raises(ValueError, match=rf"{file}.*{message}.*[;,] (put back|use)"):
        load_run(folder)


def test_seeds_of_one_run_differ_in_their_seed_and_their_encoder_alone(tmp_path):
    runs = [
        begun(tmp_path, "a", seed=0),
        begun(tmp_path, "b", seed=1, steps=9),
        begun(tmp_path, "c", seed=2, encoder_from="elsewhere"),
        begun(tmp_path, "d", seed=0),
        begun(tmp_path, "e", seed=3, steps=9),
        begun(tmp_path, "f", seed=2),
    ]
    assert alike_but_for_seed([load_run(run) for run in runs]) == [[0, 2], [1, 4], [3, 5]]


def test_an_output_that_would_replace_something_else_is_refused(tmp_path):
    one, other = begun(tmp_path, "one"), begun(tmp_path, "other")
    before = {path: path.read_bytes() for run in (one, other) for path in run.path.iterdir()}
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").touch()
    for runs, output, message in (
        ([one], tmp_path / "e.png", "--output must end in .json, got .*e.png"),
        ([one], tmp_path / "e", "--output must end in .json"),
        ([one], one.metrics, "would replace .*metrics.json; choose another"),
        ([one], tmp_path / "one" / "." / "config.json", "would replace .*config.json"),
        ([one], one.path / "curves.json", "would replace .*curves.png"),
        ([one], other.path / "episodes.json", "would replace .*other.*episodes.png"),
        ([one, other], other.evaluation, "would replace .*other.*evaluation.json"),
        ([one], tmp_path / "folder.json", "folder.json: it is a folder; choose another --output"),
        ([one], tmp_path / "file" / "e.json", "cannot write .*e.json: .*; choose another --output"),
    ):
        with pytest.raises((ValueError, OSError), match=message), reserve(output, runs):
            pytest.fail("it was measured")
    assert {path: path.read_bytes() for path in before} == before
    with reserve(one.evaluation, [one]):
        pass
