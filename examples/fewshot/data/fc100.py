"""FC100: CIFAR-100 split by superclass, so that test classes are unlike the training classes.

Oreshkin, Rodríguez, Lacoste 2018, https://arxiv.org/abs/1805.10123. 60 classes of 12 superclasses
for training, 20 of 4 for validation, 20 of 4 for the test; 600 images of 32 x 32 pixels each.
"""

from __future__ import annotations

import os

from .archives import Contents, Layout, locate
from .cifar100 import CIFAR100, read_cifar100, read_pickled_split
from .classes import Splits
from .decoding import resized, side

SUPERCLASSES = {
    "train": (
        "fish",
        "flowers",
        "food_containers",
        "fruit_and_vegetables",
        "household_electrical_devices",
        "household_furniture",
        "large_man-made_outdoor_things",
        "large_natural_outdoor_scenes",
        "reptiles",
        "trees",
        "vehicles_1",
        "vehicles_2",
    ),
    "validation": (
        "large_carnivores",
        "large_omnivores_and_herbivores",
        "non-insect_invertebrates",
        "small_mammals",
    ),
    "test": ("aquatic_mammals", "insects", "medium_mammals", "people"),
}
PICKLES = Layout(
    holds=("FC100_train.pickle", "FC100_val.pickle", "FC100_test.pickle"),
    source="the links of https://github.com/kjunelee/MetaOptNet",
    archive="FC100.zip",
)
LAYOUTS = (PICKLES, CIFAR100)
CONTENTS = Contents(classes=(60, 20, 20), images=(36_000, 12_000, 12_000))


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

    Raises
    ------
    FileNotFoundError : if the data set is not there and not to be downloaded.
    ValueError : if a file is damaged, classes or images are missing, or the size is below 1.
    OSError : if the download fails.
    """
    operation = "load_fc100"
    size = side(operation, image_size, 32)
    layout, folder = locate(operation, root, LAYOUTS, download=download)
    if layout.holds == PICKLES.holds:
        splits = Splits(*(read_pickled_split(operation, folder / name) for name in layout.holds))
    else:
        classes = read_cifar100(operation, folder)
        splits = Splits(
            *(
                classes.subset([c for c, group in enumerate(classes.alphabets) if group in chosen])
                for chosen in SUPERCLASSES.values()
            )
        )
    CONTENTS.check(operation, splits, folder)
    return resized(splits, size)
