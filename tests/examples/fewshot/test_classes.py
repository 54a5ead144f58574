"""Images sorted by class: parts that fit, subsets, and normalisation."""

import numpy as np
import pytest
import torch

from examples.fewshot.data.classes import ImageClasses, Normalisation
from tests.examples.fewshot.numbered import make_classes


def test_subset_keeps_images_with_their_class():
    normalisation = Normalisation((0.1,), (0.2,))
    classes = make_classes((3, 2, 4), side=4, channels=3, normalisation=normalisation)
    part = classes.subset([2, 1])
    assert part.names == ("class 2", "class 1")
    assert part.alphabets == ("LATIN", "LAO")
    assert part.sizes.tolist() == [4, 2]
    assert part.images[:, 0, 0, 0].tolist() == [2] * 4 + [1] * 2
    assert part.images[:, 0, 0, 1].tolist() == [*range(4), *range(2)]
    assert part.normalisation is normalisation
    assert classes.subset([]).images.shape == (0, 3, 4, 4)


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


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": np.zeros((3, 1, 28, 28))}, TypeError, "must be uint8 .*, got float64"),
        ({"images": np.zeros((3, 28, 28), np.uint8)}, ValueError, r"\(I, C, H, W\) .* got \(3, 28, 28\)"),
        ({"images": np.zeros((3, 2, 8, 8), np.uint8)}, ValueError, r"C = 1 or 3, got \(3, 2, 8, 8\)"),
        ({"channels": 2}, ValueError, "must be 3 or the images' own 1, got 2"),
        ({"images": np.zeros((3, 3, 8, 8), np.uint8), "channels": 1}, ValueError, "own 3, got 1"),
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
