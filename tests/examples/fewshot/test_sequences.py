"""Sequences of two tasks: what is shown when, what is trimmed, and that (seed, i) decides all of it."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest
import torch

from examples.fewshot.data.classes import ImageClasses
from examples.fewshot.data.sequences import Sequences, SequenceSampler

N, K = 3, 4


def numbered(first: int, count: int, per_class: int = 6, shape=(1, 4, 4)) -> ImageClasses:
    """Classes numbered from `first`; of each image, pixel 0 is the class and pixel 1 the image."""
    images = np.zeros((count * per_class, *shape), np.uint8)
    images[:, 0, 0, 0] = first + np.repeat(np.arange(count), per_class)
    images[:, 0, 0, 1] = np.tile(np.arange(per_class), count)
    names = tuple(f"class {first + c}" for c in range(count))
    return ImageClasses(images, np.arange(count + 1) * per_class, names, ("LATIN",) * count)


FIRST, SECOND = numbered(0, 5), numbered(100, 7)


def sampler(**changes) -> SequenceSampler:
    options = {"n_way": N, "k_shot": K, "seed": 0, "augment": False, "batch_size": 8}
    return SequenceSampler(FIRST, SECOND, **(options | changes))


def classes_of(drawn: Sequences) -> torch.Tensor:
    return (255 * drawn.images[:, :, 0, 0, 0]).round().long()


def images_of(drawn: Sequences) -> torch.Tensor:
    return (255 * drawn.images[:, :, 0, 0, 1]).round().long()


def assert_same(one: Sequences, other: Sequences) -> None:
    for field in dataclasses.fields(Sequences):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b)), field.name


@pytest.mark.parametrize("order", ["first", "second"])
def test_each_task_shows_every_class_k_times_and_belongs_to_its_domain(order):
    drawn = sampler(order=order).batch(3, 20)
    assert drawn.images.shape == (20, 2 * N * K, 1, 4, 4)
    assert drawn.switch == N * K
    leader = int(order == "second")
    assert drawn.tasks.tolist() == [[leader] * N * K + [1 - leader] * N * K] * 20
    kinds, images = classes_of(drawn), images_of(drawn)
    for sequence, half in itertools.product(range(20), (slice(N * K), slice(N * K, None))):
        task = int(drawn.tasks[sequence, half][0])
        shown = kinds[sequence, half].tolist()
        assert all((kind >= 100) == bool(task) for kind in shown)
        labels = drawn.labels[sequence, half].tolist()
        assert collections.Counter(labels) == dict.fromkeys(range(N), K)
        assert len(set(zip(shown, labels, strict=True))) == N, "one label for each class"
        assert len(set(zip(shown, images[sequence, half].tolist(), strict=True))) == N * K
    assert len({tuple(row) for row in drawn.labels.tolist()}) == 20, "always in the same order"


def test_the_labels_of_the_two_tasks_are_permuted_independently():
    """Which of two classes got which label: the same in both tasks as often as not."""
    twins = numbered(0, 2)
    drawn = SequenceSampler(twins, twins, n_way=2, k_shot=1, seed=0, order="first", augment=False).batch(
        0, 4000
    )
    label_of_class_0 = torch.where(classes_of(drawn) == 0, drawn.labels, 0).unflatten(1, (2, 2)).sum(2)
    pairs = collections.Counter(map(tuple, label_of_class_0.tolist()))
    order_of_classes = classes_of(drawn)[:, [0, 2]]
    pairs_of_orders = collections.Counter(map(tuple, order_of_classes.tolist()))
    for counts in (pairs, pairs_of_orders):
        assert len(counts) == 4
        assert all(abs(count - 1000) < 140 for count in counts.values()), counts  # 5 sd of 27


@pytest.mark.parametrize("max_trim", [0, 7])
def test_the_label_shown_is_that_of_the_image_before_also_across_the_switch(max_trim):
    for batch in range(4):
        drawn = sampler(max_trim=max_trim).batch(8 * batch, 8)
        assert torch.equal(drawn.shown[:, 1:], drawn.labels[:, :-1])
        assert torch.equal(drawn.shown[:, drawn.switch], drawn.labels[:, drawn.switch - 1])
        assert drawn.tasks[:, drawn.switch - 1].tolist() != drawn.tasks[:, drawn.switch].tolist()


@pytest.mark.parametrize(("unknown_label", "shown"), [("class_0", 0), ("nothing", -1)])
def test_the_first_position_shows_class_0_or_nothing(unknown_label, shown):
    drawn = sampler(unknown_label=unknown_label).batch(0, 8)
    assert drawn.shown[:, 0].tolist() == [shown] * 8


def test_trims_are_uniform_inclusive_at_both_ends_and_independent():
    layouts = [sampler(max_trim=3).layout(batch) for batch in range(1600)]
    lost = collections.Counter(tuple(N * K - length for length in layout.lengths) for layout in layouts)
    assert set(lost) == set(itertools.product(range(4), range(4)))
    assert all(abs(count - 100) < 49 for count in lost.values()), lost  # 5 sd of 9.7
    both = collections.Counter((layout.order, layout.lengths[0]) for layout in layouts)
    assert all(abs(count - 200) < 67 for count in both.values()), both  # the order too


@pytest.mark.parametrize("augment", [False, True])
def test_a_trimmed_task_is_the_beginning_of_the_whole_one(augment):
    whole = sampler(order="second", augment=augment).batch(0, 8)
    trimmed = sampler(order="second", max_trim=7, augment=augment)
    layout, drawn = trimmed.layout(0), trimmed.batch(0, 8)
    assert min(layout.lengths) < N * K, "no trim in this batch; choose another seed"
    assert drawn.switch == layout.lengths[1]
    assert drawn.labels.shape == (8, sum(layout.lengths))
    parts = [slice(layout.lengths[1]), slice(N * K, N * K + layout.lengths[0])]
    for name in ("images", "labels", "tasks"):
        expected = torch.cat([getattr(whole, name)[:, part] for part in parts], dim=1)
        assert torch.equal(getattr(drawn, name), expected), name


def test_orders():
    leaders = {
        order: [sampler(order=order).layout(batch).order[0] for batch in range(400)]
        for order in ("random", "alternating", "first", "second")
    }
    assert leaders["first"] == [0] * 400
    assert leaders["second"] == [1] * 400
    assert leaders["alternating"] == [0, 1] * 200
    assert 150 < sum(leaders["random"]) < 250
    assert sampler(order="alternating").batch(8, 8).tasks[:, 0].tolist() == [1] * 8


@pytest.mark.parametrize("augment", [False, True])
def test_parts_of_a_batch_join_to_the_same_batch(augment):
    """Whatever the number of processes, workers and micro-batches that share it out."""
    draw = sampler(max_trim=7, augment=augment)
    for batch in range(3):
        whole = draw.batch(8 * batch, 8)
        for size in (1, 4):
            parts = [
                sampler(max_trim=7, augment=augment).batch(8 * batch + i, size) for i in range(0, 8, size)
            ]
            joined = {
                name: torch.cat([getattr(part, name) for part in parts])
                for name in ("images", "shown", "labels", "tasks")
            }
            assert {part.switch for part in parts} == {whole.switch}
            assert_same(Sequences(**joined, switch=whole.switch), whole)


def test_seeds_and_sequences_differ():
    mine = {image.numpy().tobytes() for image in sampler().batch(0, 8).images}
    assert len(mine) == 8
    for other in (sampler(seed=1).batch(0, 8), sampler().batch(8, 8)):
        assert mine.isdisjoint(image.numpy().tobytes() for image in other.images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_trim": N * K}, r"max_trim must be at least 0 and below n_way \* k_shot = 12, .* got 12"),
        ({"max_trim": -1}, "max_trim must be at least 0"),
        ({"order": "third"}, "order must be one of random, alternating, first, second, got 'third'"),
        ({"unknown_label": "zero"}, "unknown_label must be one of class_0, nothing, got 'zero'"),
        ({"seed": -1}, "SequenceSampler: seed must be non-negative, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"n_way": 6}, "n_way=6 needs as many classes, got 5"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        sampler(**changes)


def test_images_of_two_shapes_are_refused():
    with pytest.raises(
        ValueError, match=r"must have one shape, got \(1, 4, 4\) and \(1, 5, 5\); load both"
    ):
        SequenceSampler(FIRST, numbered(0, 5, shape=(1, 5, 5)), n_way=N, k_shot=K, seed=0)


@pytest.mark.parametrize(("first", "size"), [(-1, 1), (0, 0)])
def test_batch_refuses(first, size):
    with pytest.raises(ValueError, match=f"got first={first}, size={size}"):
        sampler().batch(first, size)


def test_sequences_of_two_batches_have_no_common_layout():
    with pytest.raises(ValueError, match="must be of one batch of 8, got first=7, size=2"):
        sampler().batch(7, 2)
    assert len(sampler(order="first").batch(7, 2).labels) == 2
