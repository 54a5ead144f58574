import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from examples.fewshot.data.classes import ImageClasses
from examples.fewshot.sequential import SequentialTraining
from examples.fewshot.settings import build_learner
from examples.training.objective import Share


@pytest.fixture
def settings(settings):
    return dataclasses.replace(
        settings, protocol="sequential", second_data="textures", k_shot=3, max_trim=4, dropout=0.0, pools=0
    )


@pytest.fixture
def domains(splits):
    return [splits.train, splits.validation]


def numbered(classes: ImageClasses, shift: int) -> ImageClasses:
    """The same classes; every pixel of image i is shift + i."""
    numbers = (shift + np.arange(len(classes.images))).astype(np.uint8)
    images = np.zeros_like(classes.images)
    images[:] = numbers.reshape(-1, *[1] * (images.ndim - 1))
    return dataclasses.replace(classes, images=images)


def joined(objective, share_of, step: int) -> list[dict[str, torch.Tensor]]:
    """The micro-batches of a step, in the order of the sequences they hold."""
    parts = [share_of(rank) for rank in range(share_of(0).processes)]
    return [
        objective.dataset(share)[step * share.accumulation + part]
        for part in range(parts[0].accumulation)
        for share in parts
    ]


@pytest.mark.parametrize("pools", [0, 4])
def test_a_step_is_the_same_for_any_number_of_processes_and_micro_batches(settings, domains, pools):
    settings = dataclasses.replace(settings, pools=pools)
    objective = SequentialTraining(build_learner(settings), domains, settings)
    for step in (0, 3):
        [whole] = joined(objective, lambda rank: Share(), step)
        assert len(whole["labels"]) == settings.batch_size
        shown = whole["images"].flatten(0, -4)[whole["positions"]]
        for processes, accumulation in ((2, 1), (1, 2), (2, 2)):
            parts = joined(
                objective,
                lambda rank, p=processes, a=accumulation: Share(rank=rank, processes=p, accumulation=a),
                step,
            )
            for name in ("shown", "labels", "tasks"):
                assert torch.equal(torch.cat([part[name] for part in parts]), whole[name]), name
            images = [part["images"].flatten(0, -4)[part["positions"]] for part in parts]
            assert torch.equal(torch.cat(images), shown)


@pytest.mark.parametrize("pools", [0, 4])
def test_each_micro_batch_has_a_layout_of_its_own_if_asked_to(settings, domains, pools):
    """Whatever the number of processes; other sequences of the step are in another order and as long."""
    settings = dataclasses.replace(
        settings, pools=pools, accumulation=2, max_trim=7, sequence_layout="micro_batch"
    )
    objective = SequentialTraining(build_learner(settings), domains, settings)
    layouts = []
    for step in range(12):
        parts = joined(objective, lambda rank: Share(accumulation=2), step)
        assert [len(part["labels"]) for part in parts] == [4, 4]
        halves = joined(objective, lambda rank: Share(rank, processes=2, accumulation=2), step)
        for part, (one, other) in zip(parts, (halves[:2], halves[2:]), strict=True):
            assert torch.equal(torch.cat([one["tasks"], other["tasks"]]), part["tasks"])
            assert torch.equal(torch.cat([one["labels"], other["labels"]]), part["labels"])
            layouts.append(tuple(part["tasks"][0].tolist()))
    pairs = list(zip(layouts[::2], layouts[1::2], strict=True))
    assert sum(one != other for one, other in pairs) > 8, "one layout for a whole step"
    assert {(one[0], other[0]) for one, other in pairs} == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize("pools", [0, 4])
def test_each_position_holds_an_image_of_its_domain_and_class(settings, splits, pools):
    settings = dataclasses.replace(settings, pools=pools, max_trim=0, augment=False)
    domains = [numbered(splits.train, 0), numbered(splits.validation, 100)]  # 72 and 48 images
    objective = SequentialTraining(build_learner(settings), domains, settings)
    leaders, orders = set(), set()
    for step in range(6):
        batch = objective.dataset(Share())[step]
        numbers = (255 * batch["images"].flatten(0, -4)[batch["positions"]][..., 0, 0, 0]).round().long()
        assert torch.equal((numbers >= 100).long(), batch["tasks"])
        leaders.add(int(batch["tasks"][0, 0]))
        for row, labels in zip(numbers.tolist(), batch["labels"].tolist(), strict=True):
            assert len(set(row)) == 2 * 3 * 3, "an image is shown twice"
            pairs = {
                (n // 6 if n < 100 else 50 + (n - 100) // 6, label)
                for n, label in zip(row, labels, strict=True)
            }
            assert len(pairs) == 6, "a class has two labels, or a label two classes"
            assert sorted(labels) == [0] * 6 + [1] * 6 + [2] * 6
            orders.add(tuple(labels))
        assert torch.equal(batch["shown"][:, 1:], batch["labels"][:, :-1])
        assert batch["shown"][:, 0].tolist() == [0] * 8
    assert leaders == {0, 1}
    assert len(orders) == 48


def test_the_loss_is_the_mean_over_all_positions_of_answers_given_one_by_one(settings, domains):
    torch.manual_seed(0)
    objective = SequentialTraining(build_learner(settings), domains, settings)
    batch = objective.dataset(Share())[1]
    with torch.no_grad():
        values = objective(batch)
        learner = objective.learner.eval()
        features = learner.encode(batch["images"])
        states, losses, correct = None, [], []
        for position in range(batch["labels"].shape[1]):
            one = slice(position, position + 1)
            logits, states = learner.read(features[:, one], batch["shown"][:, one], states)
            labels = batch["labels"][:, position]
            losses.append(F.cross_entropy(logits[:, 0], labels, reduction="none"))
            correct.append(logits[:, 0].argmax(dim=-1) == labels)
    torch.testing.assert_close(values["loss"], torch.stack(losses).mean())
    right, tasks = torch.stack(correct, dim=1).double(), batch["tasks"]
    assert values["accuracy"].item() == pytest.approx(right.mean().item())
    assert values["accuracy_first"].item() == pytest.approx(right[tasks == 0].mean().item())
    assert values["accuracy_second"].item() == pytest.approx(right[tasks == 1].mean().item())
    assert len({round(values[name].item(), 6) for name in values if "accuracy" in name}) == 3


@pytest.mark.parametrize("train_encoder", [False, True])
def test_the_encoder_learns_only_if_asked_to(settings, domains, train_encoder):
    settings = dataclasses.replace(settings, train_encoder=train_encoder, batch_size=4)
    objective = SequentialTraining(build_learner(settings), domains, settings)
    objective(objective.dataset(Share())[0])["loss"].backward()
    touched = {name for name, p in objective.learner.named_parameters() if p.grad is not None}
    every = {name for name, _ in objective.learner.named_parameters()}
    assert touched == {name for name in every if train_encoder or not name.startswith("encoder.")}
    assert objective.learner.encoder.training == train_encoder
    grouped = sum(len(group["params"]) for group in objective.parameter_groups())
    assert grouped == len(touched)


def test_a_class_of_too_few_images_shows_them_again_but_only_distorted(settings, domains):
    """Six images of each class, eight shots."""
    settings = dataclasses.replace(settings, k_shot=8, batch_size=2, max_trim=0)
    batch = SequentialTraining(build_learner(settings), domains, settings).dataset(Share())[0]
    for sequence in batch["images"]:
        assert len({image.numpy().tobytes() for image in sequence}) == 2 * 3 * 8
    plain = dataclasses.replace(settings, augment=False)
    with pytest.raises(ValueError, match="k_shot=8 needs at least 9 images"):
        SequentialTraining(build_learner(plain), domains, plain)
