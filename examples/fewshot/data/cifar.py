"""FC100 and CIFAR-FS: two splits of CIFAR-100, of 600 images of 32 x 32 pixels a class.

CIFAR-100 (Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images) has 100 classes in
20 superclasses of five; the 500 training and 100 test images of a class are taken together.

FC100 (Oreshkin, Rodríguez, Lacoste 2018, https://arxiv.org/abs/1805.10123) splits it by superclass, so
that test classes are unlike the training classes: 60 classes of 12 superclasses for training, 20 of 4
for validation, 20 of 4 for the test. CIFAR-FS (Bertinetto, Henriques, Torr, Vedaldi 2019,
https://arxiv.org/abs/1805.08136) splits it at random: 64, 16 and 20 classes.

Classes bear their names, and their superclasses as groups, if read from CIFAR-100; the images of CIFAR-FS
lie in folders of the names only, and the pickles have numbers.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from .archives import SHORT, Layout, PublicSet
from .classes import ImageClasses, Splits
from .images import decode_image, read_images, visible
from .pickles import as_named, load_pickle

_SIDE = 32
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
_FC100_PICKLES, _CIFAR_FS_PICKLES = (
    Layout(
        holds=tuple(f"{stem}_{split}.pickle" for split in SHORT),
        source="the links of https://github.com/kjunelee/MetaOptNet",
        archive=archive,
    )
    for stem, archive in (("FC100", "FC100.zip"), ("CIFAR_FS", "CIFAR-FS.zip"))
)


def _read(
    operation: str, found: dict[Layout, Path], _: int, *, by: str, held_out: tuple[str, str]
) -> Splits:
    """By whichever layout was found; the original is shared out ``by`` "names" of classes, or superclasses
    ("alphabets"), of which ``held_out`` has those for validation and test."""
    [(layout, folder)] = found.items()
    if layout.holds == _FOLDERS.holds:
        return Splits(*(_read_folders(operation, folder, split) for split in SHORT))
    if layout.holds != _ORIGINAL.holds:
        return Splits(*(_read_pickle(operation, folder / name) for name in layout.holds))
    classes = _read_original(operation, folder)
    validation, test = (
        [c for c, name in enumerate(getattr(classes, by)) if name in names.split()] for names in held_out
    )
    train = sorted({*range(len(classes.names))}.difference(validation, test))
    return Splits(*map(classes.subset, (train, validation, test)))


def _read_original(operation: str, folder: Path) -> ImageClasses:
    """The 100 classes in the order of CIFAR's labels."""
    train, test, meta = (load_pickle(operation, folder / name) for name in _ORIGINAL.holds)
    with as_named(operation, folder):
        pixels, fine, coarse = (
            np.concatenate([part[key] for part in (train, test)])
            for key in ("data", "fine_labels", "coarse_labels")
        )
        names, groups = meta["fine_label_names"], meta["coarse_label_names"]
        first = [int(np.flatnonzero(fine == label)[0]) for label in range(len(names))]
        group_of = [groups[coarse[image]] for image in first]
        return _by_label(pixels.reshape(-1, 3, _SIDE, _SIDE), fine, names, group_of)


def _read_pickle(operation: str, path: Path) -> ImageClasses:
    """A split with ``data`` (I, 32, 32, 3) and ``labels``; classes are named by their numbers."""
    content = load_pickle(operation, path)
    with as_named(operation, path):
        values, labels = np.unique(content["labels"], return_inverse=True)
        names = [f"{path.stem} {value}" for value in values]
        return _by_label(np.moveaxis(content["data"], -1, 1), labels, names, names)


def _read_folders(operation: str, folder: Path, split: str) -> ImageClasses:
    """``data/<class>/*.png``, and the names of the split's classes, a line each."""
    names = (folder / "splits" / "bertinetto" / f"{split}.txt").read_text().split()
    files = {name: visible(operation, folder / "data" / name, ".png") for name in names}
    decode = partial(decode_image, operation, channels=3, image_size=_SIDE)
    return read_images(files, decode, (3, _SIDE, _SIDE), names)


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

    A label beyond is a ValueError; to count it would take memory for all up to it.
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels {labels.min()} to {labels.max()}, but {classes} classes")
    return np.bincount(labels, minlength=classes)


FC100_HELD_OUT = (
    "large_carnivores large_omnivores_and_herbivores non-insect_invertebrates small_mammals",
    "aquatic_mammals insects medium_mammals people",
)
CIFAR_FS_HELD_OUT = (
    "beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea "
    "shark television tractor",
    "baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper "
    "table telephone wardrobe whale woman worm",
)
FC100 = PublicSet(
    operation="load_fc100",
    side=_SIDE,
    layouts=(_FC100_PICKLES, _ORIGINAL),
    classes=(60, 20, 20),
    images=(36_000, 12_000, 12_000),
    read=partial(_read, by="alphabets", held_out=FC100_HELD_OUT),
)
CIFAR_FS = PublicSet(
    operation="load_cifar_fs",
    side=_SIDE,
    layouts=(_CIFAR_FS_PICKLES, _FOLDERS, _ORIGINAL),
    classes=(64, 16, 20),
    images=(38_400, 9_600, 12_000),
    read=partial(_read, by="names", held_out=CIFAR_FS_HELD_OUT),
)
