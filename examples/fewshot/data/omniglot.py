"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn by 20 people.

Lake, Salakhutdinov, Tenenbaum 2015, https://doi.org/10.1126/science.aab3050. The split is that of
Vinyals et al. 2016 (https://arxiv.org/abs/1606.04080), with its validation part as in torchmeta,
which the published experiments used: in the order of the archives and of the names, the first 1200
characters are for training, 172 of them (five alphabets) for validation, and 423 for the test.
The border runs through Gurmukhi, whose first 41 characters are for training and last 4 for the test.
"""

from functools import partial
from pathlib import Path

from .archives import Layout, PublicSet
from .classes import ImageClasses, Splits
from .images import decode_image, read_images, visible

VALIDATION = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
TRAINING_CHARACTERS = 1200  # those of validation included


def _read(operation: str, found: dict[Layout, Path], side: int) -> Splits:
    """From the folders of all layouts; characters are named ``alphabet/character01``, ink is 255 on 0."""
    folders = [folder / layout.holds[0] for layout, folder in found.items()]
    for _ in ("alphabets", "characters"):  # in the order of archive, alphabet and character
        folders = [path for folder in folders for path in visible(operation, folder) if path.is_dir()]
    learnt, test = folders[:TRAINING_CHARACTERS], folders[TRAINING_CHARACTERS:]
    train = [character for character in learnt if character.parent.name not in VALIDATION]
    validation = [character for character in learnt if character.parent.name in VALIDATION]

    def read(characters: list[Path]) -> ImageClasses:
        alphabets = [character.parent.name for character in characters]
        files = {
            f"{character.parent.name}/{character.name}": visible(operation, character, ".png")
            for character in characters
        }
        decode = partial(decode_image, operation, channels=1, image_size=side, invert=True)
        return read_images(files, decode, (1, side, side), alphabets)

    return Splits(read(train), read(validation), read(test))


OMNIGLOT = PublicSet(
    operation="load_omniglot",
    side=28,  # as published; the stored images have 105 pixels
    layouts=tuple(
        Layout(
            holds=(f"{part}/",),
            source="https://github.com/brendenlake/omniglot, folder python",
            archive=f"{part}.zip",
            md5=md5,
            url=f"https://github.com/brendenlake/omniglot/raw/master/python/{part}.zip",
        )
        for part, md5 in (
            ("images_background", "68d2efa1b9178cc56df9314c21c6e718"),
            ("images_evaluation", "6b91aef0f799c5bb55b94e3f2daec811"),
        )
    ),
    together=True,
    classes=(1028, 172, 423),
    images=(20_560, 3_440, 8_460),
    read=_read,
)
