"""CIFAR-100 as the source of FC100 and CIFAR-FS, and the pickles in which these two circulate.

Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images. 100 classes in 20
superclasses of five; the 500 training and 100 test images of a class are taken together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .archives import Layout
from .classes import ImageClasses
from .pickles import load_pickle

CIFAR100 = Layout(
    holds=("train", "test", "meta"),
    source="CIFAR-100 for Python, https://www.cs.toronto.edu/~kriz/cifar.html",
    archive="cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
)


def read_cifar100(operation: str, folder: Path) -> ImageClasses:
    """The 100 classes in the order of CIFAR's labels; (I, 3, 32, 32) uint8, groups = superclasses.

    Raises
    ------
    ValueError : if a file is damaged or holds something else.
    """
    parts = [load_pickle(operation, folder / part) for part in ("train", "test")]
    meta = load_pickle(operation, folder / "meta")
    try:
        pixels = np.concatenate([part["data"] for part in parts]).reshape(-1, 3, 32, 32)
        fine = np.concatenate([part["fine_labels"] for part in parts])
        coarse = np.concatenate([part["coarse_labels"] for part in parts])
        names, groups = meta["fine_label_names"], meta["coarse_label_names"]
        first = [int(np.flatnonzero(fine == label)[0]) for label in range(len(names))]
        return by_label(pixels, fine, names, [groups[coarse[image]] for image in first])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise _foreign(operation, folder, error) from error


def read_pickled_split(operation: str, path: Path) -> ImageClasses:
    """A split with ``data`` (I, 32, 32, 3) and ``labels``; classes are named by their numbers.

    Raises
    ------
    ValueError : if the file is damaged or holds something else.
    """
    content = load_pickle(operation, path)
    try:
        pixels = np.moveaxis(content["data"], -1, 1)
        values, labels = np.unique(content["labels"], return_inverse=True)
        names = [f"{path.stem} {value}" for value in values]
        return by_label(pixels, labels, names, names)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise _foreign(operation, path, error) from error


def by_label(
    images: np.ndarray, labels: np.ndarray, names: Sequence[str], groups: Sequence[str]
) -> ImageClasses:
    """Images (I, C, H, W) sorted by their labels (I,) in [0, K), in their order within a class.

    Raises
    ------
    ValueError : if there are more or fewer labels than images, or others.
    """
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images, but {len(labels)} labels")
    counts = count_labels(labels, len(names))
    return ImageClasses(
        images=np.ascontiguousarray(images[np.argsort(labels, kind="stable")]),
        offsets=np.cumsum([0, *counts], dtype=np.int64),
        names=tuple(names),
        alphabets=tuple(groups),
    )


def count_labels(labels: np.ndarray, classes: int) -> np.ndarray:
    """How often each of the labels (I,) in [0, K) occurs: (K,) int64.

    Raises
    ------
    ValueError : if there is a label beyond; to count it would take memory for all up to it.
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels {labels.min()} to {labels.max()}, but {classes} classes")
    return np.bincount(labels, minlength=classes)


def _foreign(operation: str, path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{operation}: {str(path)!r} does not hold what its name says ({type(error).__name__}: {error}); "
        "delete it and fetch it again"
    )
