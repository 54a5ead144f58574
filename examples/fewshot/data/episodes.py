"""N-way K-shot episodes drawn from classes of images.

Requirements the design meets: episode ``i`` is a function of ``(seed, i)`` alone, so that a run
can resume, or be evaluated in batches of any size, on the same pictures to the bit; and drawing is
vectorised over the batch, so that one core feeds a training loop.

The first comes from a counter-based generator (Philox): episode ``i`` owns a fixed range of
counters, and consecutive episodes are consecutive ranges, so one call draws a whole batch. All
arithmetic after it is elementwise with exactly rounded operations (no sine, no exponential, no
matrix product), whose results depend neither on the batch nor on the machine.

Letters in the shapes: C classes, I images of H x W pixels; B episodes, N ways, K shots, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

# One Philox key per purpose, so that a warm-up and the episodes of one seed share no numbers.
_EPISODE_STREAM = 0
_CLASS_BATCH_STREAM = 1

# Largest distortions of the random affine map; each is drawn uniformly around "none".
_TAN_HALF_ROTATION = 0.1  # 2 * atan(0.1) = 11.4 degrees either way
_SCALE = 0.15  # each axis by itself, 0.85 to 1.15
_SHEAR = 0.15
_SHIFT = 0.15  # in half image widths: 2.1 pixels of 28
_NUMBERS_PER_IMAGE = 6


@dataclass(frozen=True)
class ImageClasses:
    """Images sorted by class, the material of one split.

    Attributes
    ----------
    images : (I, H, W) uint8, ink = 255 on 0.
    offsets : (C + 1,) int64; the images of class c are ``images[offsets[c]:offsets[c + 1]]``.
    names : C class names, such as "GREEK SMALL LETTER ALPHA".
    alphabets : C names, the script or alphabet of each class.

    Raises
    ------
    TypeError, ValueError : if the four do not fit together.

    Examples
    --------
    >>> images = np.zeros((5, 28, 28), np.uint8)
    >>> classes = ImageClasses(images, np.array([0, 2, 5]), ("a", "b"), ("LATIN", "LATIN"))
    >>> classes.sizes.tolist()
    [2, 3]
    """

    images: np.ndarray
    offsets: np.ndarray
    names: tuple[str, ...]
    alphabets: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8:
            raise TypeError(
                f"ImageClasses: images must be uint8 (ink = 255 on 0), got {self.images.dtype}; "
                "convert them with .astype(numpy.uint8)"
            )
        if self.images.ndim != 3:
            raise ValueError(f"ImageClasses: images must have shape (I, H, W), got {self.images.shape}")
        count = len(self.names)
        if self.offsets.shape != (count + 1,) or len(self.alphabets) != count:
            raise ValueError(
                f"ImageClasses: {count} names need offsets of shape ({count + 1},) and {count} "
                f"alphabets, got {self.offsets.shape} and {len(self.alphabets)}"
            )
        ends_fit = self.offsets[0] == 0 and self.offsets[-1] == len(self.images)
        if not ends_fit or np.any(np.diff(self.offsets) < 0):
            raise ValueError(
                "ImageClasses: offsets must rise from 0 to the number of images "
                f"({len(self.images)}), got {self.offsets[0]} to {self.offsets[-1]}"
            )

    @property
    def sizes(self) -> np.ndarray:
        """(C,) int64, the number of images of each class."""
        return np.diff(self.offsets)

    def subset(self, chosen: Sequence[int]) -> ImageClasses:
        """The classes with the given indices, in the given order."""
        ranges = [np.arange(self.offsets[c], self.offsets[c + 1]) for c in chosen]
        return ImageClasses(
            images=self.images[np.concatenate([np.arange(0), *ranges])],
            offsets=np.cumsum([0, *map(len, ranges)], dtype=np.int64),
            names=tuple(self.names[c] for c in chosen),
            alphabets=tuple(self.alphabets[c] for c in chosen),
        )


@dataclass(frozen=True)
class Splits:
    """Classes for training, for choosing settings, and for the final test; they share none."""

    train: ImageClasses
    validation: ImageClasses
    test: ImageClasses


@dataclass(frozen=True)
class Episodes:
    """B episodes as tensors on the CPU.

    Attributes
    ----------
    support : (B, N * K, 1, H, W) float32 in [0, 1], classes mixed.
    support_labels : (B, N * K) int64 in [0, N).
    query : (B, Q, 1, H, W) float32 in [0, 1].
    query_labels : (B, Q) int64 in [0, N).
    classes : (B, N) int64, the index in the split of the class behind each label.
    """

    support: torch.Tensor
    support_labels: torch.Tensor
    query: torch.Tensor
    query_labels: torch.Tensor
    classes: torch.Tensor


class EpisodeSampler:
    """Draws N-way K-shot episodes; episode ``i`` is a function of ``(seed, i)`` alone.

    The N classes are drawn without replacement and in random order, which makes the labels a
    random permutation. A class's K support images are drawn without replacement. Each query is
    independent of the others: its class is uniform over the N, its image uniform over the images
    of that class that are not in the support. (Two queries may therefore show one image; with
    ``augment`` under different distortions.)

    Parameters
    ----------
    classes : the split to draw from.
    n_way, k_shot, n_query : N, K and Q, each at least 1.
    seed : non-negative.
    augment : a random affine map for every image (rotation up to 11 degrees, scale of each axis
        by up to 15 %, shear up to 0.15, shift up to 2.1 pixels of 28), bilinear. It does not
        change which images are drawn.

    Raises
    ------
    ValueError : if the split has fewer than N classes, or a class fewer than K + 1 images.

    Examples
    --------
    >>> images = np.zeros((6, 28, 28), np.uint8)
    >>> two = ImageClasses(images, np.array([0, 3, 6]), ("a", "b"), ("LATIN", "LATIN"))
    >>> sampler = EpisodeSampler(two, n_way=2, k_shot=1, n_query=4, seed=0)
    >>> sampler.batch(first=10, size=3).query.shape
    torch.Size([3, 4, 1, 28, 28])
    """

    def __init__(
        self,
        classes: ImageClasses,
        *,
        n_way: int,
        k_shot: int,
        n_query: int,
        seed: int,
        augment: bool = True,
    ) -> None:
        for name, value in (("n_way", n_way), ("k_shot", k_shot), ("n_query", n_query)):
            if value < 1:
                raise ValueError(f"EpisodeSampler: {name} must be at least 1, got {value}")
        count = len(classes.names)
        if n_way > count:
            raise ValueError(
                f"EpisodeSampler: n_way={n_way} needs as many classes, got {count}; lower n_way or "
                "use a larger split"
            )
        smallest = int(np.argmin(classes.sizes))
        if classes.sizes[smallest] < k_shot + 1:
            raise ValueError(
                f"EpisodeSampler: k_shot={k_shot} needs at least {k_shot + 1} images in every "
                f"class (one is left for a query), but class {classes.names[smallest]!r} has "
                f"{classes.sizes[smallest]}; lower k_shot or leave the class out"
            )
        self.classes = classes
        self.n_way, self.k_shot, self.n_query = n_way, k_shot, n_query
        self.augment = augment
        self._key = _philox_key("EpisodeSampler", seed, _EPISODE_STREAM)

    def batch(self, first: int, size: int) -> Episodes:
        """Episodes ``first`` to ``first + size - 1``.

        Raises
        ------
        ValueError : if ``first`` is negative or ``size`` below 1.
        """
        if first < 0 or size < 1:
            raise ValueError(
                "EpisodeSampler.batch: first must be at least 0 and size at least 1, "
                f"got first={first}, size={size}"
            )
        n, k, q = self.n_way, self.k_shot, self.n_query
        counts = [n, n * k, n * k, q, q, _NUMBERS_PER_IMAGE * (n * k + q)]
        numbers = _uniform_rows(self._key, first, size, sum(counts))
        for_class, for_support, for_order, for_label, for_query, for_affine = np.split(
            numbers, np.cumsum(counts)[:-1], axis=1
        )

        classes = _without_replacement(for_class, np.full(size, len(self.classes.names)))
        class_sizes = self.classes.sizes[classes]  # (B, N)
        shots = _without_replacement(for_support.reshape(size, n, k), class_sizes)  # (B, N, K)

        query_labels = _below(for_label, n)  # (B, Q)
        query_sizes = np.take_along_axis(class_sizes, query_labels, axis=1)
        taken = np.take_along_axis(shots, query_labels[:, :, None], axis=1)  # (B, Q, K)
        query_images = _skip(_below(for_query, query_sizes - k), taken)

        starts = self.classes.offsets[classes]  # (B, N)
        order = np.argsort(for_order, axis=1)  # (B, N * K), mixes the classes
        support_rows = (starts[:, :, None] + shots).reshape(size, n * k)
        rows = np.concatenate(
            [
                np.take_along_axis(support_rows, order, axis=1),
                np.take_along_axis(starts, query_labels, axis=1) + query_images,
            ],
            axis=1,
        )  # (B, N * K + Q) positions in self.classes.images
        images = _pictures(self.classes.images[rows], for_affine, self.augment)
        return Episodes(
            support=images[:, : n * k],
            support_labels=torch.from_numpy(order // k),
            query=images[:, n * k :],
            query_labels=torch.from_numpy(query_labels),
            classes=torch.from_numpy(classes),
        )


def class_batch(
    classes: ImageClasses, size: int, *, seed: int, step: int, augment: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images with their class indices, for plain supervised training; a function of (seed, step).

    Each image is independent: its class is uniform, and the image uniform in its class.

    Returns
    -------
    images : (size, 1, H, W) float32 in [0, 1], distorted as by `EpisodeSampler` if ``augment``.
    labels : (size,) int64 in [0, C).

    Raises
    ------
    ValueError : if ``size`` is below 1, ``step`` or ``seed`` negative, or a class empty.

    Examples
    --------
    >>> black = ImageClasses(np.zeros((2, 28, 28), np.uint8), np.array([0, 2]), ("a",), ("LATIN",))
    >>> images, labels = class_batch(black, 16, seed=0, step=3)
    >>> images.shape, labels.shape
    (torch.Size([16, 1, 28, 28]), torch.Size([16]))
    """
    if size < 1 or step < 0:
        raise ValueError(
            f"class_batch: size must be at least 1 and step at least 0, got size={size}, step={step}"
        )
    if not classes.names or classes.sizes.min() < 1:
        raise ValueError("class_batch: every class needs an image, and there must be a class")
    key = _philox_key("class_batch", seed, _CLASS_BATCH_STREAM)
    numbers = _uniform_rows(key, step, 1, size * (2 + _NUMBERS_PER_IMAGE)).reshape(size, -1)
    labels = _below(numbers[:, 0], len(classes.names))
    rows = classes.offsets[labels] + _below(numbers[:, 1], classes.sizes[labels])
    images = _pictures(classes.images[rows[:, None]], numbers[:, 2:], augment)
    return images[:, 0], torch.from_numpy(labels)


def _philox_key(operation: str, seed: int, stream: int) -> np.ndarray:
    if seed < 0:
        raise ValueError(f"{operation}: seed must be non-negative, got {seed}")
    return np.random.SeedSequence(seed, spawn_key=(stream,)).generate_state(2, np.uint64)


def _uniform_rows(key: np.ndarray, first: int, size: int, count: int) -> np.ndarray:
    """(size, count) float64 in [0, 1); row r depends on the key and on ``first + r`` alone."""
    blocks = -(-count // 4)  # a Philox counter yields four numbers; a row owns whole counters
    generator = np.random.Generator(np.random.Philox(counter=first * blocks, key=key))
    return generator.random((size, 4 * blocks))[:, :count]


def _below(numbers: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Integers in [0, bound) from numbers in [0, 1)."""
    return (numbers * bound).astype(np.int64)


def _skip(draws: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The ``draws``-th of the integers that are not ``taken``; taken (..., T) for draws (...)."""
    for one in np.moveaxis(np.sort(taken, axis=-1), -1, 0):
        draws = draws + (draws >= one)
    return draws


def _without_replacement(numbers: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Ordered draws without replacement: numbers (..., T), bound (...) -> (..., T) int64."""
    drawn = np.empty(numbers.shape, np.int64)
    for t in range(numbers.shape[-1]):
        drawn[..., t] = _skip(_below(numbers[..., t], bound - t), drawn[..., :t])
    return drawn


def _pictures(images: np.ndarray, numbers: np.ndarray, augment: bool) -> torch.Tensor:
    """(B, S, H, W) uint8 and (B, S * 6) numbers in [0, 1) -> (B, S, 1, H, W) float32 in [0, 1]."""
    pixels = torch.from_numpy(images).unsqueeze(2).float().div_(255)
    if not augment:
        return pixels
    *_, height, width = pixels.shape
    flat = pixels.reshape(-1, 1, height, width)
    signed = torch.from_numpy(2 * numbers.reshape(len(flat), _NUMBERS_PER_IMAGE, 1, 1) - 1).float()
    tangent, scale_x, scale_y, shear, shift_x, shift_y = signed.unbind(1)  # each (B * S, 1, 1)
    tangent = _TAN_HALF_ROTATION * tangent
    norm = 1 + tangent * tangent
    cosine, sine = (1 - tangent * tangent) / norm, 2 * tangent / norm
    # From an output position to the input position it shows; both run from -1 to 1.
    x = ((torch.arange(width) * 2 + 1) / width - 1).view(1, 1, width)
    y = ((torch.arange(height) * 2 + 1) / height - 1).view(1, height, 1)
    x, y = cosine * x - sine * y, sine * x + cosine * y
    x = x + _SHEAR * shear * y
    x = x / (1 + _SCALE * scale_x) + _SHIFT * shift_x
    y = y / (1 + _SCALE * scale_y) + _SHIFT * shift_y
    grid = torch.stack([x, y], dim=-1)  # (B * S, H, W, 2)
    moved = F.grid_sample(flat, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.clamp_(0, 1).view(pixels.shape)  # bilinear weights may sum to 1 + one rounding
