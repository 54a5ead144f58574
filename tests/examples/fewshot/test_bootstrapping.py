"""The learner that has read more teaches the one that has read less: losses, gradients, and encodings."""

import collections
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from examples.fewshot.bootstrapping import Bootstrapping, divide_shots
from examples.fewshot.models import build_learner
from examples.training.objective import Share


def make(settings, splits, **changes):
    own = {"protocol": "bootstrapping", "k_shot": 2, "future_shots": 1, "n_layers": 2, "dropout": 0.0}
    weights = {"student_weight": 0.7, "bootstrap_weight": 3.0, "teacher_weight": 0.4}
    settings = dataclasses.replace(
        settings, **(own | weights | {"pools": 0, "pool_images": 5, "batch_size": 4} | changes)
    )
    torch.manual_seed(0)
    objective = Bootstrapping(build_learner(settings), splits.train, settings).double()
    batch = objective.dataset(Share())[0]
    batch["images"] = batch["images"].double()
    return objective, batch


def assert_equal(one, other):
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], msg=lambda text, name=name: f"{name}: {text}")


def test_every_order_of_the_support_is_as_likely():
    rng = np.random.default_rng(0)
    labels = np.tile([0, 0, 0, 1, 1, 1], (12_000, 1))
    labels = np.take_along_axis(labels, rng.random(labels.shape).argsort(axis=1), axis=1)
    support, future = divide_shots(labels, rng.random(labels.shape), k_shot=2)
    assert np.array_equal(np.sort(np.concatenate([support, future], axis=1), axis=1)[0], np.arange(6))
    orders = collections.Counter(map(tuple, np.take_along_axis(labels, support, axis=1).tolist()))
    assert len(orders) == 6
    assert all(abs(count - 2000) < 205 for count in orders.values()), orders  # 5 sd of 41


@pytest.mark.parametrize("pools", [0, 2])
@pytest.mark.parametrize("encoding", ["joint", "separate"])
@pytest.mark.parametrize("bootstrap_loss", ["kl", "mse"])
@pytest.mark.parametrize("core", ["srwm", "deltanet", "lstm", "fake_sr"])
def test_loss_and_gradients_by_hand(settings, splits, pools, encoding, bootstrap_loss, core):
    """Each answer from a sequence of its own, read from the start; and constants where they should be.

    Every gradient, the encoder's too; and what batch normalisation remembers.
    """
    changes = {"bootstrap_encoding": encoding, "bootstrap_loss": bootstrap_loss, "core": core}
    objective, batch = make(settings, splits, pools=pools, train_encoder=True, **changes)
    by_hand, _ = make(settings, splits, pools=pools, train_encoder=True, **changes)
    images, learner = batch["images"].flatten(0, -4), by_hand.learner.train()
    values = objective(batch)

    parts = [batch[name] for name in ("support", "query", "future", "query")]
    if encoding == "joint":
        features = learner.encode(images)
        support, for_student, future, for_teacher = (features[part] for part in parts)
    else:  # in the order that matters to the running statistics
        support, for_student, future, for_teacher = (learner.encode(images[part]) for part in parts)
    support_labels, future_labels = batch["support_labels"], batch["future_labels"]
    more, more_labels = torch.cat([support, future], 1), torch.cat([support_labels, future_labels], 1)

    def answers(read, labels, query):
        logits = []
        for q in range(query.shape[1]):
            sequence = torch.cat([read, query[:, q : q + 1]], dim=1)
            shown = torch.cat([labels, torch.zeros_like(labels[:, :1])], dim=1)
            logits.append(learner.read(sequence, shown)[0][:, -1])
        return torch.stack(logits, dim=1).flatten(0, 1)

    labels = batch["query_labels"].flatten()
    student = answers(support, support_labels, for_student)
    teacher = answers(more, more_labels, for_teacher)
    if bootstrap_loss == "kl":
        p, log_q = teacher.detach().softmax(-1), student.log_softmax(-1)
        distance = (p * (p.log() - log_q)).sum(-1).mean()
    else:
        distance = torch.zeros((), dtype=torch.float64)
        states, targets = learner.read(support, support_labels)[1], learner.read(more, more_labels)[1]
        for state, target in zip(states, targets, strict=True):
            # Each matrix of a self-referential layer counts alike.
            columns = [state.shape[-2]] * 3 + [4] if core == "srwm" else [state.shape[-1]]
            for a, b in zip(state.split(columns, -1), target.detach().split(columns, -1), strict=True):
                distance = distance + ((a - b) ** 2).mean()
    student_loss, teacher_loss = F.cross_entropy(student, labels), F.cross_entropy(teacher, labels)
    loss = 0.7 * student_loss + 3.0 * distance + 0.4 * teacher_loss
    for name, value in (
        ("loss", loss),
        ("student_loss", student_loss),
        ("bootstrap_loss", distance),
        ("teacher_loss", teacher_loss),
    ):
        torch.testing.assert_close(values[name].double(), value)
    if encoding == "joint":  # Where nothing is carried, student and teacher are one.
        assert (distance > 1e-9) == (core != "fake_sr")
    for name, logits in (("accuracy", student), ("teacher_accuracy", teacher)):
        assert values[name].item() == pytest.approx((logits.argmax(-1) == labels).double().mean().item())
    found, expected = (
        dict(zip(names, torch.autograd.grad(value, parameters, materialize_grads=True), strict=True))
        for of, value in ((objective.learner, values["loss"]), (learner, loss))
        for names, parameters in [zip(*of.named_parameters(), strict=True)]
    )
    assert_equal(found, expected)
    assert_equal(dict(objective.learner.named_buffers()), dict(learner.named_buffers()))


@pytest.mark.parametrize(("encoding", "same"), [("joint", True), ("separate", False)])
def test_separate_encoding_draws_dropout_for_every_call(settings, splits, encoding, same):
    """Where nothing is read but the query, student and teacher differ by it alone."""
    changes = {"core": "fake_sr", "train_encoder": True, "encoder_dropout": 0.5}
    objective, batch = make(settings, splits, **changes, bootstrap_encoding=encoding)
    values = objective(batch)
    assert torch.equal(values["student_loss"], values["teacher_loss"]) == same


def test_separate_encoding_of_features_that_are_there_changes_nothing(settings, splits):
    losses = []
    for encoding in ("joint", "separate"):
        objective, batch = make(settings, splits, feature_views=1, bootstrap_encoding=encoding)
        shape = (*batch["images"].shape[:2], objective.learner.encoder.n_features)
        numbers = torch.Generator().manual_seed(0)
        batch["images"] = torch.randn(shape, dtype=torch.float64, generator=numbers)
        losses.append(objective(batch)["loss"])
    torch.testing.assert_close(*losses)
