import dataclasses

import numpy as np
import pytest
import torch

from examples.fewshot.data.classes import ImageClasses
from examples.fewshot.data.episodes import EpisodeSampler
from examples.fewshot.data.sequences import SequenceSampler
from examples.fewshot.models import build_learner
from examples.fewshot.protocol import nearest_class, score, score_sequences


def test_nearest_class_against_a_loop():
    rng = torch.Generator().manual_seed(0)
    support = torch.randn(4, 6, 5, generator=rng)
    query = torch.randn(4, 7, 5, generator=rng)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])[torch.rand(4, 6, generator=rng).argsort(dim=1)]
    answers = nearest_class(support, labels, query, n_way=3)
    for b in range(4):
        means = torch.stack([support[b, labels[b] == n].mean(dim=0) for n in range(3)])
        for q in range(7):
            assert answers[b, q] == torch.cosine_similarity(query[b, q], means, dim=1).argmax()


class Answerer(torch.nn.Module):
    """Instead of a learner: knows images by the mean of their pixels, and counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing_learnt = torch.nn.Parameter(torch.zeros(1))
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
        return torch.nn.functional.one_hot(answers, 3), []


def sampler_of(order: str) -> SequenceSampler:
    """Of two domains of six classes; all images of a class are equal, and no two classes' pixels."""
    domains = []
    for first in (10, 100):
        levels = np.repeat(np.arange(first, first + 6), 5).astype(np.uint8)
        images = np.broadcast_to(levels[:, None, None, None], (30, 1, 4, 4)).copy()
        names = tuple(f"class {c}" for c in range(first, first + 6))
        domains.append(ImageClasses(images, np.arange(0, 31, 5), names, ("LATIN",) * 6))
    return SequenceSampler(*domains, n_way=3, k_shot=4, seed=0, order=order, augment=False, batch_size=8)


@pytest.mark.parametrize("order", ["first", "second", "alternating"])
def test_who_remembers_labels_is_at_chance_at_shot_0_and_perfect_from_shot_1_on(order):
    sampler = sampler_of(order)
    learner = Answerer()
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


def test_who_counts_labels_beats_chance_by_as_much_as_is_said():
    """Against answers drawn at random among the rarest labels of the task so far."""
    sampler = sampler_of("first")
    scores = score_sequences(Answerer(), sampler, 400).of_counting
    rng = np.random.default_rng(0)
    right = np.zeros((400, 24))
    for sequence, labels in enumerate(sampler.batch(0, 400)["labels"].tolist()):
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


@pytest.mark.parametrize("core", ["srwm", "deltanet", "lstm", "fake_sr"])
def test_sequences_and_episodes_of_every_core_are_scored_as_it_answers_them(settings, splits, core):
    """An episode counts once, by the mean over its queries; nothing in the learner changes."""
    torch.manual_seed(0)
    learner = build_learner(dataclasses.replace(settings, core=core, n_layers=2))
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    sampler = SequenceSampler(splits.train, splits.test, n_way=3, k_shot=4, seed=0, order="second")
    scores = score_sequences(learner, sampler, 10)
    episodes = EpisodeSampler(splits.test, n_way=3, k_shot=2, n_query=3, seed=0)
    found = score(learner, episodes, 70)["learner"]  # more than one batch
    assert not learner.training
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name]), name

    drawn = sampler.batch(0, 10)
    logits, _ = learner.read(learner.encode(drawn["images"]), drawn["shown"])
    np.testing.assert_array_equal(scores.correct, (logits.argmax(dim=-1) == drawn["labels"]).numpy())
    asked = episodes.batch(0, 70)
    answers = learner(asked.support, asked.support_labels, asked.query).argmax(dim=-1)
    np.testing.assert_array_equal(found, (answers == asked.query_labels).double().mean(dim=1).numpy())
    assert 0 < found.mean() < 1
