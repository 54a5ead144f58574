import numpy as np
import pytest
import torch

from examples.fewshot import models
from examples.fewshot.data.classes import ImageClasses
from examples.fewshot.data.episodes import EpisodeSampler
from examples.fewshot.data.sequences import SequenceSampler
from examples.fewshot.protocol import nearest_class, score, score_sequences, shots_before
from examples.fewshot.settings import build_learner


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


class Answerer(torch.nn.Module):
    """Instead of a learner: knows images by the mean of their pixels, and counts what it is asked."""

    def __init__(self, looks_ahead: bool) -> None:
        super().__init__()
        self.nothing_learnt = torch.nn.Parameter(torch.zeros(1))
        self.looks_ahead = looks_ahead
        self.sequences = 0

    def encode(self, images):
        return images.flatten(-3).mean(dim=-1, keepdim=True)

    def read(self, features, shown, *, return_states):
        """The last label that came with an image of the kind; label 0 for a kind not seen before."""
        assert not return_states
        self.sequences += len(shown)
        answers = torch.zeros_like(shown)
        for row, (kinds, told) in enumerate(zip(features[..., 0].tolist(), shown.tolist(), strict=True)):
            known = {}
            for position, kind in enumerate(kinds):
                if position:
                    known[kinds[position - 1]] = told[position]
                answers[row, position] = known.get(kind, 0)
                if self.looks_ahead and position + 1 < len(kinds):
                    answers[row, position] = told[position + 1]
        return torch.nn.functional.one_hot(answers, 3), []


@pytest.fixture
def two_domains():
    """Six classes each, no two with an equal mean of the pixels; all images of a class are equal."""

    def domain(first):
        levels = np.repeat(np.arange(first, first + 6), 5).astype(np.uint8)
        images = np.broadcast_to(levels[:, None, None, None], (30, 1, 4, 4)).copy()
        names = tuple(f"class {c}" for c in range(first, first + 6))
        return ImageClasses(images, np.arange(0, 31, 5), names, ("LATIN",) * 6)

    return domain(10), domain(100)


@pytest.mark.parametrize("order", ["first", "second", "alternating"])
def test_who_remembers_labels_is_at_chance_at_shot_0_and_perfect_from_shot_1_on(two_domains, order):
    sampler = SequenceSampler(
        *two_domains, n_way=3, k_shot=4, seed=0, order=order, batch_size=6, augment=False
    )
    learner = Answerer(looks_ahead=False)
    scores = score_sequences(learner, sampler, 601)
    assert learner.sequences == 601, "exactly as many as asked for"
    assert scores.correct.shape == (601, 24)
    for task in (0, 1):
        at_shots = scores.at_shots(task)
        # Of three new classes just one has label 0: chance, in every single sequence.
        np.testing.assert_allclose(at_shots, np.tile([1 / 3, 1, 1, 1], (601, 1)))
        np.testing.assert_allclose(scores.of_sequences(task), 10 / 12)
    np.testing.assert_allclose(scores.of_sequences(), 20 / 24)
    at_positions = scores.correct.mean(axis=0)
    # Nothing is known of either task at its first position, nor of its class.
    assert at_positions[[0, 12]] == pytest.approx([1 / 3, 1 / 3], abs=5 * 0.02)
    assert at_positions[[10, 11, 22, 23]].min() > 0.95


def test_who_sees_the_next_label_is_perfect_at_shot_0_too(two_domains):
    sampler = SequenceSampler(*two_domains, n_way=3, k_shot=4, seed=0, order="first", augment=False)
    scores = score_sequences(Answerer(looks_ahead=True), sampler, 20)
    assert scores.correct.all()
    assert scores.at_shots(0).tolist() == scores.at_shots(1).tolist() == [[1, 1, 1, 1]] * 20


def test_who_counts_labels_beats_chance_by_as_much_as_is_said(two_domains):
    """Against answers drawn at random among the rarest labels of the task so far."""
    sampler = SequenceSampler(*two_domains, n_way=3, k_shot=4, seed=0, order="first", augment=False)
    scores = score_sequences(Answerer(looks_ahead=False), sampler, 400).of_counting
    rng = np.random.default_rng(0)
    right = np.zeros((400, 24))
    for sequence, labels in enumerate(sampler.batch(0, 400).labels.tolist()):
        for position, label in enumerate(labels):
            told = labels[12 * (position // 12) : position]
            counts = [told.count(other) for other in range(3)]
            rarest = [other for other in range(3) if counts[other] == min(counts)]
            assert scores.correct[sequence, position] == (label in rarest) / len(rarest)
            right[sequence, position] = rng.choice(rarest) == label
    assert scores.of_sequences().mean() == pytest.approx(right.mean(), abs=0.02)
    at_shots = scores.at_shots().mean(axis=0)
    assert at_shots[0] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert np.allclose(scores.correct[:, [11, 23]], 1), "the last label is the one that is missing"


def test_shots_are_counted_in_each_task_by_itself():
    labels = torch.tensor([[0, 1, 0, 0, 1, 1], [2, 2, 2, 2, 0, 2]])
    tasks = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    expected = [[0, 0, 1, 0, 0, 1], [0, 1, 2, 0, 0, 1]]
    assert shots_before(labels, tasks, 3).tolist() == expected


def test_trimmed_sequences_are_not_scored(two_domains):
    sampler = SequenceSampler(*two_domains, n_way=3, k_shot=4, seed=0, max_trim=2)
    with pytest.raises(ValueError, match="sequences must be whole, got max_trim=2"):
        score_sequences(Answerer(looks_ahead=False), sampler, 1)


@pytest.mark.parametrize("core", ["srwm", "deltanet", "lstm", "fake_sr"])
def test_sequences_and_episodes_of_every_core_are_scored_as_it_answers_them(splits, core):
    torch.manual_seed(0)
    learner = models.build_learner(
        n_way=3, core=core, encoder_channels=8, n_layers=2, n_heads=2, d_model=16, ff_factor=2, dropout=0.1
    )
    sampler = SequenceSampler(splits.train, splits.test, n_way=3, k_shot=4, seed=0, order="second")
    scores = score_sequences(learner, sampler, 10)
    assert not learner.training
    drawn = sampler.batch(0, 10)
    logits, _ = learner.read(learner.encode(drawn.images), drawn.shown)
    np.testing.assert_array_equal(scores.correct, (logits.argmax(dim=-1) == drawn.labels).numpy())

    episodes = EpisodeSampler(splits.test, n_way=3, k_shot=2, n_query=3, seed=0)
    asked = episodes.batch(0, 5)
    answers = learner(asked.support, asked.support_labels, asked.query).argmax(dim=-1)
    expected = (answers == asked.query_labels).double().mean(dim=1).numpy()
    np.testing.assert_array_equal(score(learner, episodes, 5).learner, expected)
