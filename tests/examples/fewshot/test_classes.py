"""Images sorted by class: parts that fit, subsets, lazy images, and normalisation."""

import numpy as np
import pytest
import torch

from examples.fewshot.data.classes import ImageClasses, Normalisation

SIZES = (3, 2, 4)


def make_classes(images=None, **options):
    """Nine images, the first two pixels of which hold the class and the position in it."""
    if images is None:
        images = numbered_images()
    names = tuple("abc")
    return ImageClasses(images, np.cumsum([0, *SIZES]), names, ("LATIN", "GREEK", "LAO"), **options)


def numbered_images():
    images = np.zeros((9, 3, 4, 4), np.uint8)
    images[:, :, 0, 0] = np.repeat(np.arange(3), SIZES)[:, None]
    images[:, :, 0, 1] = np.concatenate([np.arange(size) for size in SIZES])[:, None]
    return images


def test_subset_keeps_images_with_their_class():
    normalisation = Normalisation((0.1,), (0.2,))
    part = make_classes(normalisation=normalisation).subset([2, 0])
    assert part.names == ("c", "a")
    assert part.alphabets == ("LAO", "LATIN")
    assert part.sizes.tolist() == [4, 3]
    assert part.images[:, 0, 0, 0].tolist() == [2] * 4 + [0] * 3
    assert part.images[:, 0, 0, 1].tolist() == [*range(4), *range(3)]
    assert part.normalisation is normalisation
    assert make_classes().subset([]).images.shape == (0, 3, 4, 4)


def test_normalisation_and_its_inverse():
    normalisation = Normalisation(mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
    pixels = torch.rand(2, 5, 3, 4, 4)
    normalised = normalisation.apply(pixels)
    for c, (mean, std) in enumerate(((0.5, 0.5), (0.25, 1.0), (0.0, 2.0))):
        assert torch.equal(normalised[:, :, c], (pixels[:, :, c] - mean) / std)
    torch.testing.assert_close(normalisation.undo(normalised), pixels)


@pytest.mark.parametrize(("mean", "std"), [((0.5,), ()), ((0.5,), (0.0,)), ((0.5, 0.5), (0.2, -1.0))])
def test_normalisation_refuses(mean, std):
    with pytest.raises(ValueError, match="as many means as standard deviations, the latter above 0"):
        Normalisation(mean, std)


def test_shape_of_the_pictures():
    assert make_classes().picture_shape == (3, 4, 4)
    grey = numbered_images()[:, :1]
    assert make_classes(grey).picture_shape == (1, 4, 4)
    assert make_classes(grey, channels=3).picture_shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": np.zeros((3, 1, 28, 28))}, TypeError, "must be uint8 .*, got float64"),
        ({"images": np.zeros((3, 28, 28), np.uint8)}, ValueError, r"\(I, C, H, W\) .* got \(3, 28, 28\)"),
        ({"images": np.zeros((3, 2, 8, 8), np.uint8)}, ValueError, r"C = 1 or 3, got \(3, 2, 8, 8\)"),
        ({"channels": 2}, ValueError, "must be 3 or the images' own 1, got 2"),
        ({"normalisation": Normalisation((0, 0, 0), (1, 1, 1))}, ValueError, "1 channels .* got 3"),
        ({"offsets": np.array([0, 3])}, ValueError, r"offsets of shape \(3,\) and 2 alphabets"),
        ({"alphabets": ("LATIN",)}, ValueError, r"2 alphabets, got \(3,\) and 1"),
        ({"offsets": np.array([0, 1, 2])}, ValueError, r"number of images \(3\), got 0 to 2"),
        ({"offsets": np.array([1, 2, 3])}, ValueError, r"number of images \(3\), got 1 to 3"),
        ({"offsets": np.array([0, 4, 3])}, ValueError, "offsets must rise"),
    ],
)
def test_image_classes_refuse_parts_that_do_not_fit(change, error, message):
    parts = {
        "images": np.zeros((3, 1, 28, 28), np.uint8),
        "offsets": np.array([0, 1, 3]),
        "names": ("a", "b"),
        "alphabets": ("LATIN", "LATIN"),
    }
    with pytest.raises(error, match=message):
        ImageClasses(**(parts | change))


def test_a_colour_set_cannot_be_made_grey():
    with pytest.raises(ValueError, match="must be 3 or the images' own 3, got 1"):
        make_classes(channels=1)
