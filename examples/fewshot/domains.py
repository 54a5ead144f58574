"""The data that a run's settings ask for."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .data import load_splits
from .data.classes import Splits
from .settings import Settings


def load_domains(settings: Settings) -> list[Splits]:
    """The splits of ``data``, and those of the other tasks' data, whose classes are never rotated."""
    return [
        load_splits(
            name,
            root=root,
            download=settings.download,
            image_size=settings.image_size,
            channels=settings.channels,
            normalise=settings.normalise,
            # The trainer turns the training classes, for the encoder's warm-up is not to see them so.
            rotate="all" if place == 0 and settings.rotate_classes == "all" else "none",
        )
        for place, (name, root) in enumerate(settings.data_sets)
    ]


def domain_names(settings: Settings) -> list[str]:
    """What to call the domains: the data set, or the folder its images are in; no two alike."""
    given = settings.data_sets
    names = [root.resolve().name if name == "folder" and root else name for name, root in given]
    return names if len(set(names)) == len(names) else [f"{name} {n}" for n, name in enumerate(names, 1)]


def describe_data(domains: Sequence[Splits]) -> list[dict[str, Any]]:
    """What tells data from others, wherever they lie: their classes, and how many images each has."""
    described = []
    for splits in domains:
        parts = (splits.train, splits.validation, splits.test)
        classes = [(part.alphabets, part.names, part.sizes.tolist()) for part in parts]
        checksum = zlib.crc32(repr(classes).encode())
        images = sum(int(part.sizes.sum()) for part in parts)
        count = sum(len(part.names) for part in parts)
        described.append({"classes": count, "images": images, "checksum": checksum})
    return described


def check_same_data(
    program: str, recorded: list[dict[str, Any]] | None, domains: Sequence[Splits], path: Path
) -> None:
    """Raise ValueError if these are not the data that the run of a checkpoint was trained on.

    `describe_data` of those is recorded; a run that did not record it has None. The message begins with
    the program that asks.
    """
    now = describe_data(domains)
    if recorded is None or recorded == now:
        return
    was, is_ = (
        " and ".join(f"{of['classes']} classes with {of['images']} images" for of in data)
        for data in (recorded, now)
    )
    raise ValueError(
        f"{program}: {path} was trained on other data, {was}; found {is_}, or others of their names; give "
        "--root the folder with the data of the run"
    )
