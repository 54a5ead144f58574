"""The data that a run's settings ask for."""

from __future__ import annotations

from .data import load_splits
from .data.classes import Splits
from .settings import Settings


def load_domains(settings: Settings) -> list[Splits]:
    """The splits of ``data``, and with a ``second_data`` those of it too, whose classes are never rotated.

    Raises
    ------
    ValueError, OSError : as `load_splits`.
    """
    return [
        load_splits(
            name,
            root=root,
            download=settings.download,
            image_size=settings.image_size,
            channels=settings.channels,
            normalise=settings.normalise,
            # The trainer turns the training classes, for the encoder's warm-up is not to see them so.
            rotate="all" if is_first and settings.rotate_classes == "all" else "none",
        )
        for name, root, is_first in (
            (settings.data, settings.root, True),
            (settings.second_data, settings.second_root, False),
        )
        if name is not None
    ]


def domain_names(settings: Settings) -> list[str]:
    """What to call the domains: the data set, or the folder its images are in; no two alike."""
    given = ((settings.data, settings.root), (settings.second_data, settings.second_root))
    names = [root.resolve().name if name == "folder" and root else name for name, root in given if name]
    return names if len(set(names)) == len(names) else [f"{name} {n}" for n, name in enumerate(names, 1)]
