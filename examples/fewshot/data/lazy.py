"""Images that are looked up, turned or decoded when they are asked for, and classes made of them."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .classes import ImageClasses, Images, Rows
from .images import decode_image

_ANGLES = ("", " turned by 90", " turned by 180", " turned by 270")


def with_rotations(classes: ImageClasses) -> ImageClasses:
    """The classes, then all of them turned by 90, 180 and 270 degrees: 4 K classes of square images.

    As for Omniglot since Santoro et al. 2016 (https://arxiv.org/abs/1605.06065). Images are turned
    when they are asked for, so the four times as many classes take no more memory.
    """
    return replace(
        classes,
        images=_Turned(classes.images),
        offsets=np.cumsum([0, *np.tile(classes.sizes, 4)]),
        names=tuple(name + angle for angle in _ANGLES for name in classes.names),
        alphabets=classes.alphabets * 4,
    )


def with_copies(classes: ImageClasses, least: int) -> ImageClasses:
    """Classes of fewer than ``least`` images hold all of theirs again and again until there are enough.

    For long tasks on small data sets. It makes sense only where a sampler distorts images: the copies
    then differ. They take no memory.
    """
    if not len(classes.names) or classes.sizes.min() >= least or classes.sizes.min() == 0:
        return classes
    times = np.maximum(1, -(-least // classes.sizes))
    own = np.split(np.arange(classes.offsets[-1]), classes.offsets[1:-1])  # the positions of each class
    rows = np.concatenate(list(map(np.tile, own, times)))
    return replace(
        classes, images=Rows(classes.images, rows), offsets=np.cumsum([0, *classes.sizes * times])
    )


class _Turned:
    """The images, then all of them turned by one, two and three quarters, turned when asked for."""

    def __init__(self, images: Images) -> None:
        self.images, self.dtype = images, images.dtype
        self.shape = (4 * images.shape[0], *images.shape[1:])

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        quarters, rows = np.divmod(rows, self.images.shape[0])
        turned = np.array(self.images[rows])  # a copy, to turn in place
        for quarter in range(1, 4):
            chosen = quarters == quarter
            turned[chosen] = np.rot90(turned[chosen], quarter, axes=(-2, -1))
        return turned


class EncodedImages:
    """Image files one after the other in one file, decoded when they are indexed: (I, 3, S, S) uint8.

    The first axis is indexed as an array's, by integers, slices and arrays of integers. A copy in another
    process maps the file anew. Starts and sizes (I,) int64 say where each image's bytes are.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, path: Path, starts: np.ndarray, sizes: np.ndarray, image_size: int) -> None:
        self.path = path
        self.shape = (len(starts), 3, image_size, image_size)
        self._starts, self._sizes = starts, sizes
        self._bytes = np.memmap(path, np.uint8, mode="r")

    def __getitem__(self, rows: Any) -> np.ndarray:
        starts, sizes = np.asarray(self._starts[rows]), np.asarray(self._sizes[rows])
        images = np.empty((*starts.shape, *self.shape[1:]), np.uint8)
        for position in np.ndindex(starts.shape):
            first, size = int(starts[position]), int(sizes[position])
            images[position] = decode_image(
                "EncodedImages",
                io.BytesIO(self._bytes[first : first + size].tobytes()),
                channels=3,
                image_size=self.shape[-1],
                name=f"at byte {first} of {str(self.path)!r}",
            )
        return images

    def __reduce__(self) -> tuple[Any, ...]:
        # A memory map would be pickled as the array that it shows.
        return EncodedImages, (self.path, self._starts, self._sizes, self.shape[-1])
