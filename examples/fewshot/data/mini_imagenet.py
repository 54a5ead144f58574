"""mini-ImageNet: 100 classes of ImageNet, 600 images of 84 x 84 pixels each.

Vinyals et al. 2016, https://arxiv.org/abs/1606.04080, in the split of Ravi and Larochelle 2017
(https://openreview.net/forum?id=rJY0-Kcll): 64 classes for training, 16 for validation, 20 for the
test. The split is that of the files. Classes come in order of their names, such as n01532829.

All images are held in memory: 1.3 GB at 84 pixels, and up to twice as much while the pickles are read,
which are the fastest of the three forms.
"""

import csv
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from .archives import SHORT, Layout, PublicSet
from .classes import ImageClasses, Splits
from .images import decode_image, read_images, visible
from .pickles import as_named, load_pickle

_PICKLES = Layout(
    holds=tuple(f"mini-imagenet-cache-{split}.pkl" for split in SHORT),
    source="the link of https://github.com/renmengye/few-shot-ssl-public (Google Drive)",
    archive="mini-imagenet.tar.gz",
    md5="b38f1eb4251fb9459ecc8e7febf9b2eb",
)
_TABLES = Layout(
    holds=("images/", "train.csv", "val.csv", "test.csv"),
    source="the tables of https://github.com/twitter-research/meta-learning-lstm, with ImageNet's images",
)
_FOLDERS = Layout(
    holds=("train/", "val/", "test/"),
    source="https://github.com/yaoyao-liu/mini-imagenet-tools, its links or made from ImageNet with it",
)


def _read(operation: str, found: dict[Layout, Path], side: int) -> Splits:
    [(layout, folder)] = found.items()
    if layout.holds == _PICKLES.holds:
        return Splits(*(_read_pickle(operation, folder / name) for name in layout.holds))
    listed = _files_of_tables if layout.holds == _TABLES.holds else _files_of_folders
    decode = partial(decode_image, operation, channels=3, image_size=side)
    files = [listed(operation, folder, split) for split in SHORT]
    return Splits(*(read_images(of_split, decode, (3, side, side)) for of_split in files))


def _read_pickle(operation: str, path: Path) -> ImageClasses:
    """``image_data`` (I, 84, 84, 3) and ``class_dict``, the positions of the images of each class."""
    content = load_pickle(operation, path)
    with as_named(operation, path):
        pixels, positions = np.moveaxis(content["image_data"], -1, 1), content["class_dict"]
        names = sorted(positions)
        order = np.concatenate([np.asarray(positions[name], np.int64) for name in names])
        if not np.array_equal(order, np.arange(len(pixels))):  # in the published files it is so
            if not np.array_equal(np.sort(order), np.arange(len(pixels))):
                raise ValueError("its classes do not hold every image once")
            pixels = pixels[order]
        sizes = [len(positions[name]) for name in names]
        return ImageClasses.of_sizes(np.ascontiguousarray(pixels), sizes, names, names)


def _files_of_tables(operation: str, folder: Path, split: str) -> dict[str, list[Path]]:
    """The columns of a table are filename and label; the files are in ``images``."""
    files: dict[str, list[Path]] = defaultdict(list)
    path = folder / f"{split}.csv"
    try:
        with path.open(newline="") as table:
            for row in csv.DictReader(table):
                files[row["label"]].append(folder / "images" / row["filename"])
        return {name: files[name] for name in sorted(files)}
    except (csv.Error, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{operation}: {str(path)!r} is no table of filename and label ({type(error).__name__}: "
            f"{error}); fetch it again"
        ) from error


def _files_of_folders(operation: str, folder: Path, split: str) -> dict[str, list[Path]]:
    """``split/<class>/*.jpg``, or any other endings of images."""
    classes = [path for path in visible(operation, folder / split) if path.is_dir()]
    return {path.name: visible(operation, path) for path in classes}


MINI_IMAGENET = PublicSet(
    operation="load_mini_imagenet",
    side=84,
    layouts=(_PICKLES, _TABLES, _FOLDERS),
    classes=(64, 16, 20),
    images=(38_400, 9_600, 12_000),
    read=_read,
)
