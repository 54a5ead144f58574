"""Whether the data have the classes and images that the settings ask for; no picture is looked at.

Where they do not, a ValueError names the setting that asks for too much.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .data.classes import ImageClasses, Splits
from .settings import Settings

Need = tuple[str, int]  # a flag, and how many classes, or images of a class, it asks for


def check_warmup(settings: Settings, train: Sequence[ImageClasses]) -> None:
    """The training classes of the domains, as the encoder's warm-up draws them."""
    s = settings
    ways = ("--encoder-warmup-classes", s.encoder_warmup_classes // len(train))
    for classes in train:
        _check(classes, "training", ways, ("--encoder-warmup-images", s.encoder_warmup_images))


def check_training(settings: Settings, train: Sequence[ImageClasses]) -> None:
    """The training classes of the domains, as episodes or sequences draw them."""
    s = settings
    ways, shots = ("--n-way", s.n_way), ("--k-shot", s.k_shot)
    if s.pools:
        ways, shots = ("--pool-classes", s.pool_classes), ("--pool-images", s.pool_images)
    elif s.protocol == "bootstrapping":
        shots = ("--k-shot and --future-shots", s.k_shot + s.future_shots)
    for classes in train:
        _check(classes, "training", ways, shots, copied=s.protocol == "sequential" and s.augment)


def check_unseen(settings: Settings, domains: Sequence[Splits]) -> None:
    """The classes of validation and test."""
    s = settings
    copied = s.protocol == "sequential" and s.augment_evaluation
    for splits in domains:
        for split, classes in (("validation", splits.validation), ("test", splits.test)):
            _check(classes, split, ("--n-way", s.n_way), ("--k-shot", s.k_shot), copied=copied)


def _check(classes: ImageClasses, split: str, ways: Need, shots: Need, *, copied: bool = False) -> None:
    """``copied``: a class of too few images will show some of them again (see `with_copies`)."""
    count = len(classes.names)
    if count < ways[1]:
        raise ValueError(
            f"train: {ways[0]} takes {ways[1]} {split} classes of a data set, which has {count}; lower it "
            "or add classes"
        )
    smallest = int(np.argmin(classes.sizes))
    size = classes.sizes[smallest]
    if size < (1 if copied else shots[1] + 1):
        raise ValueError(
            f"train: {shots[0]} takes {shots[1]} images of a class and leaves one, but the {split} class "
            f"{classes.names[smallest]!r} has {size}; lower it, add images or leave the class out"
        )
