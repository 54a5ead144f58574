"""CIFAR-FS: CIFAR-100 split at random into 64 training, 16 validation and 20 test classes.

Bertinetto, Henriques, Torr, Vedaldi 2019, https://arxiv.org/abs/1805.08136. 600 images of 32 x 32
pixels each.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from .archives import Contents, Layout, locate
from .cifar100 import CIFAR100, read_cifar100, read_pickled_split
from .classes import ImageClasses, Splits
from .decoding import decode_image, read_classes, resized, side, visible

CLASSES = {  # names with spaces between
    "train": (
        "apple aquarium_fish bear bee bottle bowl boy bridge bus can castle caterpillar chair clock cloud "
        "cockroach couch cup dinosaur dolphin elephant forest girl hamster house kangaroo keyboard "
        "lawn_mower lion lizard lobster mountain mouse mushroom oak_tree orange orchid palm_tree pear "
        "pine_tree plate porcupine possum rabbit raccoon ray road seal shrew skunk skyscraper snake spider "
        "squirrel streetcar sunflower tank tiger train trout tulip turtle willow_tree wolf"
    ),
    "validation": (
        "beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea "
        "shark television tractor"
    ),
    "test": (
        "baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail "
        "sweet_pepper table telephone wardrobe whale woman worm"
    ),
}
PICKLES = Layout(
    holds=("CIFAR_FS_train.pickle", "CIFAR_FS_val.pickle", "CIFAR_FS_test.pickle"),
    source="the links of https://github.com/kjunelee/MetaOptNet",
    archive="CIFAR-FS.zip",
)
FOLDERS = Layout(
    holds=("data/", "splits/bertinetto/"),
    source="the links of https://github.com/bertinetto/r2d2",
    archive="cifarfs.zip",
)
LAYOUTS = (PICKLES, FOLDERS, CIFAR100)
CONTENTS = Contents(classes=(64, 16, 20), images=(38_400, 9_600, 12_000))
_SPLIT_FILES = ("train.txt", "val.txt", "test.txt")


def load_cifar_fs(
    root: str | os.PathLike[str], *, download: bool = False, image_size: int | None = None
) -> Splits:
    """CIFAR-FS from one of the three forms in which it circulates.

    Parameters
    ----------
    root : folder that has, in it or at most two folders below it, one of

        * the pickles ``CIFAR_FS_{train,val,test}.pickle`` (or ``CIFAR-FS.zip``);
        * ``data/<class>/*.png`` with ``splits/bertinetto/{train,val,test}.txt``, one class name a
          line (or ``cifarfs.zip``);
        * CIFAR-100's files ``train``, ``test`` and ``meta`` (or ``cifar-100-python.tar.gz``).
    download : fetch CIFAR-100 (169 MB) if there is none of them.
    image_size : S; 32 by default, the stored size. Pillow scales to others bilinearly.

    Returns
    -------
    Splits of (I, 3, S, S) uint8 images; classes are numbered in the pickles and named in the others,
    and have their superclasses as groups if read from CIFAR-100.

    Raises
    ------
    FileNotFoundError : if the data set is not there and not to be downloaded.
    ValueError : if a file is damaged, classes or images are missing, or the size is below 1.
    OSError : if the download fails.
    """
    operation = "load_cifar_fs"
    size = side(operation, image_size, 32)
    layout, folder = locate(operation, root, LAYOUTS, download=download)
    if layout.holds == PICKLES.holds:
        splits = Splits(*(read_pickled_split(operation, folder / name) for name in layout.holds))
    elif layout.holds == FOLDERS.holds:
        splits = Splits(*(_read_folders(operation, folder, name) for name in _SPLIT_FILES))
    else:
        classes = read_cifar100(operation, folder)
        splits = Splits(
            *(
                classes.subset([c for c, name in enumerate(classes.names) if name in chosen.split()])
                for chosen in CLASSES.values()
            )
        )
    CONTENTS.check(operation, splits, folder)
    return resized(splits, size)


def _read_folders(operation: str, folder: Path, split: str) -> ImageClasses:
    names = (folder / "splits" / "bertinetto" / split).read_text().split()
    files = {
        name: [path for path in visible(operation, folder / "data" / name) if path.suffix == ".png"]
        for name in names
    }
    read = partial(decode_image, operation, channels=3, image_size=32)
    return read_classes(files, names, channels=3, image_size=32, read=read)
