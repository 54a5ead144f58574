"""FC100 and CIFAR-FS: two splits of CIFAR-100, of 600 images of 32 x 32 pixels a class.

CIFAR-100 (Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images) has 100 classes in
20 superclasses of five; the 500 training and 100 test images of a class are taken together.

FC100 (Oreshkin, Rodríguez, Lacoste 2018, https://arxiv.org/abs/1805.10123) splits it by superclass, so
that test classes are unlike the training classes: 60 classes of 12 superclasses for training, 20 of 4
for validation, 20 of 4 for the test. CIFAR-FS (Bertinetto, Henriques, Torr, Vedaldi 2019,
https://arxiv.org/abs/1805.08136) splits it at random: 64, 16 and 20 classes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .archives import Contents, Layout, locate
from .classes import ImageClasses, Splits
from .images import read_images, resized, side, visible
from .pickles import as_named, load_pickle

_SIZE = 32
_ORIGINAL = Layout(
    holds=("train", "test", "meta"),
    source="CIFAR-100 for Python, https://www.cs.toronto.edu/~kriz/cifar.html",
    archive="cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
)
_FOLDERS = Layout(
    holds=("data/", "splits/bertinetto/"),
    source="the links of https://github.com/bertinetto/r2d2",
    archive="cifarfs.zip",
)


def _pickles(stem: str, archive: str) -> Layout:
    return Layout(
        holds=tuple(f"{stem}_{split}.pickle" for split in ("train", "val", "test")),
        source="the links of https://github.com/kjunelee/MetaOptNet",
        archive=archive,
    )


@dataclass(frozen=True)
class SplitOfCifar100:
    """One of the two.

    Attributes
    ----------
    by : what is shared out, the attribute of `ImageClasses`: "names" of classes, or superclasses
        ("alphabets").
    validation, test : of these; the others are for training. Names with spaces between.
    layouts, contents : the forms in which it circulates, and what it has when it is complete.
    """

    by: str
    validation: str
    test: str
    layouts: tuple[Layout, ...]
    contents: Contents


FC100 = SplitOfCifar100(
    by="alphabets",
    validation="large_carnivores large_omnivores_and_herbivores non-insect_invertebrates small_mammals",
    test="aquatic_mammals insects medium_mammals people",
    layouts=(_pickles("FC100", "FC100.zip"), _ORIGINAL),
    contents=Contents(classes=(60, 20, 20), images=(36_000, 12_000, 12_000)),
)
CIFAR_FS = SplitOfCifar100(
    by="names",
    validation=(
        "beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea "
        "shark television tractor"
    ),
    test=(
        "baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail "
        "sweet_pepper table telephone wardrobe whale woman worm"
    ),
    layouts=(_pickles("CIFAR_FS", "CIFAR-FS.zip"), _FOLDERS, _ORIGINAL),
    contents=Contents(classes=(64, 16, 20), images=(38_400, 9_600, 12_000)),
)


def load_fc100(
    root: str | os.PathLike[str], *, download: bool = False, image_size: int | None = None
) -> Splits:
    """FC100 from its own pickles, or from CIFAR-100.

    Parameters
    ----------
    root : folder that has, in it or at most two folders below it, the three pickles
        ``FC100_{train,val,test}.pickle`` (or ``FC100.zip``), or CIFAR-100's files ``train``,
        ``test`` and ``meta`` (or ``cifar-100-python.tar.gz``).
    download : fetch CIFAR-100 (169 MB) if there is neither.
    image_size : S; 32 by default, the stored size. Pillow scales to others bilinearly.

    Returns
    -------
    Splits of (I, 3, S, S) uint8 images. Classes bear their names and superclasses if read from
    CIFAR-100; the pickles have numbers only.

    Errors are those of `load_omniglot`.
    """
    return _load("load_fc100", FC100, root, download, image_size)


def load_cifar_fs(
    root: str | os.PathLike[str], *, download: bool = False, image_size: int | None = None
) -> Splits:
    """CIFAR-FS from one of the three forms in which it circulates; errors as `load_omniglot`.

    Parameters
    ----------
    root : folder that has, in it or at most two folders below it, one of

        * the pickles ``CIFAR_FS_{train,val,test}.pickle`` (or ``CIFAR-FS.zip``);
        * ``data/<class>/*.png`` with ``splits/bertinetto/{train,val,test}.txt``, one class name a
          line (or ``cifarfs.zip``);
        * CIFAR-100's files ``train``, ``test`` and ``meta`` (or ``cifar-100-python.tar.gz``).
    download, image_size : as of `load_fc100`.

    Returns
    -------
    Splits of (I, 3, S, S) uint8 images; classes are numbered in the pickles and named in the others,
    and have their superclasses as groups if read from CIFAR-100.
    """
    return _load("load_cifar_fs", CIFAR_FS, root, download, image_size)


def _load(
    operation: str,
    split: SplitOfCifar100,
    root: str | os.PathLike[str],
    download: bool,
    image_size: int | None,
) -> Splits:
    size = side(operation, image_size, _SIZE)
    layout, folder = locate(operation, root, split.layouts, download=download)
    if layout.holds == _ORIGINAL.holds:
        classes = _read_original(operation, folder)
        validation, test = (
            [c for c, name in enumerate(getattr(classes, split.by)) if name in held_out.split()]
            for held_out in (split.validation, split.test)
        )
        train = sorted({*range(len(classes.names))}.difference(validation, test))
        splits = Splits(*map(classes.subset, (train, validation, test)))
    elif layout.holds == _FOLDERS.holds:
        splits = Splits(*(_read_folders(operation, folder, name) for name in ("train", "val", "test")))
    else:
        splits = Splits(*(_read_pickle(operation, folder / name) for name in layout.holds))
    split.contents.check(operation, splits, folder)
    return Splits(*(resized(classes, size) for classes in splits))


def _read_original(operation: str, folder: Path) -> ImageClasses:
    """The 100 classes in the order of CIFAR's labels; (I, 3, 32, 32) uint8, groups = superclasses."""
    train, test, meta = (load_pickle(operation, folder / name) for name in _ORIGINAL.holds)
    with as_named(operation, folder):
        pixels = np.concatenate([part["data"] for part in (train, test)]).reshape(-1, 3, _SIZE, _SIZE)
        fine = np.concatenate([part["fine_labels"] for part in (train, test)])
        coarse = np.concatenate([part["coarse_labels"] for part in (train, test)])
        names, groups = meta["fine_label_names"], meta["coarse_label_names"]
        first = [int(np.flatnonzero(fine == label)[0]) for label in range(len(names))]
        return _by_label(pixels, fine, names, [groups[coarse[image]] for image in first])


def _read_pickle(operation: str, path: Path) -> ImageClasses:
    """A split with ``data`` (I, 32, 32, 3) and ``labels``; classes are named by their numbers."""
    content = load_pickle(operation, path)
    with as_named(operation, path):
        values, labels = np.unique(content["labels"], return_inverse=True)
        names = [f"{path.stem} {value}" for value in values]
        return _by_label(np.moveaxis(content["data"], -1, 1), labels, names, names)


def _read_folders(operation: str, folder: Path, split: str) -> ImageClasses:
    names = (folder / "splits" / "bertinetto" / f"{split}.txt").read_text().split()
    files = {name: visible(operation, folder / "data" / name, ".png") for name in names}
    return read_images(operation, files, names, channels=3, image_size=_SIZE)


def _by_label(
    images: np.ndarray, labels: np.ndarray, names: Sequence[str], groups: Sequence[str]
) -> ImageClasses:
    """Images (I, C, H, W) sorted by their labels (I,) in [0, K), in their order within a class."""
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images, but {len(labels)} labels")
    sizes = count_labels(labels, len(names))
    sorted_images = np.ascontiguousarray(images[np.argsort(labels, kind="stable")])
    return ImageClasses.of_sizes(sorted_images, sizes, names, groups)


def count_labels(labels: np.ndarray, classes: int) -> np.ndarray:
    """How often each of the labels (I,) in [0, K) occurs: (K,) int64.

    Raises
    ------
    ValueError : if there is a label beyond; to count it would take memory for all up to it.
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels {labels.min()} to {labels.max()}, but {classes} classes")
    return np.bincount(labels, minlength=classes)
