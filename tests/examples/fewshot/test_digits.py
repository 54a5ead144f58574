import numpy as np
from PIL import Image
from sklearn import datasets

from examples.fewshot.data import load_splits


def test_every_image_of_scikit_learn_is_in_one_split_under_its_digit():
    """0 to 4 in training and validation, 5 to 9 in the test; ink is 255 on 0, scaled as Pillow does it."""
    splits, found = load_splits("digits"), datasets.load_digits()
    of_digit = np.bincount(found.target)
    assert [part.names for part in splits] == [
        tuple(f"DIGIT {digit}" for digit in digits) for digits in (range(5), range(5), range(5, 10))
    ]
    np.testing.assert_allclose(splits.validation.sizes / of_digit[:5], 0.25, atol=0.01)
    expected, parts = ({digit: [] for digit in range(10)} for _ in range(2))
    for image, digit in zip(found.images, found.target, strict=True):
        pixels = Image.fromarray(np.rint(image * 255 / 16).astype(np.uint8))
        expected[digit].append(np.asarray(pixels.resize((28, 28), Image.Resampling.BILINEAR)))
    for classes in splits:
        for name, first, last in zip(classes.names, classes.offsets, classes.offsets[1:], strict=False):
            parts[int(name.split()[1])] += list(classes.images[first:last, 0])
    for digit, images in expected.items():
        np.testing.assert_array_equal(parts[digit], images)


def test_another_size_in_colour():
    assert load_splits("digits", image_size=8, channels=3).test.picture_shape == (3, 8, 8)
