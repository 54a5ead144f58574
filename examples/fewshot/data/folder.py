"""Images on disk in Omniglot's layout: ``root/alphabet/character/*.png``, or ``.jpg`` and the like.

The split is by alphabet. ``root`` may hold

* ``train``, ``validation`` and ``test``, each with alphabets inside;
* ``images_background`` and ``images_evaluation``, as Omniglot is distributed: the alphabets of
  the first are shared out between training and validation, the second is the test;
* the alphabets themselves, which are shared out among all three.

Images of any size and polarity come out square, 28 x 28 by default, with ink = 255 on 0. A picture that
cannot be right is refused by its name, and so is one that is met twice: a learner would be trained, or
scored, on something else than the user thinks. Hidden files and folders are passed over.
"""

import itertools
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .classes import ImageClasses, Splits
from .images import opened, read_images, visible

SIZE = 28
_OWN_SPLITS = ("train", "validation", "test")
_OMNIGLOT_SPLITS = ("images_background", "images_evaluation")
_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_OTHER_ENDINGS = (".avif", ".heic", ".heif", ".jp2", ".jxl", ".pbm", ".pgm", ".ppm", ".psd", ".svg", ".tga")
_LEAST_CONTRAST = 16  # of 255 between paper and ink; less is the noise of a scanner
_VALIDATION_SHARE, _TEST_SHARE = 0.15, 0.25  # of the alphabets, at least one each


def load_folder(
    root: str | os.PathLike[str] | None, *, download: bool = False, image_size: int | None = None
) -> Splits:
    """The images of one of the three layouts above, (I, 1, image_size, image_size), split by alphabet."""
    if download:
        raise ValueError("load_folder: there is nothing to download; put the images below root")
    if root is None:
        raise FileNotFoundError(
            "load_folder: root is missing (--root; of other tasks --second-root, --third-root); give the "
            "folder of your images, alphabet/character/*.png"
        )
    root = Path(root)
    parts = _parts(root)
    if len(parts) == 2:
        parts[:1] = _share_out(parts[0], {"validation": _VALIDATION_SHARE})
    elif len(parts) == 1:
        parts = _share_out(parts[0], {"validation": _VALIDATION_SHARE, "test": _TEST_SHARE})
    # Two images are needed for one shot and a query.
    return Splits(*_read(root, parts, 2, image_size or SIZE))


def read_folder(
    root: str | os.PathLike[str], *, image_size: int | None = None, min_images: int = 2
) -> ImageClasses:
    """All the images of a folder as one set of classes, for evaluating a checkpoint on other pictures.

    Any number of alphabets will do. Classes with fewer than ``min_images`` are a ValueError.
    """
    root = Path(root)
    [classes] = _read(root, [[*itertools.chain(*_parts(root))]], min_images, image_size or SIZE)
    return classes


def _parts(root: Path) -> list[list[Path]]:
    """The alphabets of each split folder of the layout that root has; of root itself, if it has none."""
    if not root.is_dir():
        raise FileNotFoundError(
            f"load_folder: root must be an existing folder, got {str(root)!r}; "
            "expected root/alphabet/character/*.png"
        )
    for layout in (_OWN_SPLITS, _OMNIGLOT_SPLITS):
        missing = [part for part in layout if not (root / part).is_dir()]
        if not missing:
            return [_alphabets(root / part) for part in layout]
        if len(missing) < len(layout):
            present = [part for part in layout if part not in missing]
            raise FileNotFoundError(
                f"load_folder: {str(root)!r} has {', '.join(present)} but not {', '.join(missing)}; "
                "add what is missing, or point root at a folder of alphabets and not of splits"
            )
    return [_alphabets(root)]


def _folders(parent: Path) -> list[Path]:
    return [path for path in visible("load_folder", parent) if path.is_dir()]


def _alphabets(parent: Path) -> list[Path]:
    """The alphabet folders in order of name: those with an image two levels down."""
    alphabets = [path for path in _folders(parent) if any(map(_images, _folders(path)))]
    if not alphabets:
        raise FileNotFoundError(
            f"load_folder: found no image under {str(parent)!r}; expected alphabet/character/*.png"
        )
    return alphabets


def _images(character: Path) -> list[Path]:
    """The images of a class in order of name; two of one name, apart from ending and case, are an error."""
    paths = visible("load_folder", character)
    images = [path for path in paths if path.suffix.lower() in _ENDINGS]
    by_name: dict[str, Path] = {}
    for path in images:
        other = by_name.setdefault(path.stem.lower(), path)
        if other is not path:
            raise ValueError(
                f"load_folder: {str(other)!r} and {path.name!r} have one name and may be one picture, "
                "which would be both shown and asked for; remove or rename one of them"
            )
    for path in paths:
        if path.suffix.lower() in _OTHER_ENDINGS and path.stem.lower() not in by_name:
            raise ValueError(
                f"load_folder: the format of {str(path)!r} is not read; save it as PNG, or remove it"
            )
    return images


def _share_out(alphabets: list[Path], shares: dict[str, float]) -> list[list[Path]]:
    """Training alphabets first, then one list per share, at least one each; a function of their names."""
    if len(alphabets) <= len(shares):
        raise ValueError(
            f"load_folder: splitting {str(alphabets[0].parent)!r} by alphabet into train, "
            f"{', '.join(shares)} needs at least {len(shares) + 1} alphabets, got "
            f"{len(alphabets)}; add alphabets, or read the whole with read_folder to evaluate only"
        )
    order = np.random.default_rng(0).permutation(len(alphabets))
    counts = [max(1, round(share * len(alphabets))) for share in shares.values()]
    *held_out, train = np.split(order, np.cumsum(counts))
    return [sorted(alphabets[a] for a in part) for part in (train, *held_out)]


def _read(root: Path, parts: Sequence[list[Path]], min_images: int, size: int) -> list[ImageClasses]:
    """The classes of each part, which is a list of alphabets."""
    # Characters without an image are empty folders or hold other things; classes are made of images.
    files = [
        {character: _images(character) for alphabet in part for character in _folders(alphabet)}
        for part in parts
    ]
    found: dict[tuple[int, int], Path] = {}
    for character, paths in itertools.chain(*(of_part.items() for of_part in files)):
        if len(paths) < min_images:
            raise ValueError(
                f"load_folder: class {str(character)!r} needs at least {min_images} images "
                f"(*.png), got {len(paths)}; add images or remove the folder"
            )
        for path in paths:
            status = path.stat()
            other = found.setdefault((status.st_dev, status.st_ino), path)
            if other is not path:
                raise ValueError(
                    f"load_folder: {str(other)!r} and {str(path)!r} are one file, by a link, and would "
                    "count as two pictures; remove one of them"
                )
    return [
        read_images(
            {character.relative_to(root).as_posix(): paths for character, paths in of_part.items()},
            partial(_read_image, size=size),
            (1, size, size),
            [character.parent.name for character in of_part],
        )
        for of_part in files
    ]


def _read_image(path: Path, size: int) -> np.ndarray:
    """(1, size, size) uint8 with ink = 255 on 0."""
    with opened("load_folder", path, advice="repair or remove it") as image:
        if getattr(image, "is_animated", False) and image.format != "MPO":  # in which cameras put previews
            raise ValueError("it has several pictures: save one of them")
        grey = _grey(ImageOps.exif_transpose(image))
        middle = (int(grey.min()) + int(grey.max())) / 2
        if np.mean(grey > middle) > 0.5:  # the page covers more than the ink
            grey = 255 - grey
        small = ImageOps.contain(Image.fromarray(grey), (size, size), Image.Resampling.LANCZOS)
        if np.ptp(np.asarray(small)) < _LEAST_CONTRAST:
            raise ValueError(f"at {size} x {size} pixels nothing is left of its ink: cut it out")
        return np.asarray(ImageOps.pad(small, (size, size), Image.Resampling.LANCZOS, color=0))[None]


def _grey(image: Image.Image) -> np.ndarray:
    """8-bit grey (H, W) of an image in any mode."""
    if image.mode.startswith(("I", "F")):
        return _levels(np.asarray(image))
    if not image.has_transparency_data:
        return _levels(np.asarray(image.convert("L")))
    # Transparent pixels become white paper; black, if white ink would hardly be seen on white.
    image = image.convert("RGBA")
    papers = (Image.new("RGBA", image.size, colour) for colour in ("white", "black"))
    on_white, on_black = (np.asarray(Image.alpha_composite(paper, image).convert("L")) for paper in papers)
    faint = 2 * np.ptp(on_white) < 255 and np.ptp(on_white) < np.ptp(on_black)
    return _levels(on_black if faint else on_white)


def _levels(values: np.ndarray) -> np.ndarray:
    """Grey values of any type as 8 bits; nearly the same everywhere, they are a ValueError.

    Whole numbers are scaled by the most that their number of bits can hold, up to 16: 4095, if the
    largest has 12. What then takes less than half of the range is stretched to the whole.
    """
    darkest, brightest = values.min().item(), values.max().item()
    spread = brightest - darkest
    most = max(-darkest, brightest)
    if isinstance(brightest, int) and 0 <= brightest < 1 << 16:
        most = max(255, (1 << brightest.bit_length()) - 1)
    if not (np.isfinite(spread) and spread * 255 >= _LEAST_CONTRAST * most):
        raise ValueError(f"it is blank: its grey values go from {darkest} to {brightest} of {most}")
    if darkest >= 0 and 2 * spread >= most:
        darkest, spread = 0, most
    if (darkest, spread) == (0, 255):
        return values.astype(np.uint8)
    wide = values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
    return ((wide - darkest) * 255 // spread).astype(np.uint8)
