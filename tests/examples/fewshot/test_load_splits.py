"""One door to all data sets: what it checks, and what it does to the classes that it hands out."""

import dataclasses

import numpy as np
import pytest

from examples.fewshot import data
from examples.fewshot.data import load_splits
from examples.fewshot.data.classes import ImageClasses, Normalisation, Splits


def classes_of(channels: int, seed: int) -> ImageClasses:
    rng = np.random.default_rng(seed)
    return ImageClasses(
        images=rng.integers(0, 256, (6, channels, 8, 8), np.uint8),
        offsets=np.array([0, 3, 6]),
        names=(f"a{seed}", f"b{seed}"),
        alphabets=("A", "B"),
    )


@pytest.fixture
def asked(monkeypatch):
    """Every set's loader replaced by one that records how it was called."""
    calls = []

    def replacement(name: str, channels: int):
        def load(*args, **kwargs):
            calls.append((name, args, kwargs))
            return Splits(*(classes_of(channels, seed) for seed in range(3)))

        return load

    sets = {
        name: dataclasses.replace(known, load=replacement(name, known.channels))
        for name, known in data._SETS.items()
    }
    monkeypatch.setattr(data, "_SETS", sets)
    return calls


def test_sets_on_disk_are_read_below_their_root(asked):
    load_splits("fc100", root="somewhere", download=True, image_size=16)
    load_splits("glyphs", cache="there", image_size=14)
    assert asked == [
        ("fc100", ("somewhere",), {"download": True, "image_size": 16}),
        ("glyphs", ("there",), {"image_size": 14}),
    ]


@pytest.mark.parametrize("rotate", ["none", "train", "all"])
def test_turned_classes_of_the_splits_that_were_asked_for(asked, rotate):
    splits = load_splits("omniglot", root="r", rotate=rotate)
    counts = {"none": (2, 2, 2), "train": (8, 2, 2), "all": (8, 8, 8)}
    assert (
        tuple(len(part.names) for part in (splits.train, splits.validation, splits.test)) == counts[rotate]
    )


def test_published_omniglot_statistics_are_those_of_images_that_are_not_inverted(asked):
    published = load_splits("omniglot", root="r", normalise="published")
    for part in (published.train, published.validation, published.test):
        assert part.normalisation == Normalisation(mean=(0.922,), std=(0.084,))
    assert load_splits("omniglot", root="r").train.normalisation is None


@pytest.mark.parametrize("name", ["omniglot", "miniimagenet", "textures"])
def test_correct_statistics_are_those_of_the_training_images(asked, name):
    root = None if name == "textures" else "r"
    splits = load_splits(name, root=root, normalise="correct")
    pixels = splits.train.images / 255
    for part in (splits.train, splits.validation, splits.test):
        assert part.normalisation is not None
        np.testing.assert_allclose(part.normalisation.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose(part.normalisation.std, pixels.std(axis=(0, 2, 3)), rtol=1e-6)


def test_grey_images_in_three_channels(asked):
    splits = load_splits("omniglot", root="r", channels=3)
    assert splits.test.picture_shape == (3, 8, 8)
    assert load_splits("omniglot", root="r").test.picture_shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "imagenet"}, "name must be one of glyphs, .*, got 'imagenet'"),
        ({"name": "glyphs", "normalise": "yes"}, "normalise must be one of none, published, correct"),
        ({"name": "glyphs", "rotate": "test"}, "rotate must be one of none, train, all, got 'test'"),
        ({"name": "glyphs", "image_size": 0}, "image_size must be at least 1, got 0"),
        ({"name": "textures", "channels": 1}, "channels of 'textures' must be 3, got 1"),
        ({"name": "glyphs", "channels": 2}, "channels of 'glyphs' must be 1 or 3, got 2"),
        ({"name": "glyphs", "normalise": "published"}, "no published script normalises name='glyphs'"),
        ({"name": "glyphs", "root": "r"}, "made by the program and takes neither root nor download"),
        ({"name": "textures", "download": True}, "takes neither root nor download"),
        ({"name": "omniglot"}, "name='omniglot' needs root"),
        ({"name": "cifarfs", "root": "r", "cache": "c"}, "takes no cache, got 'c'"),
    ],
)
def test_arguments_that_do_not_fit(asked, arguments, message):
    with pytest.raises(ValueError, match=f"load_splits: .*{message}"):
        load_splits(**arguments)
    assert asked == []
