"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn by 20 people.

Lake, Salakhutdinov, Tenenbaum 2015, https://doi.org/10.1126/science.aab3050. The split is that of
Vinyals et al. 2016 (https://arxiv.org/abs/1606.04080), with its validation part as in torchmeta,
which the published experiments used: in the order of the archives and of the names, the first 1200
characters are for training, 172 of them (five alphabets) for validation, and 423 for the test.
The border runs through Gurmukhi, whose first 41 characters are for training and last 4 for the test.
"""

from __future__ import annotations

import os
from pathlib import Path

from .archives import Contents, Layout, locate
from .classes import ImageClasses, Splits
from .images import read_images, side, visible

VALIDATION = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
TRAINING_CHARACTERS = 1200  # those of validation included

_SOURCE = "https://github.com/brendenlake/omniglot, folder python"
_ADDRESS = "https://github.com/brendenlake/omniglot/raw/master/python"
LAYOUTS = tuple(
    Layout(
        holds=(f"{part}/",),
        source=_SOURCE,
        archive=f"{part}.zip",
        md5=md5,
        url=f"{_ADDRESS}/{part}.zip",
    )
    for part, md5 in (
        ("images_background", "68d2efa1b9178cc56df9314c21c6e718"),
        ("images_evaluation", "6b91aef0f799c5bb55b94e3f2daec811"),
    )
)
CONTENTS = Contents(classes=(1028, 172, 423), images=(20_560, 3_440, 8_460))


def load_omniglot(
    root: str | os.PathLike[str], *, download: bool = False, image_size: int | None = None
) -> Splits:
    """Omniglot without rotations; characters are named ``alphabet/character01``.

    Parameters
    ----------
    root : folder that has ``images_background`` and ``images_evaluation``, or the ZIP files of
        these names, in it or at most two folders below it.
    download : fetch what is missing (16 MB).
    image_size : S; 28 by default, as published. The stored images have 105 pixels; Pillow scales
        them bilinearly.

    Returns
    -------
    Splits of (I, 1, S, S) uint8 images, ink = 255 on 0.

    Raises
    ------
    FileNotFoundError : if the data set is not there and not to be downloaded.
    ValueError : if a file is damaged, characters or images are missing, or the size is below 1.
    OSError : if the download fails.
    """
    operation = "load_omniglot"
    size = side(operation, image_size, 28)
    characters: list[Path] = []  # in the order of archive, alphabet and character
    for layout in LAYOUTS:
        _, place = locate(operation, root, (layout,), download=download)
        alphabets = [path for path in visible(operation, place / layout.holds[0]) if path.is_dir()]
        characters += [
            path for alphabet in alphabets for path in visible(operation, alphabet) if path.is_dir()
        ]
    learnt, test = characters[:TRAINING_CHARACTERS], characters[TRAINING_CHARACTERS:]
    train = [character for character in learnt if character.parent.name not in VALIDATION]
    validation = [character for character in learnt if character.parent.name in VALIDATION]
    splits = Splits(*(_read(operation, part, size) for part in (train, validation, test)))
    CONTENTS.check(operation, splits, Path(root))
    return splits


def _read(operation: str, characters: list[Path], image_size: int) -> ImageClasses:
    files = {
        f"{character.parent.name}/{character.name}": visible(operation, character, ".png")
        for character in characters
    }
    alphabets = [character.parent.name for character in characters]
    return read_images(operation, files, alphabets, channels=1, image_size=image_size, invert=True)
