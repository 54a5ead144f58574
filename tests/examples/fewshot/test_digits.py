import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from examples.fewshot.data import load_splits


@pytest.fixture(scope="module")
def splits():
    return load_splits("digits")


def test_five_digits_in_training_and_validation_and_five_others_in_the_test(splits):
    of_digit = np.bincount(datasets.load_digits().target)
    assert [part.names for part in splits] == [
        tuple(f"DIGIT {digit}" for digit in digits) for digits in (range(5), range(5), range(5, 10))
    ]
    np.testing.assert_array_equal(splits.train.sizes + splits.validation.sizes, of_digit[:5])
    np.testing.assert_array_equal(splits.test.sizes, of_digit[5:])
    np.testing.assert_allclose(splits.validation.sizes / of_digit[:5], 0.25, atol=0.01)


def test_every_image_of_scikit_learn_is_in_one_split_under_its_digit(splits):
    """Ink is 255 on 0, and 8 pixels are scaled as Pillow does it."""
    found = datasets.load_digits()
    expected = {digit: [] for digit in range(10)}
    for image, digit in zip(found.images, found.target, strict=True):
        pixels = Image.fromarray(np.rint(image * 255 / 16).astype(np.uint8))
        expected[digit].append(np.asarray(pixels.resize((28, 28), Image.Resampling.BILINEAR)))
    parts = {digit: [] for digit in range(10)}
    for classes in splits:
        for name, first, last in zip(classes.names, classes.offsets, classes.offsets[1:], strict=False):
            parts[int(name.split()[1])] += list(classes.images[first:last, 0])
    for digit, images in expected.items():
        np.testing.assert_array_equal(parts[digit], images)


def test_another_size_in_colour():
    assert load_splits("digits", image_size=8, channels=3).test.picture_shape == (3, 8, 8)
    with pytest.raises(ValueError, match="load_digits: image_size must be at least 1, got -1"):
        load_splits("digits", image_size=-1)
    with pytest.raises(ValueError, match="'digits' needs no files and takes neither root nor download"):
        load_splits("digits", root="here")
