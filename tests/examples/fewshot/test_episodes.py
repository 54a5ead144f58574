"""Episodes: what is drawn, that it depends on (seed, i) alone, and the distortion of images."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.fewshot.data.classes import Normalisation, distorted
from examples.fewshot.data.episodes import EpisodeSampler
from tests.examples.fewshot.numbered import SIZES, make_classes, tags


@st.composite
def samplers(draw, sides=(4,), augment=(False, True)):
    """A sampler of any classes that have enough images, and for any episodes."""
    k_shot = draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(k_shot + 1, 12), min_size=1, max_size=8))
    return EpisodeSampler(
        make_classes(sizes, draw(st.sampled_from(sides)), draw(st.sampled_from([1, 3]))),
        n_way=draw(st.integers(1, len(sizes))),
        k_shot=k_shot,
        n_query=draw(st.integers(1, 7)),
        seed=draw(st.integers(0, 2**64)),
        augment=draw(st.sampled_from(augment)),
    )


@given(samplers(augment=[False]), st.integers(0, 2**40), st.integers(1, 40))
def test_labels_name_the_classes_and_no_image_is_used_twice(sampler, first, size):
    n_way, k_shot, n_query = sampler.n_way, sampler.k_shot, sampler.n_query
    episodes = sampler.batch(first, size)
    for images, labels, count in (
        (episodes.support, episodes.support_labels, n_way * k_shot),
        (episodes.query, episodes.query_labels, n_query),
    ):
        assert images.shape == (size, count, *sampler.classes.picture_shape)
        assert images.dtype == torch.float32
        assert 0 <= images.min() <= images.max() <= 1
        assert labels.dtype == torch.int64
        assert torch.equal(tags(images)[0], episodes.classes.gather(1, labels))
    assert episodes.classes.shape == (size, n_way)
    counts = torch.nn.functional.one_hot(episodes.support_labels, n_way).sum(dim=1)
    assert torch.equal(counts, torch.full_like(counts, k_shot))
    for e in range(size):
        assert len(set(episodes.classes[e].tolist())) == n_way
        support, query = (
            set(zip(*(tag[e].tolist() for tag in tags(images)), strict=True))
            for images in (episodes.support, episodes.query)
        )
        assert len(support) == n_way * k_shot
        assert not support & query


@settings(max_examples=40)
@given(
    samplers(sides=[27, 28, 84]),
    st.integers(0, 2**40),
    st.lists(st.integers(1, 9), min_size=2, max_size=4),
)
def test_an_episode_is_the_same_to_the_bit_however_a_batch_is_shared_out(sampler, first, sizes):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)  # a worker has one
        whole = sampler.batch(first, sum(sizes))
    finally:
        torch.set_num_threads(threads)
    start = 0
    for size in sizes:
        for name, value in vars(sampler.batch(first + start, size)).items():
            assert torch.equal(value, getattr(whole, name)[start : start + size]), name
        start += size


# What a seed drew when images had one channel only and no normalisation: it draws so for ever.
_CLASSES = [[1, 0, 3, 6, 4], [1, 3, 4, 6, 0], [7, 0, 5, 4, 3]]
_SUPPORT_LABELS = [1, 4, 2, 4, 3, 0, 1, 3, 0, 2]
_QUERY_LABELS = [[2, 3, 4], [4, 3, 2], [1, 1, 3]]
_SUMS = {  # of the first episode: four images of its support, and its queries
    False: (394.701968, 395.262753, 373.964714, 382.643145, 387.901968, 391.870596, 390.168635),
    True: (354.053312, 362.994865, 291.504256, 310.722167, 381.774043, 340.692854, 368.287523),
}


@pytest.mark.parametrize("augment", [True, False])
def test_a_seed_shows_the_same_pictures_for_ever(augment):
    images = np.random.default_rng(0).integers(0, 256, (sum(SIZES), 1, 28, 28), np.uint8)
    classes = dataclasses.replace(make_classes(), images=images)
    sampler = EpisodeSampler(classes, n_way=5, k_shot=2, n_query=3, seed=5, augment=augment)
    drawn = sampler.batch(100, 3)
    assert drawn.classes.tolist() == _CLASSES
    assert drawn.support_labels[0].tolist() == _SUPPORT_LABELS
    assert drawn.query_labels.tolist() == _QUERY_LABELS
    sums = torch.cat([drawn.support[0, :4], drawn.query[0]]).double().sum(dim=(1, 2, 3))
    assert sums.tolist() == pytest.approx(_SUMS[augment], rel=1e-6)


@pytest.mark.parametrize("stored", [1, 3])
@pytest.mark.parametrize("augment", [True, False])
def test_grey_is_repeated_and_normalisation_is_of_the_distorted_pixels(stored, augment):
    normalisation = Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    options = {"n_way": 3, "k_shot": 2, "n_query": 4, "seed": 1, "augment": augment}
    plain = EpisodeSampler(make_classes(side=84, channels=stored), **options).batch(7, 3)
    classes = dataclasses.replace(
        make_classes(side=84, channels=stored), channels=3, normalisation=normalisation
    )
    normalised = EpisodeSampler(classes, **options).batch(7, 3)
    for pixels, scaled in ((plain.support, normalised.support), (plain.query, normalised.query)):
        assert scaled.dtype == torch.float32
        assert scaled.shape[2:] == (3, 84, 84)
        for c in range(3):
            expected = (pixels[:, :, c % stored] - normalisation.mean[c]) / normalisation.std[c]
            assert torch.equal(scaled[:, :, c], expected)


def test_colours_are_distorted_alike_and_mirrored_at_the_edges():
    numbers = np.random.default_rng(0).random((2, 5 * 6))
    colour = torch.rand(2, 5, 3, 12, 12).add_(1).mul_(0.5)
    moved = distorted(colour, numbers)
    assert moved.shape == colour.shape
    assert moved.min() >= 0.5, "something dark came in from outside"
    for c in range(3):
        alone = distorted(colour[:, :, [c] * 3], numbers)
        assert torch.equal(alone[:, :, 0], moved[:, :, c])
    assert distorted(colour[:, :, :1], numbers).min() == 0, "a grey image's outside is paper"


def test_episodes_and_seeds_differ_and_distortion_does_not_change_what_is_drawn():
    options = {"n_way": 3, "k_shot": 1, "n_query": 2}
    plain, moved, other = (
        EpisodeSampler(make_classes(), **options, seed=seed, augment=augment).batch(0, 200)
        for seed, augment in ((0, False), (0, True), (1, True))
    )
    for name in ("support_labels", "query_labels", "classes"):
        assert torch.equal(getattr(plain, name), getattr(moved, name)), name
    shown = {images.numpy().tobytes() for drawn in (plain, moved, other) for images in drawn.support}
    assert len(shown) == 600


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


def moved_bar(**numbers):
    """A horizontal bar through the centre, distorted by the numbers that are not 0.5: (28, 28)."""
    image = torch.zeros(1, 1, 1, 28, 28)
    image[..., 12:16, 6:22] = 1
    of = [numbers.get(name, 0.5) for name in ("turn", "wide", "high", "slant", "right", "down")]
    return distorted(image, np.array([of]))[0, 0, 0].double()


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
    mass, _, _, _, wide = moments(moved_bar())
    assert moved_bar().unique().tolist() == [0, 1], "it is distorted by nothing"
    rotation = 2 * math.degrees(math.atan(0.1))
    for value, angle in ((0.0, rotation), (1.0, -rotation)):
        turned = moments(moved_bar(turn=value))
        assert turned[3] == pytest.approx(angle, abs=0.2)
        assert turned[0] == pytest.approx(mass, rel=0.01)
    for value, scale in ((0.0, 0.85), (1.0, 1.15)):
        for name, extent, rel in (("wide", scale, 0.02), ("high", 1, 0.001)):
            scaled = moments(moved_bar(**{name: value}))
            assert scaled[0] == pytest.approx(mass * scale, rel=0.03)
            assert scaled[4] == pytest.approx(wide * extent, rel=rel)
    slanted = moved_bar(slant=1.0)
    centres = (slanted * (torch.arange(28) - 13.5)).sum(1)[12:16] / slanted.sum(1)[
        12:16
    ]  # of the bar's rows
    assert torch.diff(centres).tolist() == pytest.approx([-0.15] * 3, abs=0.02)
    assert moments(moved_bar(right=1.0))[1:3] == pytest.approx((-2.1, 0), abs=0.01)
    assert moments(moved_bar(down=0.0))[1:3] == pytest.approx((0, 2.1), abs=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_way": 0}, "n_way must be at least 1, got 0"),
        ({"k_shot": 0}, "k_shot must be at least 1, got 0"),
        ({"n_query": -1}, "n_query must be at least 1, got -1"),
    ],
)
def test_sampler_refuses(change, message):
    options = {"n_way": 2, "k_shot": 1, "n_query": 1, "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        EpisodeSampler(make_classes(), **options)
