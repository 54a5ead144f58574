import dataclasses

import numpy as np
import pytest
import torch

from examples.fewshot.bootstrapping import Bootstrapping
from examples.fewshot.continual import ContinualTraining
from examples.fewshot.data import encoded as encoded_module
from examples.fewshot.data.classes import NUMBERS_PER_IMAGE
from examples.fewshot.data.encoded import encode_classes
from examples.fewshot.data.episodes import EpisodeSampler
from examples.fewshot.models import build_learner
from examples.fewshot.objectives import EpisodeTraining, training_features
from examples.fewshot.sequential import SequentialTraining
from examples.training.objective import Share


def first_pixels(images: torch.Tensor) -> torch.Tensor:
    """An "encoder" whose features can be compared with the images: (I, C, H, W) -> (I, 28)."""
    return images[:, 0, 14]


def test_views_are_distorted_each_otherwise_and_shown_alike_often(splits, monkeypatch):
    """However many images are encoded together."""
    undistorted = encode_classes(first_pixels, splits.train, views=3, seed=0, augment=False)
    assert undistorted.features.shape == (72, 1, 28), "undistorted views are all alike"
    encoded = encode_classes(first_pixels, splits.train, views=3, seed=0, augment=True)
    other = encode_classes(first_pixels, splits.train, views=3, seed=1, augment=True)
    monkeypatch.setattr(encoded_module, "_IMAGES", 20)
    again = encode_classes(first_pixels, splits.train, views=3, seed=0, augment=True)
    assert torch.equal(encoded.features, again.features)
    assert not torch.equal(encoded.features, other.features)
    assert len(torch.unique(encoded.features[0], dim=0)) == 3

    numbers = np.random.default_rng(0).random((1, 600 * NUMBERS_PER_IMAGE))
    shown = encoded.show(np.zeros((1, 600), np.int64), numbers)[0]
    counts = [(shown == view).all(dim=1).sum().item() for view in encoded.features[0]]
    assert sum(counts) == 600
    assert min(counts) > 160


def objectives(settings, splits):
    learner = build_learner(settings)
    yield EpisodeTraining(learner, splits.train, settings)
    shots = {"protocol": "bootstrapping", "future_shots": 1}
    yield Bootstrapping(learner, splits.train, dataclasses.replace(settings, **shots))
    tasks = {"protocol": "sequential", "second_data": "textures", "k_shot": 3, "max_trim": 4}
    domains = [splits.train, splits.validation]
    yield SequentialTraining(learner, domains, dataclasses.replace(settings, **tasks))
    tasks |= {"protocol": "continual", "k_shot": 2, "queries": 3}
    yield ContinualTraining(learner, domains, dataclasses.replace(settings, **tasks))


@pytest.mark.parametrize("pools", [0, 2])
def test_every_objective_reads_the_features_its_encoder_gives(settings, splits, pools):
    """Without distortions, encoding before and at the step are the same."""
    settings = dataclasses.replace(settings, pools=pools, augment=False, feature_views=1, dropout=0.0)
    at_once = dataclasses.replace(settings, feature_views=0)
    for before, during in zip(objectives(settings, splits), objectives(at_once, splits), strict=True):
        during.learner.load_state_dict(before.learner.state_dict())
        before.prepare()
        during.prepare()
        drawn, images = before.dataset(Share())[2], during.dataset(Share())[2]
        assert drawn["images"].shape[-1] == before.learner.encoder.n_features
        features = during.learner.eval().encode(images["images"]).detach()
        torch.testing.assert_close(drawn["images"].flatten(0, -2), features.flatten(0, -2))
        one, other = before(drawn), during(images)
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], msg=f"{type(before).__name__} {name}")


def test_lookalikes_are_the_classes_at_the_smallest_angles(splits):
    encoded = encode_classes(
        lambda images: images.flatten(1)[:, ::29], splits.train, views=2, seed=0, augment=True
    )
    means = []
    for start in range(0, 72, 6):  # six images a class, two views
        members = encoded.features[start : start + 6].flatten(0, 1)
        means.append((members / members.norm(dim=1, keepdim=True)).mean(dim=0))
    cosines = torch.cosine_similarity(torch.stack(means)[:, None], torch.stack(means)[None], dim=2)
    expected = cosines.argsort(dim=1, descending=True)[:, :4]
    assert encoded.lookalikes(4).tolist() == expected.tolist()
    assert encoded.lookalikes(50).shape == (12, 12)


def test_hard_episodes_take_their_classes_from_one_neighbourhood(splits):
    neighbours = np.arange(12)[:, None] // 4 * 4 + np.arange(4)
    asked = {"n_way": 3, "k_shot": 1, "n_query": 2, "seed": 0, "augment": False}
    plain = EpisodeSampler(splits.train, **asked).batch(0, 400)
    for hard, least, most in ((1.0, 400, 400), (0.5, 175, 250)):
        sampler = EpisodeSampler(splits.train, **asked, lookalikes=neighbours, hard=hard)
        drawn = sampler.batch(0, 400)
        of_one = (drawn.classes // 4 == drawn.classes[:, :1] // 4).all(dim=1)
        assert least <= of_one.sum() <= most
        assert torch.equal(torch.bincount(drawn.classes.flatten()) > 60, torch.ones(12, dtype=torch.bool))
        assert all(len(set(row)) == 3 for row in drawn.classes.tolist())
        again = sampler.batch(390, 10)
        assert torch.equal(again.classes, drawn.classes[390:])
    assert ((plain.classes // 4 == plain.classes[:, :1] // 4).all(dim=1)).sum() < 60


def test_hard_episodes_reach_the_training(settings, splits):
    settings = dataclasses.replace(settings, pools=0, feature_views=1, hard_episodes=1.0, batch_size=64)
    objective = EpisodeTraining(build_learner(settings), splits.train, settings)
    objective.prepare()
    # With only 12 classes all are lookalikes; that the sampler was told is what can be seen.
    [sampler] = objective.draw.args
    assert sampler.hard == 1.0
    assert sampler.lookalikes.shape == (12, 12)
    objective(objective.dataset(Share())[0])["loss"].backward()


def test_noise_is_of_the_features_own_size_and_only_in_training(settings):
    settings = dataclasses.replace(settings, feature_views=1, feature_noise=0.5)
    learner = build_learner(settings)
    features = torch.randn(50, 400) * torch.tensor([1.0, 100.0]).repeat(25)[:, None]
    noise = training_features(learner, features, settings) - features
    torch.testing.assert_close(noise.std(1) / features.std(1), torch.full((50,), 0.5), atol=0.08, rtol=0)
    without = dataclasses.replace(settings, feature_noise=0.0)
    assert torch.equal(training_features(learner, features, without), features)
