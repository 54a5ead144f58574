"""Pixels from image files, and from images of another size.

Letters in the shapes: I images of C channels and H x W pixels, S the side that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from .classes import ImageClasses, Splits
from .resizing import resized_classes


def side(operation: str, image_size: int | None, usual: int) -> int:
    """S: what is asked for, or else the data set's usual size; ValueError if it is below 1."""
    if image_size is not None and image_size < 1:
        raise ValueError(f"{operation}: image_size must be at least 1, got {image_size}")
    return image_size or usual


def decode_image(
    operation: str,
    file: Path | IO[bytes],
    *,
    channels: int,
    image_size: int,
    invert: bool = False,
    name: str | None = None,
) -> np.ndarray:
    """An image file as (C, S, S) uint8, grey for one channel and RGB for three.

    It is inverted if asked for, then scaled bilinearly by Pillow if its size is another, without
    regard to the aspect: as in the published experiments. ``name`` is what messages call it.

    Raises
    ------
    ValueError : if the file is no image, or damaged.
    """
    try:
        with Image.open(file) as image:
            converted = image.convert("L" if channels == 1 else "RGB")
            pixels = _scaled(ImageOps.invert(converted) if invert else converted, image_size)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's ways to refuse a file
        raise ValueError(
            f"{operation}: cannot read the image {name or repr(str(file))} ({error}); fetch the data "
            "set again"
        ) from error
    return pixels[None] if channels == 1 else np.moveaxis(pixels, -1, 0)


def read_classes(
    operation: str,
    files: Mapping[str, Sequence[Path]],
    groups: Sequence[str],
    *,
    channels: int,
    image_size: int,
    invert: bool = False,
) -> ImageClasses:
    """Classes from the image files of each, by class name, with a progress bar; see `decode_image`.

    Returns
    -------
    ImageClasses of (I, C, S, S) uint8, in the given order.
    """
    paths = [path for of_class in files.values() for path in of_class]
    images = np.empty((len(paths), channels, image_size, image_size), np.uint8)
    for position, path in enumerate(tqdm(paths, desc="reading images", unit="image")):
        images[position] = decode_image(
            operation, path, channels=channels, image_size=image_size, invert=invert
        )
    return ImageClasses(
        images=images,
        offsets=np.cumsum([0, *map(len, files.values())], dtype=np.int64),
        names=tuple(files),
        alphabets=tuple(groups),
    )


def resized(splits: Splits, image_size: int) -> Splits:
    """Splits of RGB arrays in memory as (I, 3, S, S), scaled as by `decode_image`."""
    if splits.train.images.shape[2:] == (image_size, image_size):
        return splits
    parts = (splits.train, splits.validation, splits.test)
    return Splits(*(resized_classes(part, image_size, Image.Resampling.BILINEAR) for part in parts))


def _scaled(image: Image.Image, image_size: int) -> np.ndarray:
    """(S, S) or (S, S, 3) uint8."""
    if image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image)
