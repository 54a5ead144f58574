"""Digits: the small handwritten digits that come with scikit-learn, a third domain without a download.

1,797 images of 8 × 8 pixels, about 180 of each digit, from the UCI set "Optical Recognition of
Handwritten Digits". Ten classes cannot be shared out among three splits of five: training and validation
have the digits 0 to 4, the last quarter of each digit's images for the validation, and the test has 5 to 9.
"""

import numpy as np

from .classes import ImageClasses, Splits
from .images import resized

SIZE = 28  # as letters; the network that reads them has no use for 8 pixels
_LEARNT = 0.75  # share of the images of the digits 0 to 4
_INK = 16  # the darkest level


def load_digits(*, image_size: int | None = None) -> Splits:
    """5, 5 and 5 classes of about 135, 45 and 180 images each, (I, 1, S, S) uint8, scaled bilinearly."""
    from sklearn import datasets  # takes a second, which only this set should cost

    found = datasets.load_digits()
    pixels = np.rint(found.images * (255 / _INK)).astype(np.uint8)[:, None]

    def split(digits: range, first: float, last: float) -> ImageClasses:
        """These digits, from this share of each one's images to that one."""
        rows = [np.flatnonzero(found.target == digit) for digit in digits]
        rows = [of_digit[round(first * len(of_digit)) : round(last * len(of_digit))] for of_digit in rows]
        names = [f"DIGIT {digit}" for digit in digits]
        classes = ImageClasses.of_sizes(
            pixels[np.concatenate(rows)], map(len, rows), names, ["DIGITS"] * len(digits)
        )
        return resized(classes, image_size or SIZE)

    return Splits(split(range(5), 0, _LEARNT), split(range(5), _LEARNT, 1), split(range(5, 10), 0, 1))
