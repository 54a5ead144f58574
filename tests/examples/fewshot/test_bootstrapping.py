"""The learner that has read more teaches the one that has read less: losses, gradients, and encodings."""

import collections
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from examples.fewshot.bootstrapping import Bootstrapping, answer_distance, divide_shots
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


def gradients(learner, loss) -> dict[str, torch.Tensor]:
    named = [(name, p) for name, p in learner.named_parameters() if not name.startswith("encoder.")]
    found = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    return {
        name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named, found, strict=True)
    }


def assert_equal(one, other):
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], msg=lambda text, name=name: f"{name}: {text}")


def features_of(objective, batch):
    objective.learner.eval()
    with torch.no_grad():
        features = objective.learner.encode(batch["images"]).flatten(0, -2)
    return [features[batch[name]] for name in ("support", "future", "query")]


def test_every_order_of_the_support_is_as_likely():
    rng = np.random.default_rng(0)
    labels = np.tile([0, 0, 0, 1, 1, 1], (12_000, 1))
    labels = np.take_along_axis(labels, rng.random(labels.shape).argsort(axis=1), axis=1)
    support, future = divide_shots(labels, rng.random(labels.shape), k_shot=2)
    assert np.array_equal(np.sort(np.concatenate([support, future], axis=1), axis=1)[0], np.arange(6))
    orders = collections.Counter(map(tuple, np.take_along_axis(labels, support, axis=1).tolist()))
    assert len(orders) == 6
    assert all(abs(count - 2000) < 205 for count in orders.values()), orders  # 5 sd of 41


@pytest.mark.parametrize("bootstrap_loss", ["kl", "mse"])
@pytest.mark.parametrize("core", ["srwm", "deltanet", "lstm", "fake_sr"])
def test_loss_and_gradients_against_whole_sequences(settings, splits, core, bootstrap_loss):
    """Each answer from a sequence of its own, read from the start; and constants where they should be."""
    objective, batch = make(settings, splits, bootstrap_loss=bootstrap_loss, core=core)
    values = objective(batch)
    learner = objective.learner
    support, future, query = features_of(objective, batch)
    support_labels, future_labels = batch["support_labels"], batch["future_labels"]
    more, more_labels = torch.cat([support, future], 1), torch.cat([support_labels, future_labels], 1)

    def answers(read, labels):
        logits = []
        for q in range(query.shape[1]):
            sequence = torch.cat([read, query[:, q : q + 1]], dim=1)
            shown = torch.cat([labels, torch.zeros_like(labels[:, :1])], dim=1)
            logits.append(learner.read(sequence, shown)[0][:, -1])
        return torch.stack(logits, dim=1).flatten(0, 1)

    labels = batch["query_labels"].flatten()
    student, teacher = answers(support, support_labels), answers(more, more_labels)
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
    # Where nothing is carried, student and teacher are one.
    assert (distance > 1e-9) == (core != "fake_sr")
    assert_equal(gradients(learner, values["loss"]), gradients(learner, loss))
    for name, logits in (("accuracy", student), ("teacher_accuracy", teacher)):
        assert values[name].item() == pytest.approx((logits.argmax(-1) == labels).double().mean().item())


@pytest.mark.parametrize("pools", [0, 2])
def test_separate_encoding_against_four_calls_by_hand(settings, splits, pools):
    """Loss and every gradient, the encoder's too; and what batch normalisation remembers."""
    changes = {"train_encoder": True, "bootstrap_encoding": "separate", "pools": pools}
    objective, batch = make(settings, splits, **changes)
    by_hand, _ = make(settings, splits, **changes)
    images, learner = batch["images"].flatten(0, -4), by_hand.learner.train()
    values = objective(batch)

    # The order matters to the running statistics.
    support, for_student, future, for_teacher = (
        learner.encode(images[batch[name]]) for name in ("support", "query", "future", "query")
    )
    _, states = learner.read(support, batch["support_labels"])
    _, next_states = learner.read(future, batch["future_labels"], states)
    student = learner.answer(for_student, states).flatten(0, 1)
    teacher = learner.answer(for_teacher, next_states).flatten(0, 1)
    labels = batch["query_labels"].flatten()
    loss = 0.7 * F.cross_entropy(student, labels) + 0.4 * F.cross_entropy(teacher, labels)
    loss = loss + 3.0 * answer_distance(student, teacher)
    torch.testing.assert_close(values["loss"], loss)
    found, expected = (
        dict(
            zip(dict(of.named_parameters()), torch.autograd.grad(value, list(of.parameters())), strict=True)
        )
        for of, value in ((objective.learner, values["loss"]), (learner, loss))
    )
    assert_equal(found, expected)
    assert_equal(dict(objective.learner.named_buffers()), dict(learner.named_buffers()))

    joint, _ = make(settings, splits, **changes | {"bootstrap_encoding": "joint"})
    assert (joint(batch)["loss"] - loss).abs() > 1e-6


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
