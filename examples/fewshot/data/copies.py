"""More images of a class from the same ones, for long tasks on small data sets."""

from __future__ import annotations

import dataclasses

import numpy as np

from .classes import ImageClasses, Rows


def with_copies(classes: ImageClasses, least: int) -> ImageClasses:
    """Classes of fewer than ``least`` images hold all of theirs again and again until there are enough.

    It makes sense only where a sampler distorts images: the copies then differ. Images are repeated when
    they are asked for, so that the copies take no memory.

    >>> one = np.zeros((3, 1, 2, 2), np.uint8)
    >>> few = ImageClasses(one, np.array([0, 1, 3]), ("a", "b"), ("LATIN", "LATIN"))
    >>> with_copies(few, 2).sizes.tolist(), with_copies(few, 3).sizes.tolist()
    ([2, 2], [3, 4])
    """
    if not len(classes.names) or classes.sizes.min() >= least or classes.sizes.min() == 0:
        return classes
    times = np.maximum(1, -(-least // classes.sizes))
    ranges = zip(classes.offsets[:-1], classes.offsets[1:], times, strict=True)
    rows = np.concatenate([np.tile(np.arange(start, stop), repeats) for start, stop, repeats in ranges])
    offsets = np.concatenate([[0], np.cumsum(classes.sizes * times)])
    return dataclasses.replace(classes, images=Rows(classes.images, rows), offsets=offsets)
