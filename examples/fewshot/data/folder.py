"""Images on disk in Omniglot's layout: ``root/alphabet/character/*.png``.

The split is by alphabet. ``root`` may hold

* ``train``, ``validation`` and ``test``, each with alphabets inside;
* ``images_background`` and ``images_evaluation``, as Omniglot is distributed: the alphabets of
  the first are shared out between training and validation, the second is the test;
* the alphabets themselves, which are shared out among all three.

Images of any size and polarity come out square, 28 x 28 by default, with ink = 255 on 0.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from .classes import ImageClasses, Splits

SIZE = 28
_OWN_SPLITS = ("train", "validation", "test")
_OMNIGLOT_SPLITS = ("images_background", "images_evaluation")
_VALIDATION_SHARE, _TEST_SHARE = 0.15, 0.25  # of the alphabets, at least one each


def load_folder(
    root: str | os.PathLike[str],
    *,
    download: bool = False,
    image_size: int | None = None,
    seed: int = 0,
    min_images: int = 2,
) -> Splits:
    """Read a folder of images and split it by alphabet.

    Parameters
    ----------
    root : one of the three layouts above.
    download : not possible: the images are the user's own.
    image_size : side of the images in pixels, 28 by default.
    seed : decides which alphabets are held out where the layout does not say; non-negative.
    min_images : fewest images that a class may have; two are needed for one shot and a query.

    Returns
    -------
    Splits of (I, 1, image_size, image_size) uint8 images, ink = 255 on 0; classes are named by their path.

    Raises
    ------
    FileNotFoundError : if root, one of its split folders, or every image is missing.
    ValueError : if a class has too few images, an image cannot be read, there are too few
        alphabets to give each split one, image_size is below 1, or a download is asked for.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for alphabet in "abc":
    ...         for image in "01":
    ...             path = Path(root, alphabet, "letter", f"{image}.png")
    ...             path.parent.mkdir(parents=True, exist_ok=True)
    ...             Image.new("L", (105, 105)).save(path)
    ...     load_folder(root).test.images.shape
    (2, 1, 28, 28)
    """
    if download:
        raise ValueError("load_folder: there is nothing to download; put the images below root")
    root, size = Path(root), _size("load_folder", image_size)
    if _has(root, _OWN_SPLITS):
        parts = [_alphabets(root / split) for split in _OWN_SPLITS]
        return Splits(*(_read_classes(root, part, min_images, size) for part in parts))
    if _has(root, _OMNIGLOT_SPLITS):
        background, evaluation = (_alphabets(root / part) for part in _OMNIGLOT_SPLITS)
        train, validation = _share_out(background, seed, {"validation": _VALIDATION_SHARE})
        parts = [train, validation, evaluation]
    else:
        shares = {"validation": _VALIDATION_SHARE, "test": _TEST_SHARE}
        parts = _share_out(_alphabets(root), seed, shares)
    return Splits(*(_read_classes(root, part, min_images, size) for part in parts))


def read_folder(
    root: str | os.PathLike[str], *, image_size: int | None = None, min_images: int = 2
) -> ImageClasses:
    """All the images of a folder as one set of classes, whatever its layout.

    For evaluating a checkpoint on pictures it was not trained on. Arguments and errors are those
    of `load_folder`, except that any number of alphabets will do.
    """
    root, size = Path(root), _size("read_folder", image_size)
    for layout in (_OWN_SPLITS, _OMNIGLOT_SPLITS):
        if _has(root, layout):
            alphabets = [alphabet for part in layout for alphabet in _alphabets(root / part)]
            return _read_classes(root, alphabets, min_images, size)
    return _read_classes(root, _alphabets(root), min_images, size)


def _size(operation: str, image_size: int | None) -> int:
    size = SIZE if image_size is None else image_size
    if size < 1:
        raise ValueError(f"{operation}: image_size must be at least 1, got {size}")
    return size


def _has(root: Path, layout: tuple[str, ...]) -> bool:
    """Whether root has the split folders of a layout; some of them alone are an error."""
    if not root.is_dir():
        raise FileNotFoundError(
            f"load_folder: root must be an existing folder, got {str(root)!r}; "
            "expected root/alphabet/character/*.png"
        )
    missing = [part for part in layout if not (root / part).is_dir()]
    if 0 < len(missing) < len(layout):
        present = [part for part in layout if part not in missing]
        raise FileNotFoundError(
            f"load_folder: {str(root)!r} has {', '.join(present)} but not {', '.join(missing)}; "
            "add what is missing, or point root at a folder of alphabets and not of splits"
        )
    return not missing


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir())


def _alphabets(parent: Path) -> list[Path]:
    """The alphabet folders in order of name: those with an image two levels down."""
    alphabets = [path for path in _folders(parent) if any(path.glob("*/*.png"))]
    if not alphabets:
        raise FileNotFoundError(
            f"load_folder: found no image under {str(parent)!r}; expected alphabet/character/*.png"
        )
    return alphabets


def _share_out(alphabets: list[Path], seed: int, shares: dict[str, float]) -> list[list[Path]]:
    """Training alphabets first, then one list per share; a function of the names and the seed."""
    if seed < 0:
        raise ValueError(f"load_folder: seed must be non-negative, got {seed}")
    if len(alphabets) <= len(shares):
        raise ValueError(
            f"load_folder: splitting {str(alphabets[0].parent)!r} by alphabet into train, "
            f"{', '.join(shares)} needs at least {len(shares) + 1} alphabets, got "
            f"{len(alphabets)}; add alphabets, or read the whole with read_folder to evaluate only"
        )
    order = np.random.default_rng(seed).permutation(len(alphabets)).tolist()
    parts = []
    for share in shares.values():
        count = max(1, round(share * len(alphabets)))
        parts.append(sorted(alphabets[a] for a in order[:count]))
        order = order[count:]
    return [sorted(alphabets[a] for a in order), *parts]


def _read_classes(root: Path, alphabets: list[Path], min_images: int, size: int) -> ImageClasses:
    # Characters without a PNG are empty folders or hold other things; classes are made of PNGs.
    files = {
        (alphabet, character): sorted(character.glob("*.png"))
        for alphabet in alphabets
        for character in _folders(alphabet)
    }
    for (_, character), paths in files.items():
        if len(paths) < min_images:
            raise ValueError(
                f"load_folder: class {str(character)!r} needs at least {min_images} images "
                f"(*.png), got {len(paths)}; add images or remove the folder"
            )
    every = [path for paths in files.values() for path in paths]
    images = np.empty((len(every), 1, size, size), np.uint8)
    for position, path in enumerate(tqdm(every, desc="reading images", unit="image")):
        images[position, 0] = _read_image(path, size)
    return ImageClasses(
        images=images,
        offsets=np.cumsum([0, *map(len, files.values())], dtype=np.int64),
        names=tuple(character.relative_to(root).as_posix() for _, character in files),
        alphabets=tuple(alphabet.name for alphabet, _ in files),
    )


def _read_image(path: Path, size: int) -> np.ndarray:
    """(size, size) uint8 with ink = 255 on 0."""
    try:
        with Image.open(path) as image:
            grey = _grey(image)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's ways to refuse a file
        raise ValueError(
            f"load_folder: cannot read the image {str(path)!r} ({error}); repair or remove it"
        ) from error
    if np.mean(np.asarray(grey) > 127) > 0.5:  # the page covers more than the ink
        grey = ImageOps.invert(grey)
    return np.asarray(ImageOps.pad(grey, (size, size), Image.Resampling.LANCZOS, color=0))


def _grey(image: Image.Image) -> Image.Image:
    """8-bit grey; transparent pixels become white paper, and 16 bits are scaled, not cut off."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image).convert("L")
    return image.convert("L")
