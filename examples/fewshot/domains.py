"""The data that a run's settings ask for."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .data import load_splits
from .data.classes import Splits
from .settings import Settings


def load_domains(settings: Settings) -> list[Splits]:
    """The splits of ``data``, and those of the other tasks' data, whose classes are never rotated."""
    domains = [
        load_splits(
            name,
            root=root,
            download=settings.download,
            image_size=settings.image_size,
            channels=settings.channels,
            normalise=settings.normalise,
            # `Training` turns the training classes alone, for the encoder's warm-up is not to see them so.
            rotated=place == 0 and settings.rotate_classes == "all",
        )
        for place, (name, root) in enumerate(settings.data_sets)
    ]
    shapes = [splits.train.picture_shape for splits in domains]
    if len(set(shapes)) > 1:
        raise ValueError(
            "load_domains: the images of all tasks must have one shape (channels, height, width), got "
            f"{' and '.join(map(str, shapes))}; give --image-size and --channels"
        )
    return domains


def domain_names(settings: Settings) -> list[str]:
    """What to call the domains: the data set, or the folder its images are in; no two alike."""
    given = settings.data_sets
    names = [root.resolve().name if name == "folder" and root else name for name, root in given]
    return names if len(set(names)) == len(names) else [f"{name} {n}" for n, name in enumerate(names, 1)]


def describe_data(domains: Sequence[Splits]) -> list[dict[str, Any]]:
    """What tells data from others, wherever they lie: their classes, and how many images each has."""
    described = []
    for splits in domains:
        classes = [(part.alphabets, part.names, part.sizes.tolist()) for part in splits]
        checksum = zlib.crc32(repr(classes).encode())
        images = sum(int(part.sizes.sum()) for part in splits)
        count = sum(len(part.names) for part in splits)
        described.append({"classes": count, "images": images, "checksum": checksum})
    return described


def check_same_data(
    program: str, recorded: list[dict[str, Any]] | None, domains: Sequence[Splits], path: Path
) -> None:
    """Raise ValueError if these are not the data that the run of a checkpoint was trained on.

    `describe_data` of those is recorded; a run that did not record it has None.
    """
    now = describe_data(domains)
    if recorded not in (None, now):
        raise ValueError(
            f"{program}: {path} was trained on other data: {recorded}, found {now}; give --root the folder "
            "with the data of the run"
        )
