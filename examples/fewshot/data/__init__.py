"""The data sets of the few-shot example, by name."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from .cifar import CIFAR_FS, FC100
from .classes import ImageClasses, Normalisation, Splits, measured_normalisation
from .digits import load_digits
from .folder import load_folder
from .glyphs import load_glyphs
from .lazy import with_rotations
from .mini_imagenet import MINI_IMAGENET
from .omniglot import OMNIGLOT
from .textures import load_textures
from .tiered_imagenet import TIERED_IMAGENET

__all__ = ["load_splits"]


@dataclass(frozen=True)
class _DataSet:
    """What `load_splits` knows of a set before it reads it."""

    load: Callable[..., Splits]  # (root, download=, image_size=) of files, else (image_size=)
    channels: int  # of the stored images, 1 or 3
    files: bool = False  # read below a root; else they are made, or come with a package
    # The normalisation of published scripts ("published"), and the right one ("correct"); where the latter
    # is missing, it is measured on the training images.
    statistics: dict[str, Normalisation] = field(default_factory=dict)


_IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_CIFAR = Normalisation(mean=(0.507, 0.487, 0.441), std=(0.267, 0.256, 0.276))
# Of black ink on white paper, though the published scripts too show white ink on black.
_OMNIGLOT = Normalisation(mean=(0.922,), std=(0.084,))
_SETS = {
    "glyphs": _DataSet(load_glyphs, 1),
    "textures": _DataSet(load_textures, 3),
    "digits": _DataSet(load_digits, 1),
    "folder": _DataSet(load_folder, 1, files=True),
    "omniglot": _DataSet(OMNIGLOT.load, 1, True, {"published": _OMNIGLOT}),
    "miniimagenet": _DataSet(MINI_IMAGENET.load, 3, True, {"published": _IMAGENET}),
    "fc100": _DataSet(FC100.load, 3, True, {"published": _CIFAR}),
    # Measuring would mean to decode 448,695 images.
    "tieredimagenet": _DataSet(TIERED_IMAGENET.load, 3, True, {"correct": _IMAGENET}),
    "cifarfs": _DataSet(CIFAR_FS.load, 3, files=True),
}


def load_splits(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    image_size: int | None = None,
    channels: int | None = None,
    normalise: Literal["none", "published", "correct"] = "none",
    rotated: bool = False,
) -> Splits:
    """Train, validation and test classes of a data set, of (I, C, image_size, image_size) uint8 images.

    Files lie in ``root`` or at most two folders below; with ``download`` they are fetched where that is
    possible. Without ``image_size`` and ``channels`` images are as the set has them. ``normalise`` is per
    channel: "correct" by the mean and standard deviation of the pixels, "published" as the set's published
    scripts do it, "none" leaves pixels in [0, 1]. ``rotated`` adds the classes turned by 90, 180 and 270
    degrees.
    """
    data_set = _SETS[name]
    if channels not in (None, data_set.channels, 3):
        raise ValueError(
            f"load_splits: channels of {name!r} must be {data_set.channels}"
            f"{' or 3' if data_set.channels == 1 else ''}, got {channels}"
        )
    if normalise == "published" and "published" not in data_set.statistics:
        raise ValueError(
            f"load_splits: no published script normalises name={name!r}, so it has no "
            "normalise='published'; use 'correct', the mean and deviation of the pixels"
        )
    if data_set.files:
        splits = data_set.load(root, download=download, image_size=image_size)
    elif root is None and not download:
        splits = data_set.load(image_size=image_size)
    else:
        raise ValueError(
            f"load_splits: name={name!r} needs no files and takes neither root nor "
            f"download, got root={root!r}, download={download}; leave them out"
        )
    normalisation = None
    if normalise != "none":
        normalisation = data_set.statistics.get(normalise) or measured_normalisation(splits.train)

    def finished(classes: ImageClasses) -> ImageClasses:
        classes = replace(classes, normalisation=normalisation, channels=channels)
        return with_rotations(classes) if rotated else classes

    return Splits(*map(finished, splits))
