"""The data sets of the few-shot example, by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from .archives import Layout, list_layouts
from .cifar import CIFAR_FS, FC100
from .classes import ImageClasses, Normalisation, Splits, measured_normalisation
from .digits import load_digits
from .folder import load_folder
from .glyphs import load_glyphs
from .lazy import with_rotations
from .mini_imagenet import MINI_IMAGENET
from .omniglot import OMNIGLOT
from .public import PublicSet
from .textures import load_textures
from .tiered_imagenet import TIERED_IMAGENET

__all__ = ["load_splits"]

_Normalise = Literal["none", "published", "correct"]
_Rotate = Literal["none", "train", "all"]


@dataclass(frozen=True)
class _DataSet:
    """What `load_splits` knows of a set before it reads it."""

    load: Callable[..., Splits]  # (root, download=, image_size=), or without layouts (cache, image_size=)
    channels: int  # of the stored images, 1 or 3
    layouts: tuple[Layout, ...] = ()  # as of `PublicSet`; none where they are made, or come with a package
    together: bool = False
    # The normalisation of published scripts ("published"), and the right one ("correct"); where the latter
    # is missing, it is measured on the training images.
    statistics: dict[str, Normalisation] = field(default_factory=dict)


def _public(of: PublicSet, channels: int, **statistics: Normalisation) -> _DataSet:
    return _DataSet(of.load, channels, of.layouts, of.together, statistics)


_IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_CIFAR = Normalisation(mean=(0.507, 0.487, 0.441), std=(0.267, 0.256, 0.276))
# Of black ink on white paper, though the published scripts too show white ink on black.
_OMNIGLOT = Normalisation(mean=(0.922,), std=(0.084,))
_OF_YOUR_OWN = Layout(holds=("alphabet/character/*.png",), source="images of your own")
_SETS = {
    "glyphs": _DataSet(load_glyphs, 1),
    "textures": _DataSet(load_textures, 3),
    "digits": _DataSet(load_digits, 1),
    "folder": _DataSet(load_folder, 1, (_OF_YOUR_OWN,)),
    "omniglot": _public(OMNIGLOT, 1, published=_OMNIGLOT),
    "miniimagenet": _public(MINI_IMAGENET, 3, published=_IMAGENET),
    "fc100": _public(FC100, 3, published=_CIFAR),
    # Measuring would mean to decode 448,695 images.
    "tieredimagenet": _public(TIERED_IMAGENET, 3, correct=_IMAGENET),
    "cifarfs": _public(CIFAR_FS, 3),
}


def load_splits(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    image_size: int | None = None,
    channels: int | None = None,
    normalise: _Normalise = "none",
    rotate: _Rotate = "none",
    cache: str | os.PathLike[str] | None = None,
) -> Splits:
    """Train, validation and test classes of a data set, of (I, C, image_size, image_size) uint8 images.

    ==============  ====================================  ====  ========  =============================
    name            images                                side  channels  classes
    ==============  ====================================  ====  ========  =============================
    glyphs          letters, from matplotlib's fonts      28    1         about 670, 140 and 220
    textures        made-up surfaces                      84    3         64, 16 and 20
    digits          handwritten, from scikit-learn        28    1         5, the same 5, and 5 others
    folder          ``root/alphabet/character/*.png``     28    1         what is there
    omniglot        handwritten characters                28    1         1028, 172 and 423
    miniimagenet    photographs                           84    3         64, 16 and 20
    fc100           small photographs                     32    3         60, 20 and 20
    tieredimagenet  photographs                           84    3         351, 97 and 160
    cifarfs         small photographs                     32    3         64, 16 and 20
    ==============  ====================================  ====  ========  =============================

    Parameters
    ----------
    name : of the table.
    root : of the sets that are read from files, the folder that holds them, or a folder two above it.
    download : fetch a set that is not below its root, where that is possible: omniglot (16 MB), fc100 and
        cifarfs (169 MB).
    image_size : side of the images in pixels; None for the set's usual one.
    channels : 3 repeats grey images to three channels; None leaves a set's own number.
    normalise : "none" leaves pixels in [0, 1]; "published" is what the set's published scripts do;
        "correct" is the mean and standard deviation of the pixels. Both are per channel.
    rotate : "train" or "all" adds the classes turned by 90, 180 and 270 degrees, to the training
        split or to all three (as published for Omniglot).
    cache : of the sets that are made by the program, the folder of the cache (see `cached_classes`).

    Raises
    ------
    ValueError : if an argument is not one of its values, or the set lacks what is asked for.
    OSError : if files cannot be read or written.

    Examples
    --------
    >>> splits = load_splits("glyphs", channels=3)
    >>> splits.train.picture_shape
    (3, 28, 28)
    """
    for argument, value, choices in (
        ("name", name, tuple(_SETS)),
        ("normalise", normalise, get_args(_Normalise)),
        ("rotate", rotate, get_args(_Rotate)),
    ):
        if value not in choices:
            raise ValueError(f"load_splits: {argument} must be one of {', '.join(choices)}, got {value!r}")
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
    if not data_set.layouts:
        if root is not None or download:
            raise ValueError(
                f"load_splits: name={name!r} needs no files and takes neither root nor "
                f"download, got root={root!r}, download={download}; leave them out"
            )
        splits = data_set.load(cache, image_size=image_size)
    else:
        if root is None:
            raise ValueError(
                f"load_splits: name={name!r} needs root, the folder of its files (--root; those of "
                "--second-data and --third-data are --second-root and --third-root); put there "
                f"{'all' if data_set.together else 'one'} of\n"
                f"{list_layouts(data_set.layouts, download=download)}"
            )
        if cache is not None:
            raise ValueError(
                f"load_splits: name={name!r} is read from root and takes no cache, got "
                f"{os.fspath(cache)!r}; leave it out"
            )
        splits = data_set.load(root, download=download, image_size=image_size)

    normalisation = None
    if normalise != "none":
        normalisation = data_set.statistics.get(normalise) or measured_normalisation(splits.train)

    def finished(classes: ImageClasses, turned: bool) -> ImageClasses:
        classes = replace(classes, normalisation=normalisation, channels=channels)
        return with_rotations(classes) if turned else classes

    turned = (rotate != "none", rotate == "all", rotate == "all")
    return Splits(*map(finished, splits, turned))
