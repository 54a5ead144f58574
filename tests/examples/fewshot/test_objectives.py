"""What holds for every objective: which images a step shows, whoever carries it out, and what learns."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from examples.fewshot.bootstrapping import Bootstrapping
from examples.fewshot.continual import ContinualTraining
from examples.fewshot.data.classes import ImageClasses
from examples.fewshot.models import build_learner
from examples.fewshot.objectives import EncoderWarmup, EpisodeTraining, cosines_to_classes
from examples.fewshot.sequential import SequentialTraining
from examples.fewshot.settings import Settings
from examples.training.objective import Batch, Objective, Share
from tests.examples.fewshot.conftest import patterns

K, J, CLASSES, IMAGES = 2, 1, 12, 6  # shots, future shots, classes of a domain and images of each
POSITIONS = ("support", "future", "query", "positions")
KINDS = {
    "sync": (EpisodeTraining, {}),
    "bootstrapping": (Bootstrapping, {"future_shots": J}),
    "sequential": (SequentialTraining, {"second_data": "textures", "max_trim": 4}),
    "two tasks": (ContinualTraining, {"protocol": "continual", "second_data": "textures"}),
    "continual": (ContinualTraining, {"second_data": "textures", "third_data": "digits"}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
with_and_without_pools = pytest.mark.parametrize("pools", [0, 4])


def make(kind: str, settings: Settings, **changes) -> Objective:
    """An objective on domains of which image i, counted over all of them, is of pixels i if undistorted."""
    objective, own = KINDS[kind]
    given = {"protocol": kind, "k_shot": K, "pool_images": 5, "queries": 3, "dropout": 0.0}
    settings = dataclasses.replace(settings, **(given | own | changes))
    domains = [numbered(patterns(CLASSES, IMAGES, n), 72 * n) for n in range(len(settings.data_sets))]
    return objective(build_learner(settings), domains if len(domains) > 1 else domains[0], settings)


def numbered(classes: ImageClasses, shift: int) -> ImageClasses:
    numbers = (shift + np.arange(len(classes.images))).astype(np.uint8)
    images = np.zeros_like(classes.images)
    images[:] = numbers.reshape(-1, *[1] * (images.ndim - 1))
    return dataclasses.replace(classes, images=images)


def joined(objective: Objective, step: int, processes: int, accumulation: int) -> list[Batch]:
    """The micro-batches of a step, in the order of what they hold; images in the place of positions."""
    batches = []
    for part, rank in itertools.product(range(accumulation), range(processes)):
        batch = objective.dataset(Share(rank, processes, accumulation))[step * accumulation + part]
        images = batch.pop("images").flatten(0, -4)
        batches.append({name: images[a] if name in POSITIONS else a for name, a in batch.items()})
    return batches


@with_and_without_pools
@every_kind
def test_a_step_is_the_same_for_any_number_of_processes_and_micro_batches(settings, kind, pools):
    objective = make(kind, settings, pools=pools)
    for step in (0, 3):
        [whole] = joined(objective, step, 1, 1)
        for processes, accumulation in ((2, 1), (1, 2), (2, 2)):
            parts = joined(objective, step, processes, accumulation)
            for part in parts:
                if "order" in part:
                    assert torch.equal(part.pop("order"), whole["order"])
            for name in parts[0]:
                assert torch.equal(torch.cat([part[name] for part in parts]), whole[name]), name


@pytest.mark.parametrize(
    ("kind", "changes", "share", "message"),
    [
        ("sync", {}, Share(0, 3, 1), "--batch-size must be a multiple of processes . accumulation"),
        ("sequential", {"pools": 4}, Share(1, 4, 2), "--pools must be a multiple of processes"),
    ],
)
def test_a_step_that_cannot_be_shared_is_refused(settings, kind, changes, share, message):
    with pytest.raises(ValueError, match=message):
        make(kind, settings, **changes).dataset(share)


@with_and_without_pools
@every_kind
def test_each_task_shows_images_of_its_domain_once_and_names_its_classes(settings, kind, pools):
    objective = make(kind, settings, pools=pools, augment=False, max_trim=0)
    drawn, orders = [], set()
    for step in range(4):
        [batch] = joined(objective, step, 1, 1)
        if kind == "sequential":
            assert torch.equal(batch["shown"][:, 1:], batch["labels"][:, :-1])
            assert batch["shown"][:, 0].tolist() == [0] * 8
        for name in batch.keys() & {*POSITIONS}:
            batch[name] = (255 * batch[name][..., 0, 0, 0]).round().long()
        for unit in range(8):
            for task, (shown, asked) in enumerate(tasks_of(batch, unit)):
                numbers, labels = zip(*shown, strict=True)
                orders.add(labels)
                drawn.append(tuple(number - 72 * task for number in numbers))
                assert len(set(numbers)) == len(shown), "an image is shown twice"
                assert not set(numbers) & {number for number, _ in asked}, "a query is shown with its label"
                named = {(number // IMAGES, label) for number, label in shown + asked}
                assert {number // CLASSES for number, _ in named} == {task}, "of another domain"
                assert [len(set(column)) for column in (named, *zip(*named, strict=True))] == [3, 3, 3]
    assert len(set(drawn)) == len(drawn), "two tasks draw the same numbers"
    assert len(orders) > 8, "the classes always come in the same order"


@pytest.mark.parametrize("kind", ["sequential", "two tasks", "continual"])
def test_every_order_of_the_tasks_comes(settings, kind):
    objective = make(kind, settings, pools=0)
    drawn = [objective.draw(8 * step, 1) for step in range(40)]
    orders = {
        tuple(one["order"].tolist() if "order" in one else one["tasks"][0].unique_consecutive().tolist())
        for one in drawn
    }
    assert orders == set(itertools.permutations(range(len(objective.domains))))


def tasks_of(batch: Batch, unit: int):
    """For each domain, the numbers of the images that are shown and asked for, each with its label."""

    def pairs(name: str, *where) -> list[tuple[int, int]]:
        return list(zip(batch[name][where].tolist(), batch[f"{name}_labels"][where].tolist(), strict=True))

    if "tasks" in batch:
        for task in (0, 1):
            of_task = batch["tasks"][unit] == task
            numbers, labels = (batch[name][unit][of_task].tolist() for name in ("positions", "labels"))
            assert sorted(labels) == sorted([*range(3)] * K)
            yield list(zip(numbers, labels, strict=True)), []
        return
    places = [(unit, task) for task in range(batch["support"].shape[1])] if "order" in batch else [(unit,)]
    for place in places:
        shown = pairs("support", *place)
        assert sorted(label for _, label in shown) == sorted([*range(3)] * K)
        if "future" in batch:
            more = pairs("future", *place)
            assert sorted(label for _, label in more) == sorted([*range(3)] * J)
            shown += more
        yield shown, pairs("query", *place)


@pytest.mark.parametrize("train_encoder", [False, True])
@every_kind
def test_the_encoder_learns_only_if_asked_to_and_at_its_own_rate(settings, kind, train_encoder):
    objective = make(kind, settings, train_encoder=train_encoder, batch_size=4, pools=0)
    objective(objective.dataset(Share())[0])["loss"].backward()
    touched = {name: p for name, p in objective.learner.named_parameters() if p.grad is not None}
    every = {name for name, _ in objective.learner.named_parameters()}
    assert touched.keys() == {name for name in every if train_encoder or not name.startswith("encoder.")}
    assert objective.learner.encoder.training == train_encoder
    rates = {id(p): group["lr"] for group in objective.parameter_groups() for p in group["params"]}
    peak, factor = settings.learning_rate, settings.encoder_learning_rate_factor
    assert rates == {
        id(p): peak * factor if name.startswith("encoder.") else peak for name, p in touched.items()
    }


def test_the_warmup_trains_the_encoder_and_nothing_else_of_the_learner(settings, splits):
    objective = EncoderWarmup(build_learner(settings), [splits.train], settings)
    objective(objective.dataset(Share())[0])["loss"].backward()
    for name, parameter in objective.learner.named_parameters():
        assert (parameter.grad is not None) == name.startswith("encoder."), name


def test_cosines_leave_the_image_itself_out():
    features = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    cosines = cosines_to_classes(features)
    directions = features / features.norm(dim=-1, keepdim=True)
    for own, image, other in itertools.product(range(4), range(3), range(4)):
        mean = directions[other, [m for m in range(3) if (own, image) != (other, m)]].mean(dim=0)
        expected = torch.cosine_similarity(features[own, image], mean, dim=0)
        torch.testing.assert_close(cosines[own, image, other], expected)
