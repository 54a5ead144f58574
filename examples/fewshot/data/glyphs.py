"""Letters of six scripts, rendered from the fonts that matplotlib ships: data without a download.

One class per letter, one image per face (twelve of DejaVu, four of STIX). The steps, in order:

1. Take every character whose Unicode category is a letter and whose name begins with a script of
   `SCRIPTS`. Modifier letters and letterlike symbols are left out: they are Latin and Greek
   letters in another dress, and belong to no script that could be held out.
2. Render it in each face that has it: scaled, keeping its aspect, so that the larger side of its
   bounding box is 20 of 28 pixels, and centred. Equal pictures of one class count once.
3. Keep classes with at least 8 distinct pictures. That is what the two scripts with the fewest
   faces have (Lao, and the two older alphabets of Georgian, are in two families of DejaVu only);
   the next ones, such as Arabic, Hebrew and Canadian Syllabics, have 4: too few for five shots.
4. Of classes that look alike (Latin A, Greek Alpha, Cyrillic A; c and C; o with one small accent
   or another) keep the first: see `_without_twins`. This runs over all scripts at once, so no
   class of one split has a twin in another.
"""

import hashlib
import itertools
import re
import unicodedata
from collections import Counter
from pathlib import Path

import matplotlib
import numpy as np
import PIL
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont, features
from tqdm import tqdm

from .cache import cached_classes
from .classes import PARTS, ImageClasses, Splits
from .images import resized

# Training sees Latin and Greek letters; the test is on three scripts unlike them.
SCRIPTS = {
    "train": ("LATIN", "GREEK"),
    "validation": ("CYRILLIC",),
    "test": ("ARMENIAN", "GEORGIAN", "LAO"),
}
# Twins are kept in this order, then by code point: held-out alphabets stay as whole as they can.
_SPLIT_OF = {script: split for split, scripts in SCRIPTS.items() for script in scripts}
_PRIORITY = (*SCRIPTS["test"], *SCRIPTS["validation"], *SCRIPTS["train"])

FACES = tuple(
    family + style
    for family, styles in (
        ("DejaVuSans", ("", "-Bold", "-Oblique", "-BoldOblique")),
        ("DejaVuSansMono", ("", "-Bold", "-Oblique", "-BoldOblique")),
        ("DejaVuSerif", ("", "-Bold", "-Italic", "-BoldItalic")),
        ("STIXGeneral", ("", "Bol", "Italic", "BolIta")),
    )
    for style in styles
)

SIZE = 28
_BOX = 20
_FONT_SIZE = 64
MIN_RENDERINGS = 8
TWIN_DISTANCE = 0.05
CROSS_SPLIT_DISTANCE = 0.10
CASE_TWIN_DISTANCE = 0.15
_LETTER_CASE = re.compile(r"\b(SUBSCRIPT|CAPITAL|SMALL|LETTER) ")
_FORMAT = 2  # raise it when the code below would draw other pictures from the same parameters


def load_glyphs(*, image_size: int | None = None) -> Splits:
    """The glyph classes, split by script; (I, 1, S, S) uint8 images, ink = 255 on 0.

    They are rendered once, then read from the cache (see `cached_classes`), whose file is another one with
    other fonts, parameters, or versions of the rendering libraries. Sides other than 28 are scaled.
    """
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    fonts = {face: folder / f"{face}.ttf" for face in FACES}
    depends_on = (
        *(_FORMAT, SCRIPTS, FACES, SIZE, _BOX, _FONT_SIZE, MIN_RENDERINGS),
        *(TWIN_DISTANCE, CROSS_SPLIT_DISTANCE, CASE_TWIN_DISTANCE),
        *(PIL.__version__, features.version("freetype2"), unicodedata.unidata_version),
        *(hashlib.sha256(path.read_bytes()).hexdigest() for path in fonts.values()),
    )
    classes = cached_classes("glyphs", depends_on, lambda: select_classes(*render_pictures(fonts)))
    classes = resized(classes, image_size or SIZE)

    def split(scripts: tuple[str, ...]) -> ImageClasses:
        return classes.subset([c for c, script in enumerate(classes.alphabets) if script in scripts])

    return Splits(*(split(SCRIPTS[part]) for part in PARTS))


def render_pictures(fonts: dict[str, Path]) -> tuple[list[int], np.ndarray]:
    """Steps 1 and 2: draw every letter that enough faces have, from the font file of each.

    Returns C code points, in the order in which twins are kept, and (faces, C, 28, 28) uint8 pictures, all
    zero where a face lacks the letter.
    """
    covered = {face: set(TTFont(path).getBestCmap()) for face, path in fonts.items()}
    codes = sorted(
        (
            code
            for code, faces in Counter(itertools.chain(*covered.values())).items()
            if faces >= MIN_RENDERINGS
            and unicodedata.category(chr(code)).startswith("L")
            and _script(code) in _PRIORITY
        ),
        key=lambda code: (_PRIORITY.index(_script(code)), code),
    )
    pictures = np.zeros((len(fonts), len(codes), SIZE, SIZE), np.uint8)
    for face, (name, path) in enumerate(
        tqdm(fonts.items(), desc="rendering glyphs", unit="face", disable=None)
    ):
        # Basic layout: the complex one is an optional library, and would change the pictures.
        font = ImageFont.truetype(str(path), _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
        for position, code in enumerate(codes):
            if code in covered[name]:
                pictures[face, position] = _render(font, chr(code))
    return codes, pictures


def select_classes(codes: list[int], pictures: np.ndarray) -> ImageClasses:
    """Steps 3 and 4: of what `render_pictures` returns, what has enough pictures and no twin."""
    distinct = [_distinct_pictures(pictures[:, c]) for c in range(len(codes))]
    enough = [c for c, images in enumerate(distinct) if len(images) >= MIN_RENDERINGS]
    letters = [_LETTER_CASE.sub("", unicodedata.name(chr(codes[c]))) for c in enough]
    splits = [_SPLIT_OF[_script(codes[c])] for c in enough]
    kept = [enough[c] for c in _without_twins(pictures[:, enough], letters, splits)]
    return ImageClasses.of_sizes(
        np.concatenate([distinct[c] for c in kept])[:, None],
        [len(distinct[c]) for c in kept],
        [unicodedata.name(chr(codes[c])) for c in kept],
        [_script(codes[c]) for c in kept],
    )


def twin_distances(pictures: np.ndarray) -> np.ndarray:
    """How unlike each two classes look: pictures (faces, C, 28, 28) uint8 -> (C, C) float64.

    The two pictures of a face are summed over 2 x 2 pixels, so that half a pixel's shift counts
    little, and compared by ``|a - b|^2 / (|a|^2 + |b|^2)``: 0 for equal pictures, 1 for pictures
    that share no ink. The distance is the mean over the faces that have both letters, or 1 without
    such a face. Sums of products are of integers below 2^53, hence exact: no BLAS can carry a
    class across the threshold.
    """
    count = pictures.shape[1]
    total, faces = np.zeros((count, count)), np.zeros((count, count))
    for images in pictures:
        squares = images.reshape(count, SIZE // 2, 2, SIZE // 2, 2).sum(axis=(2, 4), dtype=float)
        squares = squares.reshape(count, -1)
        power = np.einsum("cp,cp->c", squares, squares)
        both = (power > 0)[:, None] & (power > 0)
        sum_of_powers = np.where(both, power[:, None] + power, 1)
        total += np.where(both, 1 - 2 * (squares @ squares.T) / sum_of_powers, 0)
        faces += both
    return np.where(faces > 0, total / np.maximum(faces, 1), 1)


def _without_twins(pictures: np.ndarray, letters: list[str], splits: list[str]) -> list[int]:
    """Indices of the classes to keep.

    pictures (faces, C, 28, 28); letters: C names without their case; splits: C names.

    A class goes if it is nearer

    * than `TWIN_DISTANCE` to an earlier class of its split that stays: letters that differ by a
      small accent, which a shift of two pixels would hide;
    * than `CROSS_SPLIT_DISTANCE` to an earlier class of another split: copies between scripts;
    * than `CASE_TWIN_DISTANCE` to an earlier case of the same letter: scaled to one size, they
      differ in the weight of the stroke alone.

    In the last two rules the earlier class need not have stayed itself: Latin C goes for Cyrillic
    C, and c must go with it.
    """
    distances = twin_distances(pictures)
    same_letter, same_split = (
        np.equal.outer(ids, ids)
        for ids in (np.unique(names, return_inverse=True)[1] for names in (letters, splits))
    )
    near = same_split & (distances < TWIN_DISTANCE)
    barred = ~same_split & (distances < CROSS_SPLIT_DISTANCE)
    barred |= same_letter & (distances < CASE_TWIN_DISTANCE)
    kept: list[int] = []
    for c in range(len(letters)):
        if not near[c, kept].any() and not barred[c, :c].any():
            kept.append(c)
    return kept


def _script(code: int) -> str:
    return unicodedata.name(chr(code), "UNNAMED").split()[0]


def _distinct_pictures(pictures: np.ndarray) -> np.ndarray:
    """(faces, H, W) -> the pictures with ink, each once, in the order of the faces."""
    distinct = {picture.tobytes(): picture for picture in pictures if picture.any()}
    return np.array(list(distinct.values()), np.uint8).reshape(-1, *pictures.shape[1:])


def _render(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    """(28, 28) uint8, all zero if the glyph has no ink."""
    left, top, right, bottom = map(round, font.getbbox(character))
    drawn = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(drawn).text((-left, -top), character, fill=255, font=font)
    page = Image.new("L", (SIZE, SIZE))
    ink = drawn.getbbox()
    if ink is not None:
        sides = ink[2] - ink[0], ink[3] - ink[1]
        width, height = (max(1, round(side * _BOX / max(sides))) for side in sides)
        small = drawn.resize((width, height), Image.Resampling.BOX, box=ink)
        page.paste(small, ((SIZE - width) // 2, (SIZE - height) // 2))
    return np.asarray(page)
