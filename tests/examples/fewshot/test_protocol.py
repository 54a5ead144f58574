import statistics

import numpy as np
import pytest
import torch

from examples.fewshot.data.episodes import EpisodeSampler
from examples.fewshot.protocol import mean_and_interval, nearest_class, score
from examples.fewshot.settings import build_learner


def test_interval_against_the_standard_library():
    values = np.random.default_rng(0).random(50)
    mean, half = mean_and_interval(values)
    assert mean == pytest.approx(statistics.fmean(values), rel=1e-12)
    assert half == pytest.approx(1.96 * statistics.stdev(values) / 50**0.5, rel=1e-12)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        mean, half = mean_and_interval((rng.random(200) < 0.7).astype(float))
        hits += abs(mean - 0.7) <= half
    assert 925 <= hits <= 970


def test_interval_needs_two_episodes():
    with pytest.raises(ValueError, match="at least 2 episodes, got 1"):
        mean_and_interval(np.ones(1))


def test_nearest_class_against_a_loop():
    rng = torch.Generator().manual_seed(0)
    support = torch.randn(4, 6, 5, generator=rng)
    query = torch.randn(4, 7, 5, generator=rng)
    labels = torch.stack([torch.tensor([0, 0, 1, 1, 2, 2])[torch.randperm(6)] for _ in range(4)])
    answers = nearest_class(support, labels, query, n_way=3)
    for b in range(4):
        means = [support[b, labels[b] == n].mean(dim=0) for n in range(3)]
        for q in range(7):
            cosines = [torch.cosine_similarity(query[b, q], mean, dim=0) for mean in means]
            assert answers[b, q] == int(torch.stack(cosines).argmax())


def test_score_is_the_mean_over_the_queries_of_each_episode(settings, splits):
    torch.manual_seed(0)
    learner = build_learner(settings)
    sampler = EpisodeSampler(splits.test, n_way=3, k_shot=1, n_query=4, seed=0)
    scores = score(learner, sampler, 70)  # more than one batch
    assert scores.learner.shape == scores.nearest.shape == (70,)

    drawn = sampler.batch(0, 70)
    answers = learner(drawn.support, drawn.support_labels, drawn.query).argmax(dim=-1)
    expected = (answers == drawn.query_labels).double().mean(dim=1).numpy()
    np.testing.assert_array_equal(scores.learner, expected)
    assert 0 < scores.learner.mean() < 1


def test_score_changes_nothing_in_the_learner(settings, splits):
    learner = build_learner(settings)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    score(learner, EpisodeSampler(splits.test, n_way=3, k_shot=1, n_query=2, seed=0), 5)
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name]), name
