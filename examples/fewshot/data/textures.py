"""Textures: 84 x 84 colour images of made-up surfaces, a second domain without a download.

A class is a generator of `texture_families` with four traits, an angle and three palettes; an image
is one random draw of it: other positions, turned by up to 30 degrees, up to 20 % larger or smaller,
in one of its palettes, light on dark or dark on light, in other light. Colour alone does not tell the
classes apart: any two share a palette.

The traits of a family's twelve classes are a lattice in which no two classes share a value of any
trait. Training has eight classes of each of eight families, validation two more of each, and the
test two more of each, and two of each of two families that the others have not.

How hard it is, measured: 1-shot 5-way episodes of the test classes, by nearest neighbour (cosine)
on pixels 27 %, on histograms of colour 35 %, on histograms of gradient directions 53 %.

The pictures are the same to the bit on every machine: see `texture_families`.
"""

import numpy as np
from PIL import Image
from tqdm import tqdm

from .cache import cached_classes
from .classes import ImageClasses, Splits
from .images import resized
from .texture_families import FAMILIES, NUMBERS, Array, Sheet, Traits, direction

SIZE = 84
IMAGES_PER_CLASS = 60
CLASSES_PER_FAMILY = 12
# Of the twelve: neither split is at the end of a trait's range, so none needs extrapolation.
VALIDATION, TEST = (2, 9), (5, 7)
HELD_OUT = ("scales", "contours")  # families for the test alone
_FACTORS = (1, 5, 2, 3)  # of the lattice of traits, modulo 13; no two are each other's mirror
# A class has three of the seven palettes, the lines of the Fano plane: any two classes with
# different palettes share exactly one.
_PALETTE_STEPS = (0, 1, 3)
_JITTERS = 16  # random numbers of an image, apart from its sheet's
_SEED = 0
_CHUNK = 3  # images drawn together; as many as stay in a core's cache
_FORMAT = 1  # raise it when the code would draw other pictures from the same parameters

# Four colours each, for heights from 0 to 1.
PALETTES = (
    ((46, 32, 24), (120, 78, 48), (190, 148, 100), (236, 220, 190)),  # earth
    ((12, 34, 60), (28, 94, 120), (110, 170, 170), (226, 238, 220)),  # sea
    ((28, 36, 22), (78, 96, 48), (150, 160, 90), (224, 222, 180)),  # moss
    ((50, 16, 20), (150, 50, 40), (214, 120, 70), (248, 214, 160)),  # ember
    ((30, 32, 38), (88, 94, 104), (150, 156, 164), (226, 228, 230)),  # slate
    ((40, 20, 50), (110, 60, 110), (190, 130, 160), (240, 216, 220)),  # plum
    ((60, 40, 10), (170, 112, 24), (230, 182, 74), (250, 238, 190)),  # amber
)


def load_textures(*, image_size: int | None = None) -> Splits:
    """64, 16 and 20 classes of 60 images each, (I, 3, S, S) uint8; images below 84 are averages over areas.

    They are made once, in half a minute, then read from the cache (see `cached_classes`).
    """
    size = image_size or SIZE
    depends_on = (
        *(_FORMAT, _SEED, SIZE, IMAGES_PER_CLASS, CLASSES_PER_FAMILY, VALIDATION, TEST, HELD_OUT),
        *(PALETTES, _PALETTE_STEPS, _FACTORS),
    )
    classes = cached_classes("textures", depends_on, make_classes)
    filtering = Image.Resampling.BOX if size < SIZE else Image.Resampling.BILINEAR
    return split_classes(resized(classes, size, filtering))


def split_classes(classes: ImageClasses) -> Splits:
    """The classes that `make_classes` returns, shared out."""
    index = [int(name.split()[1]) for name in classes.names]
    seen = [family not in HELD_OUT for family in classes.alphabets]
    k = range(len(index))
    return Splits(
        train=classes.subset([c for c in k if seen[c] and index[c] not in (*VALIDATION, *TEST)]),
        validation=classes.subset([c for c in k if seen[c] and index[c] in VALIDATION]),
        test=classes.subset([c for c in k if index[c] in TEST]),
    )


def make_classes(images: int = IMAGES_PER_CLASS) -> ImageClasses:
    """All the classes of all families, `images` of each."""
    families = [family.__name__ for family in FAMILIES]
    chosen = [
        (f, c)
        for f, family in enumerate(families)
        for c in (TEST if family in HELD_OUT else range(CLASSES_PER_FAMILY))
    ]
    drawn = [
        draw_images(f, c, first, min(first + _CHUNK, images))
        for f, c in tqdm(chosen, desc="making textures", unit="class", disable=None)
        for first in range(0, images, _CHUNK)
    ]
    names = [f"{families[f]} {c}" for f, c in chosen]
    sizes = [images] * len(chosen)
    return ImageClasses.of_sizes(np.concatenate(drawn), sizes, names, [families[f] for f, _ in chosen])


def traits_of(index: int) -> Traits:
    """The traits of a family's class: each is one of 1/13 ... 12/13, different in every class."""
    a, b, c, d = (m * (index + 1) % (CLASSES_PER_FAMILY + 1) / (CLASSES_PER_FAMILY + 1) for m in _FACTORS)
    return a, b, c, d


def draw_images(family: int, index: int, first: int, stop: int) -> Array:
    """Images `first` to ``stop - 1`` of a class, each by itself: (stop - first, 3, 84, 84) uint8."""
    streams = [np.random.default_rng([_SEED, family, index, image]) for image in range(first, stop)]
    jitters = iter(np.stack([rng.random(_JITTERS, np.float32) for rng in streams], axis=1))
    numbers = np.stack([rng.random(NUMBERS, np.float32) for rng in streams])

    def jitter(size: float) -> Array:
        """(B, 1, 1), uniform within `size` around 0."""
        return (2 * next(jitters)[:, None, None] - 1) * np.float32(size)

    side = (np.arange(SIZE, dtype=np.float32) + np.float32(0.5)) / SIZE - np.float32(0.5)
    x, y = side[None, None, :], side[None, :, None]
    # A class has its own angle, so that direction counts, though never to the degree.
    cosine, sine = direction(np.float32(index * 5 % 12 / 12) + jitter(30 / 360))
    scale = 1 + jitter(0.2)
    u = scale * (1 + jitter(0.08)) * (cosine * x - sine * y) + jitter(4)
    v = scale * (1 + jitter(0.08)) * (sine * x + cosine * y) + jitter(4)
    sheet = Sheet(u, v, numbers)
    height = FAMILIES[family](sheet, traits_of(index))
    height = height + np.float32(0.12) * sheet.noise(24 * u, 24 * v, 3)  # no surface is quite smooth
    height = np.clip(height, 0, 1)

    light = 1 + jitter(0.12) + jitter(0.3) * x + jitter(0.3) * y
    slope = np.zeros_like(height)
    slope[:, 1:, 1:] = height[:, 1:, 1:] - height[:, :-1, :-1]  # lit from the upper left
    light = light * (1 + np.float32(0.5) * slope)

    height = np.where(jitter(1) < 0, height, 1 - height)  # light on dark, or dark on light
    height = np.clip(height * (1 + jitter(0.15)) + jitter(0.1), 0, 1)
    among = np.array([(family + index + step) % len(PALETTES) for step in _PALETTE_STEPS])
    chosen = among[(1.4999 * (1 + jitter(1))).astype(np.int32)]  # (B, 1, 1)
    position = 3 * height
    below = np.minimum(position.astype(np.int32), 2)
    between = position - below
    colour_of = np.array(PALETTES, np.float32)  # (palettes, 4, 3)
    pixels = np.empty((len(streams), 3, SIZE, SIZE), np.uint8)
    for channel in range(3):
        low, high = colour_of[chosen, below, channel], colour_of[chosen, below + 1, channel]
        colour = (low + between * (high - low)) * light * (1 + jitter(0.12))
        pixels[:, channel] = np.clip(colour + np.float32(0.5), 0, 255).astype(np.uint8)
    return pixels
