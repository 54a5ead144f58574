"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn by 20 people.

Lake, Salakhutdinov, Tenenbaum 2015, https://doi.org/10.1126/science.aab3050. The split is that of
Vinyals et al. 2016 (https://arxiv.org/abs/1606.04080), with its validation part as in torchmeta,
which the published experiments used: in the order of the archives and of the names, the first 1200
characters are for training, 172 of them (five alphabets) for validation, and 423 for the test.
The border runs through Gurmukhi, whose first 41 characters are for training and last 4 for the test.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from .archives import Contents, Layout, locate
from .classes import ImageClasses, Splits
from .decoding import decode_image, read_classes, side, visible

# Alphabets and their numbers of characters, by archive, in the order of their names.
BACKGROUND = {
    "Alphabet_of_the_Magi": 20,
    "Anglo-Saxon_Futhorc": 29,
    "Arcadian": 26,
    "Armenian": 41,
    "Asomtavruli_(Georgian)": 40,
    "Balinese": 24,
    "Bengali": 46,
    "Blackfoot_(Canadian_Aboriginal_Syllabics)": 14,
    "Braille": 26,
    "Burmese_(Myanmar)": 34,
    "Cyrillic": 33,
    "Early_Aramaic": 22,
    "Futurama": 26,
    "Grantha": 43,
    "Greek": 24,
    "Gujarati": 48,
    "Hebrew": 22,
    "Inuktitut_(Canadian_Aboriginal_Syllabics)": 16,
    "Japanese_(hiragana)": 52,
    "Japanese_(katakana)": 47,
    "Korean": 40,
    "Latin": 26,
    "Malay_(Jawi_-_Arabic)": 40,
    "Mkhedruli_(Georgian)": 41,
    "N_Ko": 33,
    "Ojibwe_(Canadian_Aboriginal_Syllabics)": 14,
    "Sanskrit": 42,
    "Syriac_(Estrangelo)": 23,
    "Tagalog": 17,
    "Tifinagh": 55,
}
EVALUATION = {
    "Angelic": 20,
    "Atemayar_Qelisayer": 26,
    "Atlantean": 26,
    "Aurek-Besh": 26,
    "Avesta": 26,
    "Ge_ez": 26,
    "Glagolitic": 45,
    "Gurmukhi": 45,
    "Kannada": 41,
    "Keble": 26,
    "Malayalam": 47,
    "Manipuri": 40,
    "Mongolian": 30,
    "Old_Church_Slavonic_(Cyrillic)": 45,
    "Oriya": 46,
    "Sylheti": 28,
    "Syriac_(Serto)": 23,
    "Tengwar": 25,
    "Tibetan": 42,
    "ULOG": 26,
}
VALIDATION = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
TRAINING_CHARACTERS = 1200  # those of validation included

_SOURCE = "https://github.com/brendenlake/omniglot, folder python"
_ADDRESS = "https://github.com/brendenlake/omniglot/raw/master/python"
LAYOUTS = (
    Layout(
        holds=("images_background/",),
        source=_SOURCE,
        archive="images_background.zip",
        md5="68d2efa1b9178cc56df9314c21c6e718",
        url=f"{_ADDRESS}/images_background.zip",
    ),
    Layout(
        holds=("images_evaluation/",),
        source=_SOURCE,
        archive="images_evaluation.zip",
        md5="6b91aef0f799c5bb55b94e3f2daec811",
        url=f"{_ADDRESS}/images_evaluation.zip",
    ),
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
    background, evaluation = LAYOUTS
    characters = _characters(operation, root, background, BACKGROUND, download)
    characters += _characters(operation, root, evaluation, EVALUATION, download)
    learnt, test = characters[:TRAINING_CHARACTERS], characters[TRAINING_CHARACTERS:]
    train = [character for character in learnt if character.parent.name not in VALIDATION]
    validation = [character for character in learnt if character.parent.name in VALIDATION]
    splits = Splits(*(_read(operation, part, size) for part in (train, validation, test)))
    CONTENTS.check(operation, splits, Path(root))
    return splits


def _characters(
    operation: str,
    root: str | os.PathLike[str],
    layout: Layout,
    sizes: dict[str, int],
    download: bool,
) -> list[Path]:
    """The folders of the characters of one archive, in order of alphabet and character."""
    _, place = locate(operation, root, (layout,), download=download)
    folder = place / layout.holds[0]
    characters = []
    for alphabet, size in sizes.items():
        found = sorted(path for path in (folder / alphabet).glob("character*") if path.is_dir())
        if len(found) != size:
            raise ValueError(
                f"{operation}: {str(folder / alphabet)!r} must have {size} characters, got {len(found)}; "
                "the copy is incomplete: delete it and fetch it again"
            )
        characters += found
    return characters


def _read(operation: str, characters: list[Path], image_size: int) -> ImageClasses:
    files = {
        f"{character.parent.name}/{character.name}": [
            path for path in visible(operation, character) if path.suffix == ".png"
        ]
        for character in characters
    }
    alphabets = [character.parent.name for character in characters]
    read = partial(decode_image, operation, channels=1, image_size=image_size, invert=True)
    return read_classes(files, alphabets, channels=1, image_size=image_size, read=read)
