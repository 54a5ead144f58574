import collections
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import srwm
from examples.fewshot import models
from examples.fewshot.bootstrapping import Bootstrapping, answer_distance, divide_shots, state_distance
from examples.fewshot.settings import build_learner
from examples.training.objective import Share

K, J = 2, 1


@pytest.fixture
def settings(settings):
    return dataclasses.replace(
        settings,
        protocol="bootstrapping",
        k_shot=K,
        future_shots=J,
        n_layers=2,
        dropout=0.0,
        pools=0,
        batch_size=4,
        student_weight=0.7,
        bootstrap_weight=3.0,
        teacher_weight=0.4,
    )


def make(settings, splits, **changes):
    torch.manual_seed(0)
    settings = dataclasses.replace(settings, **changes)
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


@pytest.mark.parametrize("pools", [0, 2])
def test_support_and_future_share_the_shots_of_every_class(settings, splits, pools):
    settings = dataclasses.replace(settings, pools=pools, pool_images=5, augment=False)
    numbers = np.arange(len(splits.train.images), dtype=np.uint8)
    images = np.zeros_like(splits.train.images)
    images[:] = numbers.reshape(-1, *[1] * (images.ndim - 1))
    classes = dataclasses.replace(splits.train, images=images)
    objective = Bootstrapping(build_learner(settings), classes, settings)
    for step in range(5):
        batch = objective.dataset(Share())[step]
        number_of = (255 * batch["images"].flatten(0, -4)[:, 0, 0, 0]).round().long()
        seen = {name: number_of[batch[name]] for name in ("support", "future", "query")}
        for episode in range(settings.batch_size):
            for name, shots in (("support", K), ("future", J)):
                labels = batch[f"{name}_labels"][episode].tolist()
                assert sorted(labels) == sorted([*range(3)] * shots), name
            pairs = {
                (number // 6, label)
                for name, numbers in seen.items()
                for number, label in zip(
                    numbers[episode].tolist(), batch[f"{name}_labels"][episode].tolist(), strict=True
                )
            }
            assert len(pairs) == 3, "one label for each class, in all three parts"
            read = seen["support"][episode].tolist() + seen["future"][episode].tolist()
            assert len(set(read)) == 3 * (K + J)
            assert not set(read) & set(seen["query"][episode].tolist())


@pytest.mark.parametrize("pools", [0, 4])
def test_a_step_is_the_same_for_one_or_two_processes(settings, splits, pools):
    settings = dataclasses.replace(settings, pools=pools, pool_images=5)
    objective = Bootstrapping(build_learner(settings), splits.train, settings)
    whole = objective.dataset(Share())[3]
    parts = [objective.dataset(Share(rank=rank, processes=2))[3] for rank in range(2)]
    for name in ("support", "future", "query"):
        expected = whole["images"].flatten(0, -4)[whole[name]]
        found = [part["images"].flatten(0, -4)[part[name]] for part in parts]
        assert torch.equal(torch.cat(found), expected), name
        labels = torch.cat([part[f"{name}_labels"] for part in parts])
        assert torch.equal(labels, whole[f"{name}_labels"]), name


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
def test_loss_and_gradients_against_whole_sequences(settings, splits, bootstrap_loss):
    """Each answer from a sequence of its own, read from the start; and constants where they should be."""
    objective, batch = make(settings, splits, bootstrap_loss=bootstrap_loss)
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
        distance = 0
        states, targets = learner.read(support, support_labels)[1], learner.read(more, more_labels)[1]
        for state, target in zip(states, targets, strict=True):
            columns = [state.shape[-2]] * 3 + [4]
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
        torch.testing.assert_close(values[name], value)
    assert distance > 0
    assert_equal(gradients(learner, values["loss"]), gradients(learner, loss))
    for name, logits in (("accuracy", student), ("teacher_accuracy", teacher)):
        assert values[name].item() == pytest.approx((logits.argmax(-1) == labels).double().mean().item())


def test_the_teachers_cross_entropy_reaches_the_weights_through_both_states(settings, splits):
    objective, batch = make(settings, splits, student_weight=0.0, bootstrap_weight=0.0)
    whole = gradients(objective.learner, objective(batch)["loss"])
    learner = objective.learner
    support, future, query = features_of(objective, batch)
    _, states = learner.read(support, batch["support_labels"])
    cut = [state.detach() for state in states]
    _, next_states = learner.read(future, batch["future_labels"], cut)
    logits = learner.answer(query, next_states).flatten(0, 1)
    without = gradients(learner, 0.4 * F.cross_entropy(logits, batch["query_labels"].flatten()))
    weights = [name for name in whole if name.endswith(".W")]
    assert len(weights) == 2
    for name in weights:
        assert (whole[name] - without[name]).norm() > 1e-3 * whole[name].norm(), name


def test_the_teacher_is_constant_in_both_distances(settings, splits):
    student, teacher = torch.randn(2, 5, 3, requires_grad=True).unbind(0)
    assert not answer_distance(student.detach(), teacher).requires_grad
    assert answer_distance(student, teacher.detach()).requires_grad
    objective, _ = make(settings, splits)
    H, D = settings.n_heads, settings.d_model // settings.n_heads
    states, targets = torch.randn(2, 2, 4, H, D, 3 * D + 4, requires_grad=True).unbind(0)
    constant = [state.detach() for state in states]
    assert not state_distance(objective.learner, constant, list(targets)).requires_grad
    assert state_distance(objective.learner, list(states), list(targets.detach())).requires_grad


def test_the_distance_of_states_counts_each_matrix_alike(settings, splits):
    objective, _ = make(settings, splits)
    H, D = settings.n_heads, settings.d_model // settings.n_heads
    zero = torch.zeros(4, H, D, 3 * D + 4)
    for block in range(4):
        one = [torch.full_like(part, float(i == block)) for i, part in enumerate(srwm.unpack(zero))]
        distance = state_distance(objective.learner, [zero, zero], [srwm.pack(*one), zero])
        assert distance.item() == pytest.approx(1.0)


def test_answers_are_drawn_to_the_teacher_from_either_side():
    """KL(teacher || student), not the other way round; the mean is over the rows."""
    student = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    teacher = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=teacher), torch.distributions.Categorical(logits=student)
    ).mean()
    torch.testing.assert_close(answer_distance(student, teacher), expected)


@pytest.mark.parametrize("bootstrap_loss", ["kl", "mse"])
@pytest.mark.parametrize("core", ["deltanet", "lstm", "fake_sr"])
def test_every_core_can_be_bootstrapped(settings, splits, core, bootstrap_loss):
    settings = dataclasses.replace(settings, bootstrap_loss=bootstrap_loss)
    torch.manual_seed(0)
    learner = models.build_learner(
        n_way=3, core=core, encoder_channels=8, n_layers=2, n_heads=2, d_model=16, ff_factor=2
    )
    objective = Bootstrapping(learner, splits.train, settings)
    batch = objective.dataset(Share())[0]
    values = objective(batch)
    values["loss"].backward()
    assert all(p.grad is not None for name, p in learner.named_parameters() if "encoder." not in name)
    if core == "fake_sr":  # nothing is carried, so that student and teacher are one
        assert values["bootstrap_loss"].item() == pytest.approx(0, abs=1e-6)
        assert values["student_loss"].item() == values["teacher_loss"].item()
    elif bootstrap_loss == "mse":
        support, future, _ = features_of(objective, batch)
        states = learner.read(support, batch["support_labels"])[1]
        targets = learner.read(future, batch["future_labels"], states)[1]
        expected = sum(((a - b) ** 2).mean() for a, b in zip(states, targets, strict=True))
        torch.testing.assert_close(values["bootstrap_loss"], expected)


@pytest.mark.parametrize("pools", [0, 2])
def test_separate_encoding_against_four_calls_by_hand(settings, splits, pools):
    """Loss and every gradient, the encoder's too; and what batch normalisation remembers."""
    changes = {"train_encoder": True, "bootstrap_encoding": "separate", "pools": pools, "pool_images": 5}
    objective, batch = make(settings, splits, **changes)
    by_hand, _ = make(settings, splits, **changes)
    images, learner = batch["images"].flatten(0, -4), by_hand.learner.train()
    values = objective(batch)

    support = learner.encode(images[batch["support"]])  # the order matters to the running statistics
    for_student = learner.encode(images[batch["query"]])
    future = learner.encode(images[batch["future"]])
    for_teacher = learner.encode(images[batch["query"]])
    _, states = learner.read(support, batch["support_labels"])
    _, next_states = learner.read(future, batch["future_labels"], states)
    student = learner.answer(for_student, states).flatten(0, 1)
    teacher = learner.answer(for_teacher, next_states).flatten(0, 1)
    labels = batch["query_labels"].flatten()
    loss = 0.7 * F.cross_entropy(student, labels) + 0.4 * F.cross_entropy(teacher, labels)
    loss = loss + 3.0 * answer_distance(student, teacher)
    torch.testing.assert_close(values["loss"], loss)
    found = torch.autograd.grad(values["loss"], list(objective.learner.parameters()))
    expected = torch.autograd.grad(loss, list(learner.parameters()))
    for (name, _), one, other in zip(learner.named_parameters(), found, expected, strict=True):
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}")
    for (name, one), other in zip(learner.named_buffers(), objective.learner.buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}")

    joint, _ = make(settings, splits, **changes | {"bootstrap_encoding": "joint"})
    assert (joint(batch)["loss"] - loss).abs() > 1e-6


def test_separate_encoding_draws_dropout_for_every_call(settings, splits):
    """Where nothing is read but the query, student and teacher differ by it alone."""
    same = {}
    for encoding in ("joint", "separate"):
        objective, batch = make(
            dataclasses.replace(settings, core="fake_sr", train_encoder=True, encoder_dropout=0.5),
            splits,
            bootstrap_encoding=encoding,
        )
        values = objective(batch)
        same[encoding] = torch.equal(values["student_loss"], values["teacher_loss"])
    assert same == {"joint": True, "separate": False}


def test_separate_encoding_of_features_that_are_there_changes_nothing(settings, splits):
    losses = []
    for encoding in ("joint", "separate"):
        objective, _ = make(settings, splits, feature_views=1, bootstrap_encoding=encoding)
        batch = objective.dataset(Share())[0]
        batch["images"] = torch.randn(
            *batch["images"].shape[:2],
            objective.learner.encoder.n_features,
            dtype=torch.float64,
            generator=torch.Generator().manual_seed(0),
        )
        losses.append(objective(batch)["loss"])
    torch.testing.assert_close(*losses)
