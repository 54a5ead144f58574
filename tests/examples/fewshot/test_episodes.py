"""Episodes: what is drawn, that it depends on (seed, i) alone, and the distortion of images."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from examples.fewshot.data.episodes import (
    Episodes,
    EpisodeSampler,
    ImageClasses,
    _pictures,
    class_batch,
)

SIZES = (4, 9, 5, 4, 7, 6, 12, 4)


def make_classes(sizes=SIZES, side=28, seed=0):
    """Random images whose first two pixels hold their class and their position in it."""
    images = np.random.default_rng(seed).integers(0, 256, (sum(sizes), side, side), np.uint8)
    images[:, 0, 0] = np.repeat(np.arange(len(sizes)), sizes)
    images[:, 0, 1] = np.concatenate([np.arange(size) for size in sizes])
    names = tuple(f"class {c}" for c in range(len(sizes)))
    return ImageClasses(images, np.cumsum([0, *sizes]), names, ("LATIN",) * len(sizes))


def tags(images):
    """(..., 1, H, W) float32 -> the class and the position of every image, each (...) int64."""
    return (images[..., 0, 0, :2] * 255).round().long().unbind(-1)


def assert_same(left: Episodes, right: Episodes):
    for field in dataclasses.fields(Episodes):
        a, b = getattr(left, field.name), getattr(right, field.name)
        assert a.dtype == b.dtype, field.name
        assert torch.equal(a, b), field.name


def rows(episodes: Episodes, start, stop):
    fields = dataclasses.fields(Episodes)
    return Episodes(**{f.name: getattr(episodes, f.name)[start:stop] for f in fields})


@pytest.mark.parametrize(("n_way", "k_shot", "n_query"), [(5, 1, 1), (2, 3, 7), (8, 2, 4), (1, 1, 1)])
def test_shapes_and_dtypes(n_way, k_shot, n_query):
    sampler = EpisodeSampler(make_classes(), n_way=n_way, k_shot=k_shot, n_query=n_query, seed=1)
    episodes = sampler.batch(3, 6)
    assert episodes.support.shape == (6, n_way * k_shot, 1, 28, 28)
    assert episodes.support_labels.shape == (6, n_way * k_shot)
    assert episodes.query.shape == (6, n_query, 1, 28, 28)
    assert episodes.query_labels.shape == (6, n_query)
    assert episodes.classes.shape == (6, n_way)
    for images in (episodes.support, episodes.query):
        assert images.dtype == torch.float32
        assert images.min() >= 0
        assert 0.5 < images.max() <= 1
    for labels in (episodes.support_labels, episodes.query_labels, episodes.classes):
        assert labels.dtype == torch.int64


@pytest.mark.parametrize(("n_way", "k_shot", "n_query"), [(5, 1, 1), (3, 3, 6), (8, 2, 4)])
def test_labels_name_the_classes_and_queries_are_not_in_the_support(n_way, k_shot, n_query):
    sampler = EpisodeSampler(
        make_classes(), n_way=n_way, k_shot=k_shot, n_query=n_query, seed=0, augment=False
    )
    episodes = sampler.batch(0, 300)
    support_class, support_position = tags(episodes.support)
    query_class, query_position = tags(episodes.query)
    assert torch.equal(support_class, episodes.classes.gather(1, episodes.support_labels))
    assert torch.equal(query_class, episodes.classes.gather(1, episodes.query_labels))
    for e in range(300):
        assert len(set(episodes.classes[e].tolist())) == n_way
        counts = torch.bincount(episodes.support_labels[e], minlength=n_way)
        assert counts.tolist() == [k_shot] * n_way
        support = set(zip(support_class[e].tolist(), support_position[e].tolist(), strict=True))
        query = set(zip(query_class[e].tolist(), query_position[e].tolist(), strict=True))
        assert len(support) == n_way * k_shot
        assert not support & query


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize(("n_way", "k_shot", "n_query"), [(5, 1, 1), (3, 2, 5)])
@pytest.mark.parametrize("side", [28, 27])
def test_an_episode_is_the_same_to_the_bit_in_every_batch(augment, n_way, k_shot, n_query, side):
    sampler = EpisodeSampler(
        make_classes(side=side),
        n_way=n_way,
        k_shot=k_shot,
        n_query=n_query,
        seed=5,
        augment=augment,
    )
    whole = sampler.batch(100, 33)
    for first, size in ((100, 1), (101, 2), (107, 13), (132, 1), (120, 8)):
        part = sampler.batch(first, size)
        assert_same(part, rows(whole, first - 100, first - 100 + size))


def test_an_episode_does_not_depend_on_the_number_of_threads():
    sampler = EpisodeSampler(make_classes(), n_way=5, k_shot=2, n_query=3, seed=5)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = sampler.batch(0, 40)
        torch.set_num_threads(3)
        together = sampler.batch(0, 40)
    finally:
        torch.set_num_threads(threads)
    assert_same(alone, together)


def test_episodes_and_seeds_differ():
    def sampler(seed):
        return EpisodeSampler(make_classes(), n_way=3, k_shot=1, n_query=2, seed=seed)

    episodes = sampler(0).batch(0, 200)
    assert len({images.numpy().tobytes() for images in episodes.support}) == 200
    others = sampler(1).batch(0, 200)
    mine = {images.numpy().tobytes() for images in episodes.support}
    assert mine.isdisjoint(images.numpy().tobytes() for images in others.support)


def test_distortion_does_not_change_what_is_drawn():
    options = {"n_way": 4, "k_shot": 2, "n_query": 3, "seed": 2}
    plain = EpisodeSampler(make_classes(), **options, augment=False).batch(0, 50)
    moved = EpisodeSampler(make_classes(), **options).batch(0, 50)
    for name in ("support_labels", "query_labels", "classes"):
        assert torch.equal(getattr(plain, name), getattr(moved, name)), name
    assert not torch.equal(plain.support, moved.support)


def assert_uniform(values, count):
    """Each of ``count`` outcomes within five standard deviations of its expected number."""
    values = torch.as_tensor(values).flatten()
    observed = torch.bincount(values, minlength=count).double()
    expected = len(values) / count
    assert len(observed) == count
    assert (observed - expected).abs().max() < 5 * math.sqrt(expected * (1 - 1 / count))


def test_every_draw_is_uniform():
    sizes = (5,) * 6
    sampler = EpisodeSampler(make_classes(sizes), n_way=3, k_shot=2, n_query=1, seed=0, augment=False)
    episodes = sampler.batch(0, 20_000)
    for label in range(3):
        assert_uniform(episodes.classes[:, label], 6)
    for position in range(6):
        assert_uniform(episodes.support_labels[:, position], 3)
    assert_uniform(episodes.query_labels, 3)
    query_class, query_position = tags(episodes.query)
    assert_uniform(query_class * 5 + query_position, 30)
    first_class, first_position = (tag[:, 0] for tag in tags(episodes.support))
    assert_uniform(first_class * 5 + first_position, 30)
    # Which ordered pair of classes stands behind the first two labels: 6 * 5 of them.
    a, b = episodes.classes[:, 0], episodes.classes[:, 1]
    assert_uniform(a * 5 + b - (b > a).long(), 30)


def bar(side=28):
    """A horizontal bar through the centre, (1, 1, H, W) uint8."""
    image = np.zeros((1, 1, side, side), np.uint8)
    image[0, 0, side // 2 - 2 : side // 2 + 2, 6 : side - 6] = 255
    return image


def moved_bar(number, value):
    numbers = np.full((1, 6), 0.5)
    numbers[0, number] = value
    return _pictures(bar(), numbers, augment=True)[0, 0, 0].double()


def moments(image):
    """Mass, centre (x, y) in pixels, angle of the main axis in degrees, extent along x and y."""
    x, y = np.meshgrid(np.arange(28) - 13.5, np.arange(28) - 13.5)
    weights = image.numpy() / image.sum().item()
    cx, cy = (weights * x).sum(), (weights * y).sum()
    xx, yy = (weights * (x - cx) ** 2).sum(), (weights * (y - cy) ** 2).sum()
    xy = (weights * (x - cx) * (y - cy)).sum()
    angle = math.degrees(0.5 * math.atan2(2 * xy, xx - yy))
    return image.sum().item(), cx, cy, angle, math.sqrt(xx)


def test_distortions_are_what_they_are_called():
    still = _pictures(bar(), np.full((1, 6), 0.5), augment=True)
    assert torch.equal(still, torch.from_numpy(bar()).unsqueeze(2).float() / 255)
    mass, _, _, _, wide = moments(still[0, 0, 0].double())

    rotation = 2 * math.degrees(math.atan(0.1))
    for value, angle in ((0.0, rotation), (1.0, -rotation)):
        turned = moments(moved_bar(0, value))
        assert turned[3] == pytest.approx(angle, abs=0.2)
        assert turned[0] == pytest.approx(mass, rel=0.01)
    assert moments(moved_bar(1, 1.0))[4] == pytest.approx(wide * 1.15, rel=0.02)
    assert moments(moved_bar(1, 0.0))[4] == pytest.approx(wide * 0.85, rel=0.02)
    for number in (1, 2):
        for value, scale in ((0.0, 0.85), (1.0, 1.15)):
            assert moments(moved_bar(number, value))[0] == pytest.approx(mass * scale, rel=0.03)
    assert moments(moved_bar(2, 1.0))[4] == pytest.approx(wide, rel=0.001)
    slanted = moved_bar(3, 1.0)
    x = torch.arange(28) - 13.5
    centres = (slanted * x).sum(1)[12:16] / slanted.sum(1)[12:16]  # of four rows of the bar
    assert torch.diff(centres).tolist() == pytest.approx([-0.15] * 3, abs=0.02)
    assert moments(moved_bar(4, 1.0))[1:3] == pytest.approx((-2.1, 0), abs=0.01)
    assert moments(moved_bar(5, 0.0))[1:3] == pytest.approx((0, 2.1), abs=0.01)


def test_class_batch_is_a_function_of_seed_and_step():
    classes = make_classes()
    images, labels = class_batch(classes, 50, seed=3, step=7)
    again, same_labels = class_batch(classes, 50, seed=3, step=7)
    assert images.shape == (50, 1, 28, 28)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert torch.equal(images, again)
    assert torch.equal(labels, same_labels)
    for seed, step in ((3, 8), (4, 7)):
        assert not torch.equal(class_batch(classes, 50, seed=seed, step=step)[1], labels)


def test_class_batch_labels_its_images_and_is_uniform_over_classes():
    images, labels = class_batch(make_classes(), 20_000, seed=0, step=0, augment=False)
    image_class, position = tags(images)
    assert torch.equal(image_class, labels)
    assert_uniform(labels, len(SIZES))
    for c, size in enumerate(SIZES):
        assert_uniform(position[labels == c], size)


def test_warm_up_and_episodes_of_one_seed_share_no_numbers():
    classes = make_classes((2,) * 40)
    first_drawn = [
        (
            class_batch(classes, 1, seed=seed, step=0)[1].item(),
            EpisodeSampler(classes, n_way=1, k_shot=1, n_query=1, seed=seed).batch(0, 1).classes.item(),
        )
        for seed in range(100)
    ]
    assert sum(warm_up == episode for warm_up, episode in first_drawn) < 12  # 2.5 by chance


def test_subset_keeps_images_with_their_class():
    part = make_classes().subset([6, 1])
    assert part.names == ("class 6", "class 1")
    assert part.sizes.tolist() == [12, 9]
    assert part.images[:, 0, 0].tolist() == [6] * 12 + [1] * 9
    assert part.images[:, 0, 1].tolist() == [*range(12), *range(9)]
    assert make_classes().subset([]).images.shape == (0, 28, 28)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_way": 0}, "n_way must be at least 1, got 0"),
        ({"k_shot": 0}, "k_shot must be at least 1, got 0"),
        ({"n_query": -1}, "n_query must be at least 1, got -1"),
        ({"n_way": 9}, "n_way=9 needs as many classes, got 8; lower n_way"),
        ({"k_shot": 4}, "needs at least 5 images in every class .* 'class 0' has 4; lower k_shot"),
        ({"seed": -1}, "EpisodeSampler: seed must be non-negative, got -1"),
    ],
)
def test_sampler_refuses(change, message):
    options = {"n_way": 2, "k_shot": 1, "n_query": 1, "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        EpisodeSampler(make_classes(), **options)


@pytest.mark.parametrize(("first", "size"), [(-1, 1), (0, 0)])
def test_batch_refuses(first, size):
    sampler = EpisodeSampler(make_classes(), n_way=2, k_shot=1, n_query=1, seed=0)
    with pytest.raises(ValueError, match=f"got first={first}, size={size}"):
        sampler.batch(first, size)


@pytest.mark.parametrize(
    ("size", "step", "seed", "message"),
    [
        (0, 0, 0, "got size=0, step=0"),
        (1, -1, 0, "got size=1, step=-1"),
        (1, 0, -1, "class_batch: seed must be non-negative, got -1"),
    ],
)
def test_class_batch_refuses(size, step, seed, message):
    with pytest.raises(ValueError, match=message):
        class_batch(make_classes(), size, step=step, seed=seed)


@pytest.mark.parametrize("sizes", [(), (3, 0, 2)])
def test_class_batch_refuses_empty_classes(sizes):
    empty = ImageClasses(
        np.zeros((sum(sizes), 28, 28), np.uint8),
        np.cumsum([0, *sizes]),
        ("a",) * len(sizes),
        ("LATIN",) * len(sizes),
    )
    with pytest.raises(ValueError, match="every class needs an image"):
        class_batch(empty, 1, seed=0, step=0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": np.zeros((3, 28, 28))}, TypeError, "must be uint8 .*, got float64"),
        ({"images": np.zeros((3, 28), np.uint8)}, ValueError, r"shape \(I, H, W\), got \(3, 28\)"),
        ({"offsets": np.array([0, 3])}, ValueError, r"offsets of shape \(3,\) and 2 alphabets"),
        ({"alphabets": ("LATIN",)}, ValueError, r"2 alphabets, got \(3,\) and 1"),
        ({"offsets": np.array([0, 1, 2])}, ValueError, r"number of images \(3\), got 0 to 2"),
        ({"offsets": np.array([1, 2, 3])}, ValueError, r"number of images \(3\), got 1 to 3"),
        ({"offsets": np.array([0, 4, 3])}, ValueError, "offsets must rise"),
    ],
)
def test_image_classes_refuse_parts_that_do_not_fit(change, error, message):
    parts = {
        "images": np.zeros((3, 28, 28), np.uint8),
        "offsets": np.array([0, 1, 3]),
        "names": ("a", "b"),
        "alphabets": ("LATIN", "LATIN"),
    }
    with pytest.raises(error, match=message):
        ImageClasses(**(parts | change))
