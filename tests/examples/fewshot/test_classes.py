"""Images sorted by class: parts that fit, and normalisation."""

import numpy as np
import pytest
import torch

from examples.fewshot.data.classes import ImageClasses, Normalisation


def test_normalisation_and_its_inverse():
    normalisation = Normalisation(mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
    pixels = torch.rand(2, 5, 3, 4, 4)
    normalised = normalisation.apply(pixels)
    for c, (mean, std) in enumerate(((0.5, 0.5), (0.25, 1.0), (0.0, 2.0))):
        assert torch.equal(normalised[:, :, c], (pixels[:, :, c] - mean) / std)
    torch.testing.assert_close(normalisation.undo(normalised), pixels)


@pytest.mark.parametrize(
    "change",
    [
        {"images": np.zeros((3, 1, 28, 28))},
        {"images": np.zeros((3, 28, 28), np.uint8)},
        {"images": np.zeros((3, 2, 8, 8), np.uint8)},
        {"channels": 2},
        {"images": np.zeros((3, 3, 8, 8), np.uint8), "channels": 1},
        {"normalisation": Normalisation((0, 0, 0), (1, 1, 1))},
        {"offsets": np.array([0, 3])},
        {"alphabets": ("LATIN",)},
        {"offsets": np.array([0, 1, 2])},
        {"offsets": np.array([1, 2, 3])},
        {"offsets": np.array([0, 4, 3])},
    ],
)
def test_image_classes_refuse_parts_that_do_not_fit(change):
    parts = {
        "images": np.zeros((3, 1, 28, 28), np.uint8),
        "offsets": np.array([0, 1, 3]),
        "names": ("a", "b"),
        "alphabets": ("LATIN", "LATIN"),
    }
    ImageClasses(**parts)
    with pytest.raises(ValueError, match=r"expected \(I, C, H, W\) uint8 images .* got images \("):
        ImageClasses(**(parts | change))
