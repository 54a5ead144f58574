"""Digits: the small handwritten digits that come with scikit-learn, a third domain without a download.

1,797 images of 8 × 8 pixels, about 180 of each digit, from the UCI set "Optical Recognition of
Handwritten Digits". Ten classes cannot be shared out among three splits of five: training and validation
have the digits 0 to 4, the last quarter of each digit's images for the validation, and the test has 5 to 9.
"""

from __future__ import annotations

import os

import numpy as np

from .classes import ImageClasses, Splits
from .images import resized, side

SIZE = 28  # as letters; the network that reads them has no use for 8 pixels
SEEN = range(5)  # in training and validation
HELD_OUT = 4  # the last of so many parts of a seen digit's images are for the validation
_INK = 16  # the darkest level


def load_digits(cache: str | os.PathLike[str] | None = None, *, image_size: int | None = None) -> Splits:
    """The digits 0 to 4 in training and validation, which share no image, and 5 to 9 in the test.

    Parameters
    ----------
    cache : not needed, as the images lie in scikit-learn's own folder.
    image_size : side of the images in pixels, 28 by default; they are scaled bilinearly.

    Returns
    -------
    Splits of 5, 5 and 5 classes, about 135, 45 and 180 images each: (I, 1, image_size, image_size) uint8.

    Raises
    ------
    ValueError : if image_size is below 1.
    """
    from sklearn import datasets  # takes a second, which only this set should cost

    del cache
    size = side("load_digits", image_size, SIZE)
    found = datasets.load_digits()
    pixels = np.rint(found.images * (255 / _INK)).astype(np.uint8)[:, None]

    def split(digits: range, first: float, last: float) -> ImageClasses:
        """These digits, from this share of each one's images to that one."""
        of_digits = []
        for digit in digits:
            rows = np.flatnonzero(found.target == digit)
            of_digits.append(pixels[rows[round(first * len(rows)) : round(last * len(rows))]])
        classes = ImageClasses.of_sizes(
            np.concatenate(of_digits),
            map(len, of_digits),
            [f"DIGIT {digit}" for digit in digits],
            ["DIGITS"] * len(digits),
        )
        return resized(classes, size)

    kept = 1 - 1 / HELD_OUT
    return Splits(
        train=split(SEEN, 0, kept), validation=split(SEEN, kept, 1), test=split(range(5, 10), 0, 1)
    )
