"""Whether the data have the classes and images that the settings ask for; no picture is looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .data.classes import ImageClasses, Splits
from .data.lazy import with_copies
from .settings import Settings


def check_warmup(settings: Settings, train: Sequence[ImageClasses]) -> None:
    """The training classes of the domains, as the encoder's warm-up draws them.

    Raises
    ------
    ValueError : naming the setting that asks for too much.
    """
    s = settings
    for classes in train:
        _check_ways(classes, "training", "--encoder-warmup-classes", s.encoder_warmup_classes // len(train))
        _check_shots(classes, "training", "--encoder-warmup-images", s.encoder_warmup_images)


def check_training(settings: Settings, train: Sequence[ImageClasses]) -> None:
    """The training classes of the domains, as episodes or sequences draw them; errors as `check_warmup`."""
    s = settings
    ways, shots = ("--n-way", s.n_way), ("--k-shot", s.k_shot)
    if s.pools:
        ways, shots = ("--pool-classes", s.pool_classes), ("--pool-images", s.pool_images)
    elif s.protocol == "bootstrapping":
        shots = ("--k-shot and --future-shots", s.k_shot + s.future_shots)
    for classes in train:
        if s.protocol == "sequential" and s.augment:
            classes = with_copies(classes, shots[1] + 1)
        _check_ways(classes, "training", *ways)
        _check_shots(classes, "training", *shots)


def check_unseen(settings: Settings, domains: Sequence[Splits]) -> None:
    """The classes of validation and test; errors as `check_warmup`."""
    s = settings
    for splits in domains:
        for split, classes in (("validation", splits.validation), ("test", splits.test)):
            if s.protocol == "sequential" and s.augment_evaluation:
                classes = with_copies(classes, s.k_shot + 1)
            _check_ways(classes, split, "--n-way", s.n_way)
            _check_shots(classes, split, "--k-shot", s.k_shot)


def _check_ways(classes: ImageClasses, split: str, flag: str, ways: int) -> None:
    count = len(classes.names)
    if count < ways:
        raise ValueError(
            f"train: {flag} takes {ways} {split} classes of a data set, which has {count}; lower it or "
            "add classes"
        )


def _check_shots(classes: ImageClasses, split: str, flag: str, shots: int) -> None:
    smallest = int(np.argmin(classes.sizes))
    size = classes.sizes[smallest]
    if size < shots + 1:
        raise ValueError(
            f"train: {flag} takes {shots} images of a class and leaves one, but the {split} class "
            f"{classes.names[smallest]!r} has {size}; lower it, add images or leave the class out"
        )
