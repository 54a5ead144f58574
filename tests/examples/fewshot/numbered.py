"""Classes of images that say which they are, and comparison of classes."""

import dataclasses

import numpy as np

from examples.fewshot.data.classes import ImageClasses

SIZES = (4, 9, 5, 4, 7, 6, 12, 4)


def make_classes(sizes=SIZES, side=28, channels=1, first=0, **options):
    """Random images; the first two pixels hold the class, counted from `first`, and the position in it."""
    images = np.random.default_rng(0).integers(0, 256, (sum(sizes), channels, side, side), np.uint8)
    images[:, 0, 0, 0] = first + np.repeat(np.arange(len(sizes)), sizes)
    images[:, 0, 0, 1] = np.concatenate([np.arange(size) for size in sizes])
    names = [f"class {c}" for c in range(len(sizes))]
    scripts = ["LATIN", "LAO"] * len(sizes)
    return dataclasses.replace(
        ImageClasses.of_sizes(images, sizes, names, scripts[: len(sizes)]), **options
    )


def tags(images):
    """(..., C, H, W) float32 -> the class and the position of every image, each (...) int64."""
    return (images[..., 0, 0, :2] * 255).round().long().unbind(-1)


def assert_same_classes(left, right):
    """Two sets of classes, their images to the bit."""
    assert (left.names, left.alphabets) == (right.names, right.alphabets)
    np.testing.assert_array_equal(left.offsets, right.offsets)
    np.testing.assert_array_equal(left.images, right.images)
