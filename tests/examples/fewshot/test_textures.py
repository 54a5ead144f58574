"""The made-up surfaces: the same on every run, no class in two splits, and worth telling apart."""

import itertools

import numpy as np
import pytest

from examples.fewshot.data import textures
from examples.fewshot.data.texture_families import FAMILIES

FAMILY_NAMES = [family.__name__ for family in FAMILIES]


@pytest.fixture(scope="module")
def classes():
    """Two images of every class."""
    return textures.make_classes(images=2)


def test_splits_share_no_class(classes):
    splits = textures.split_classes(classes)
    parts = [*splits]
    assert [len(part.names) for part in parts] == [64, 16, 20]
    assert sorted(name for part in parts for name in part.names) == sorted({*classes.names})
    seen = set(splits.train.alphabets)
    assert seen == set(splits.validation.alphabets) == set(FAMILY_NAMES) - set(textures.HELD_OUT)
    assert set(splits.test.alphabets) == set(FAMILY_NAMES)
    for part in parts:
        assert [name.split()[0] for name in part.names] == list(part.alphabets)
        assert part.images.shape == (2 * len(part.names), 3, 84, 84)
        assert part.images.dtype == np.uint8


def test_no_two_classes_of_a_family_share_a_trait():
    traits = np.array([textures.traits_of(c) for c in range(textures.CLASSES_PER_FAMILY)])
    assert 0 < traits.min() < traits.max() < 1
    for trait in traits.T:
        assert len(set(trait.tolist())) == textures.CLASSES_PER_FAMILY
    held_out = {*textures.VALIDATION, *textures.TEST}
    assert len(held_out) == 4
    for one, other in itertools.combinations(range(4), 2):
        assert abs(np.corrcoef(traits[:, one], traits[:, other])[0, 1]) < 0.6


# Sums of an image's pixels, red, green and blue: the same on every machine.
SUMS = {
    "stripes": [1076808, 852969, 934530],
    "plaid": [1013709, 844033, 683840],
    "grain": [1407342, 693889, 390299],
    "clouds": [456839, 457501, 560237],
    "cells": [1074549, 1133083, 735815],
    "spots": [1388754, 1400712, 1238449],
    "bricks": [1030025, 999795, 1140471],
    "strokes": [946031, 663313, 349085],
    "scales": [1084358, 707367, 228979],
    "contours": [956169, 718991, 594718],
}


@pytest.mark.parametrize("family", range(len(FAMILIES)), ids=FAMILY_NAMES)
def test_an_image_is_a_function_of_its_class_and_number(family):
    five = textures.draw_images(family, 5, 0, 5)
    np.testing.assert_array_equal(textures.draw_images(family, 5, 0, 5), five)
    np.testing.assert_array_equal(textures.draw_images(family, 5, 3, 5), five[3:])
    assert five.astype(int)[0].sum(axis=(1, 2)).tolist() == SUMS[FAMILY_NAMES[family]]
    assert len({image.tobytes() for image in five}) == 5
    assert five.std(axis=(2, 3)).max(axis=1).min() > 10, "an image is plain"
    assert (textures.draw_images(family, 7, 0, 5) != five).mean() > 0.5, "another class looks the same"


def test_any_two_classes_share_a_palette():
    lines = [
        {(first + step) % len(textures.PALETTES) for step in textures._PALETTE_STEPS}
        for first in range(len(textures.PALETTES))
    ]
    assert all(len(one & other) == 1 for one, other in itertools.combinations(lines, 2))


def test_smaller_images_are_averages_over_areas(classes, tmp_path, monkeypatch):
    monkeypatch.setenv("SRWM_CACHE", str(tmp_path))
    once = iter([classes])
    monkeypatch.setattr(textures, "make_classes", lambda: next(once))
    large, small = (textures.load_textures(image_size=size).test.images for size in (84, 28))
    assert small.shape == (40, 3, 28, 28)
    averages = large.reshape(40, 3, 28, 3, 28, 3).mean(axis=(3, 5))
    assert np.abs(averages - small).max() <= 1  # Pillow rounds twice, along either axis
