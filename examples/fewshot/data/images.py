"""Classes of images from files, and in another size.

Letters in the shapes: I images of C channels and H x W pixels, S the side that is asked for.
"""

import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from .classes import ImageClasses

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
# Pillow's ways to refuse a file, or to fail over a damaged one.
_FAILURES: tuple[type[Exception], ...] = (struct.error, zlib.error, EOFError, IndexError, KeyError)
_FAILURES += (MemoryError, OSError, OverflowError, SyntaxError, TypeError, ValueError)


def visible(operation: str, folder: Path, ending: str = "") -> list[Path]:
    """What a folder holds with names of this ending, by name, without what systems and editors hide there.

    A ValueError says if the folder cannot be read, or has a link to nothing.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if not _is_hidden(path.name))
    except OSError as error:
        raise ValueError(
            f"{operation}: cannot read the folder {str(folder)!r} ({error}); allow it or remove it"
        ) from error
    for path in paths:
        if path.is_symlink() and not path.exists():
            raise ValueError(f"{operation}: {str(path)!r} is a link to nothing; mend or remove it")
    return [path for path in paths if path.name.endswith(ending)]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "@eaDir", "$RECYCLE.BIN")


@contextmanager
def opened(
    operation: str,
    file: Path | IO[bytes],
    *,
    name: str | None = None,
    advice: str = "fetch the data set again",
) -> Iterator[Image.Image]:
    """An image file to decode; whatever fails in this is a ValueError that names the file.

    Files of a few common formats are read, whatever their ending; other decoders are not tried on them.
    Refused are also images too large to be decoded, pipes, devices and folders. The message has who asks,
    what the file is called, and what to do.
    """
    shown = name or repr(str(file))
    if isinstance(file, Path) and not file.is_file():  # opening a pipe would wait for ever
        raise ValueError(f"{operation}: cannot read the image {shown} (it is no plain file); {advice}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a picture can do without, such as its date
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if isinstance(file, Path):
                with Image.open(file, formats=_FORMATS) as image:
                    if image.format == "PNG":
                        image.verify()  # its checksums, which decoding does not look at
            with Image.open(file, formats=_FORMATS) as image:
                yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"{operation}: the image {shown} is too large to be read ({error}); scale it down"
        ) from error
    except _FAILURES as error:
        raise ValueError(f"{operation}: cannot read the image {shown} ({error}); {advice}") from error


def decode_image(
    operation: str,
    file: Path | IO[bytes],
    *,
    channels: int,
    image_size: int,
    invert: bool = False,
    name: str | None = None,
) -> np.ndarray:
    """An image file as (C, S, S) uint8, grey for one channel and RGB for three; errors as `opened`.

    It is inverted if asked for, then scaled bilinearly by Pillow if its size is another, without
    regard to the aspect: as in the published experiments.
    """
    with opened(operation, file, name=name) as image:
        converted = image.convert("L" if channels == 1 else "RGB")
        return _pixels(ImageOps.invert(converted) if invert else converted, image_size)


def read_images(
    files: Mapping[str, Sequence[Path]],
    read: Callable[[Path], np.ndarray],
    shape: tuple[int, int, int],
    groups: Iterable[str] | None = None,
) -> ImageClasses:
    """Classes from the image files of each, by class name, with a progress bar.

    ``read`` makes an image of a file, (C, H, W) uint8 of the given shape. Without ``groups`` each class is
    its own alphabet, superclass or family.
    """
    paths = [path for of_class in files.values() for path in of_class]
    images = np.empty((len(paths), *shape), np.uint8)
    for position, path in enumerate(tqdm(paths, desc="reading images", unit="image", disable=None)):
        images[position] = read(path)
    return ImageClasses.of_sizes(images, map(len, files.values()), files, groups or files)


def resized(
    classes: ImageClasses, image_size: int, resample: Image.Resampling = Image.Resampling.BILINEAR
) -> ImageClasses:
    """The same classes with images of (C, S, S), by default scaled as by `decode_image`.

    Pillow works on 8 bits in whole numbers, so the result is the same on every machine.
    """
    count, channels, *stored = classes.images.shape
    if stored == [image_size, image_size]:
        return classes
    images = np.empty((count, channels, image_size, image_size), np.uint8)
    for position, image in enumerate(classes.images[np.arange(count)]):
        page = image[0] if channels == 1 else np.ascontiguousarray(np.moveaxis(image, 0, -1))
        images[position] = _pixels(Image.fromarray(page), image_size, resample)
    return replace(classes, images=images)


def _pixels(
    image: Image.Image, image_size: int, resample: Image.Resampling = Image.Resampling.BILINEAR
) -> np.ndarray:
    """(C, S, S) uint8 of a grey or RGB image."""
    if image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), resample)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
