"""mini-ImageNet: 100 classes of ImageNet, 600 images of 84 x 84 pixels each.

Vinyals et al. 2016, https://arxiv.org/abs/1606.04080, in the split of Ravi and Larochelle 2017
(https://openreview.net/forum?id=rJY0-Kcll): 64 classes for training, 16 for validation, 20 for the
test. The split is that of the files.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from pathlib import Path

import numpy as np

from .archives import Contents, Layout, locate
from .classes import ImageClasses, Splits
from .images import read_images, resized, side, visible
from .pickles import as_named, load_pickle

_SPLITS = ("train", "val", "test")
_SIZE = 84
PICKLES = Layout(
    holds=tuple(f"mini-imagenet-cache-{split}.pkl" for split in _SPLITS),
    source="the link of https://github.com/renmengye/few-shot-ssl-public (Google Drive)",
    archive="mini-imagenet.tar.gz",
    md5="b38f1eb4251fb9459ecc8e7febf9b2eb",
)
TABLES = Layout(
    holds=("images/", "train.csv", "val.csv", "test.csv"),
    source="the tables of https://github.com/twitter-research/meta-learning-lstm, with ImageNet's images",
)
FOLDERS = Layout(
    holds=("train/", "val/", "test/"),
    source="https://github.com/yaoyao-liu/mini-imagenet-tools, its links or made from ImageNet with it",
)
LAYOUTS = (PICKLES, TABLES, FOLDERS)
CONTENTS = Contents(classes=(64, 16, 20), images=(38_400, 9_600, 12_000))


def load_mini_imagenet(
    root: str | os.PathLike[str], *, download: bool = False, image_size: int | None = None
) -> Splits:
    """mini-ImageNet from one of the three forms in which it circulates.

    All images are held in memory: 1.3 GB at 84 pixels, and up to twice as much while the pickles
    are read, which are the fastest of the three.

    Parameters
    ----------
    root : folder that has, in it or at most two folders below it, one of

        * the pickles ``mini-imagenet-cache-{train,val,test}.pkl`` (or ``mini-imagenet.tar.gz``);
        * the folder ``images`` with ``{train,val,test}.csv``, whose columns are filename and label;
        * ``{train,val,test}/<class>/*.jpg``, or any other endings of images.
    download : has no effect but on the message if nothing is found: no stable address exists.
    image_size : S; 84 by default. Pillow scales other images bilinearly.

    Returns
    -------
    Splits of (I, 3, S, S) uint8 images, classes in order of their names, such as n01532829.

    Errors are those of `load_omniglot`.
    """
    operation = "load_mini_imagenet"
    size = side(operation, image_size, _SIZE)
    layout, folder = locate(operation, root, LAYOUTS, download=download)
    if layout.holds == PICKLES.holds:
        splits = Splits(*(_read_pickle(operation, folder / name) for name in layout.holds))
        CONTENTS.check(operation, splits, folder)
        return Splits(*(resized(classes, size) for classes in splits))
    listed = _files_of_tables if layout.holds == TABLES.holds else _files_of_folders
    parts = [listed(operation, folder, split) for split in _SPLITS]
    splits = Splits(*(read_images(operation, part, [*part], channels=3, image_size=size) for part in parts))
    CONTENTS.check(operation, splits, folder)
    return splits


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
    classes = [path for path in visible(operation, folder / split) if path.is_dir()]
    return {path.name: visible(operation, path) for path in classes}
