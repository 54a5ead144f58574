"""Square images of another size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from .classes import ImageClasses


def resized(images: np.ndarray, size: int, resample: Image.Resampling) -> np.ndarray:
    """Pillow's resize of each image: (I, C, H, W) uint8 -> (I, C, size, size) uint8.

    Pillow works on 8 bits in whole numbers, so the result is the same on every machine.

    Raises
    ------
    ValueError : if the size is below 1, or the images are not square and would change their shape.

    Examples
    --------
    >>> image = np.array([[[[0, 100], [200, 100]]]], np.uint8)
    >>> resized(image, 1, Image.Resampling.BOX).tolist()
    [[[[100]]]]
    """
    count, channels, height, width = images.shape
    if size < 1 or height != width:
        raise ValueError(
            f"resized: expected square images and a size of at least 1, got {height} x {width} and {size}"
        )
    if size == height:
        return images
    small = np.empty((count, size, size, channels), np.uint8)
    for position, image in enumerate(images):
        pixels = image[0] if channels == 1 else np.moveaxis(image, 0, -1)
        page = Image.fromarray(np.ascontiguousarray(pixels)).resize((size, size), resample)
        small[position] = np.asarray(page).reshape(size, size, channels)
    return np.ascontiguousarray(np.moveaxis(small, -1, 1))


def resized_classes(classes: ImageClasses, size: int, resample: Image.Resampling) -> ImageClasses:
    """The same classes with images of (C, size, size), all in memory."""
    images = classes.images[np.arange(classes.images.shape[0])]
    return replace(classes, images=resized(images, size, resample))
