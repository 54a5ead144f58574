"""The data sets of the few-shot example, by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from .archives import Layout, list_layouts
from .cifar_fs import LAYOUTS as CIFAR_FS
from .cifar_fs import load_cifar_fs
from .classes import ImageClasses, Normalisation, Splits, measured_normalisation
from .fc100 import LAYOUTS as FC100
from .fc100 import load_fc100
from .folder import load_folder
from .glyphs import load_glyphs
from .mini_imagenet import LAYOUTS as MINI_IMAGENET
from .mini_imagenet import load_mini_imagenet
from .omniglot import LAYOUTS as OMNIGLOT
from .omniglot import load_omniglot
from .rotations import with_rotations
from .textures import load_textures
from .tiered_imagenet import LAYOUTS as TIERED_IMAGENET
from .tiered_imagenet import load_tiered_imagenet

__all__ = ["load_splits"]

_Normalise = Literal["none", "published", "correct"]
_Rotate = Literal["none", "train", "all"]


@dataclass(frozen=True)
class _DataSet:
    """What `load_splits` knows of a set before it reads it.

    Attributes
    ----------
    load : ``load(root, download=..., image_size=...)``; ``load(cache, image_size=...)`` if it is made.
    channels : of the stored images, 1 or 3.
    made : whether the program makes the images, and caches them, instead of reading them.
    layouts : of a set that is read, the files it is read from.
    together : whether the files of all layouts are needed, not those of one.
    statistics : the normalisation of published scripts ("published"), and the right one ("correct");
        where the latter is missing, it is measured on the training images.
    """

    load: Callable[..., Splits]
    channels: int
    made: bool = False
    layouts: tuple[Layout, ...] = ()
    together: bool = False
    statistics: dict[str, Normalisation] = field(default_factory=dict)


_IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_SETS = {
    "glyphs": _DataSet(load_glyphs, channels=1, made=True),
    "textures": _DataSet(load_textures, channels=3, made=True),
    "folder": _DataSet(
        load_folder,
        channels=1,
        layouts=(Layout(holds=("alphabet/character/*.png",), source="images of your own"),),
    ),
    "omniglot": _DataSet(
        load_omniglot,
        channels=1,
        layouts=OMNIGLOT,
        together=True,
        # Of black ink on white paper, though the published scripts too show white ink on black.
        statistics={"published": Normalisation(mean=(0.922,), std=(0.084,))},
    ),
    "miniimagenet": _DataSet(
        load_mini_imagenet, channels=3, layouts=MINI_IMAGENET, statistics={"published": _IMAGENET}
    ),
    "fc100": _DataSet(
        load_fc100,
        channels=3,
        layouts=FC100,
        statistics={"published": Normalisation(mean=(0.507, 0.487, 0.441), std=(0.267, 0.256, 0.276))},
    ),
    # Measuring would mean to decode 448,695 images.
    "tieredimagenet": _DataSet(
        load_tiered_imagenet, channels=3, layouts=TIERED_IMAGENET, statistics={"correct": _IMAGENET}
    ),
    "cifarfs": _DataSet(load_cifar_fs, channels=3, layouts=CIFAR_FS),
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
    """Train, validation and test classes of a data set.

    ==============  ====================================  ====  ========  =============================
    name            images                                side  channels  classes
    ==============  ====================================  ====  ========  =============================
    glyphs          letters, from matplotlib's fonts      28    1         about 670, 140 and 220
    textures        made-up surfaces                      84    3         64, 16 and 20
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
    root : of the sets that are read from files, the folder that holds them.
    download : fetch a set that is not below its root, where that is possible: omniglot, fc100, cifarfs.
    image_size : side of the images in pixels; None for the set's usual one.
    channels : 3 repeats grey images to three channels; None leaves a set's own number.
    normalise : "none" leaves pixels in [0, 1]; "published" is what the set's published scripts do;
        "correct" is the mean and standard deviation of the pixels. Both are per channel.
    rotate : "train" or "all" adds the classes turned by 90, 180 and 270 degrees, to the training
        split or to all three (as published for Omniglot).
    cache : of the sets that are made by the program, the folder of the cache (see `cached_classes`).

    Returns
    -------
    Splits of (I, C, image_size, image_size) uint8 images, with their normalisation and channels.

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
    if image_size is not None and image_size < 1:
        raise ValueError(f"load_splits: image_size must be at least 1, got {image_size}")
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
    if data_set.made:
        if root is not None or download:
            raise ValueError(
                f"load_splits: name={name!r} is made by the program and takes neither root nor "
                f"download, got root={root!r}, download={download}; leave them out"
            )
        splits = data_set.load(cache, image_size=image_size)
    else:
        if root is None:
            raise ValueError(
                f"load_splits: name={name!r} needs root, the folder of its files (--root; that of "
                f"--second-data is --second-root); put there {'all' if data_set.together else 'one'} of\n"
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

    return Splits(
        train=finished(splits.train, rotate != "none"),
        validation=finished(splits.validation, rotate == "all"),
        test=finished(splits.test, rotate == "all"),
    )
