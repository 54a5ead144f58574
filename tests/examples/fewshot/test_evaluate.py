import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from examples.fewshot.data.episodes import EpisodeSampler
from examples.fewshot.evaluate import Evaluation, evaluate, load_learner
from examples.fewshot.protocol import mean_and_interval, score
from examples.fewshot.run_folder import RunFolder, load
from examples.fewshot.trainer import Trainer


@pytest.fixture
def run(settings, splits) -> RunFolder:
    """A run that has only begun."""
    folder = RunFolder(settings.folder)
    folder.open(settings)
    Trainer(settings, splits, folder).save()
    return folder


def test_evaluation_is_reproducible_and_says_what_was_measured(run, splits, capsys):
    result = evaluate(Evaluation(run=run.path, episodes=60, queries=3), splits)
    assert result == evaluate(Evaluation(run=run.path, episodes=60, queries=3), splits)
    assert result == json.loads(run.evaluation.read_text())
    assert run.episodes.exists()

    learner, _, _ = load_learner(run)
    sampler = EpisodeSampler(splits.test, n_way=3, k_shot=1, n_query=3, seed=1)
    scores = score(learner, sampler, 60)
    for name, values in (("learner", scores.learner), ("nearest_neighbour", scores.nearest)):
        mean, half = mean_and_interval(values)
        assert result[name] == {"mean": mean, "interval_95": half}
    assert result["episodes"] == 60
    assert result["chance"] == 1 / 3
    out = capsys.readouterr().out
    assert f"{100 * result['learner']['mean']:.2f} %" in out
    assert f"± {100 * result['learner']['interval_95']:.2f} %" in out


def test_other_episodes_by_another_seed(run, splits):
    one = evaluate(Evaluation(run=run.path, seed=1, augment=False), splits)
    other = evaluate(Evaluation(run=run.path, seed=2, augment=False), splits)
    assert one["nearest_neighbour"] != other["nearest_neighbour"]


def test_more_shots_than_in_training(run, splits):
    result = evaluate(Evaluation(run=run.path, k_shot=4), splits)
    assert result["k_shot"] == 4


def test_the_best_weights_are_preferred(run):
    state = load(run.checkpoint)
    state["learner"]["core.out_layer.bias"] += 1
    torch.save(state, run.best)
    learner, _, _ = load_learner(run)
    torch.testing.assert_close(learner.core.out_layer.bias.data, state["learner"]["core.out_layer.bias"])


def test_a_folder_of_images(run, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for character in "wxyz":
        for image in range(3):
            path = tmp_path / "writing" / "runes" / character / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.where(rng.random((28, 28)) < 0.1, 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    result = evaluate(Evaluation(run=run.path, data="folder", root=tmp_path / "writing"))
    assert result["classes"] == 4
    assert result["alphabets"] == ["runes"]
    assert json.loads((run.path / "evaluation-writing.json").read_text()) == result
    assert (run.path / "evaluation-writing.png").exists()
    assert not run.evaluation.exists()


def test_folder_and_root_belong_together(run, tmp_path):
    for options in (
        Evaluation(run=run.path, data="folder"),
        Evaluation(run=run.path, root=tmp_path),
    ):
        with pytest.raises(ValueError, match="--root belongs to --data folder"):
            evaluate(options)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the folder of a run"):
        evaluate(Evaluation(run=tmp_path))


def test_settings_come_from_the_checkpoint(run, settings):
    _, recorded, step = load_learner(run)
    assert recorded == settings
    assert step == 0
    assert dataclasses.asdict(recorded) == dataclasses.asdict(settings)
