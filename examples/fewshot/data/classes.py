"""Images sorted by class, their three splits, and what of them a network is shown.

Letters in the shapes: K classes, I images of C channels and H x W pixels; B items of a batch, S
images of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from .pictures import distorted

PARTS = ("train", "validation", "test")


class Images(Protocol):
    """What `ImageClasses` asks of its images: a NumPy array has it, and so has a lazy decoder."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # (I, C, H, W)

    @property
    def dtype(self) -> np.dtype: ...  # uint8

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...  # int64 (...) -> (..., C, H, W)


@dataclass(frozen=True)
class Normalisation:
    """Pixels in [0, 1] minus a mean, divided by a standard deviation above 0; one pair per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise ValueError(
                "Normalisation: expected as many means as standard deviations, the latter above 0, "
                f"got mean={self.mean}, std={self.std}"
            )

    def apply(self, pixels: torch.Tensor) -> torch.Tensor:
        """(..., C, H, W) float in [0, 1] -> the same, normalised."""
        mean, std = (pixels.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std

    def undo(self, normalised: torch.Tensor) -> torch.Tensor:
        """The inverse of `apply`, for showing what a network saw."""
        mean, std = (normalised.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return normalised * std + mean


@dataclass(frozen=True)
class ImageClasses:
    """Images sorted by class, the material of one split.

    Attributes
    ----------
    images : (I, C, H, W) uint8, C = 1 (ink = 255 on 0) or 3 (red, green, blue): a NumPy array, or
        anything that gives such arrays for arrays of positions, decoding them as they are asked for.
    offsets : (K + 1,) int64; the images of class k are those from ``offsets[k]`` up to ``offsets[k + 1]``.
    names : K class names, such as "GREEK SMALL LETTER ALPHA".
    alphabets : K names, the script, superclass or family of each class.
    normalisation : of the pixels that a sampler hands out, after any distortion; None leaves them
        in [0, 1]. One pair per channel handed out, or a single pair for all.
    channels : 3 has samplers repeat grey images to three channels; None hands them out as they are.

    Examples
    --------
    >>> images = np.zeros((5, 1, 28, 28), np.uint8)
    >>> classes = ImageClasses(images, np.array([0, 2, 5]), ("a", "b"), ("LATIN", "LATIN"))
    >>> classes.sizes.tolist()
    [2, 3]
    """

    images: Images
    offsets: np.ndarray
    names: tuple[str, ...]
    alphabets: tuple[str, ...]
    normalisation: Normalisation | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8:
            raise TypeError(
                f"ImageClasses: images must be uint8 in 0 to 255, got {self.images.dtype}; "
                "convert them with .astype(numpy.uint8)"
            )
        shape = tuple(self.images.shape)
        if len(shape) != 4 or shape[1] not in (1, 3):
            raise ValueError(
                f"ImageClasses: images must have shape (I, C, H, W) with C = 1 or 3, got {shape}"
            )
        if self.channels not in (None, 3, shape[1]):
            raise ValueError(
                f"ImageClasses: channels must be 3 or the images' own {shape[1]}, got {self.channels}"
            )
        if self.normalisation and len(self.normalisation.mean) not in (1, self.picture_shape[0]):
            raise ValueError(
                f"ImageClasses: normalisation of {self.picture_shape[0]} channels needs as many means "
                f"or a single one, got {len(self.normalisation.mean)}"
            )
        count = len(self.names)
        if self.offsets.shape != (count + 1,) or len(self.alphabets) != count:
            raise ValueError(
                f"ImageClasses: {count} names need offsets of shape ({count + 1},) and {count} "
                f"alphabets, got {self.offsets.shape} and {len(self.alphabets)}"
            )
        ends_fit = self.offsets[0] == 0 and self.offsets[-1] == shape[0]
        if not ends_fit or np.any(np.diff(self.offsets) < 0):
            raise ValueError(
                "ImageClasses: offsets must rise from 0 to the number of images "
                f"({shape[0]}), got {self.offsets[0]} to {self.offsets[-1]}"
            )

    @classmethod
    def of_sizes(
        cls, images: Images, sizes: Iterable[int], names: Iterable[str], alphabets: Iterable[str]
    ) -> ImageClasses:
        """Classes one after the other in the images, by the number of images of each."""
        return cls(images, np.cumsum([0, *sizes], dtype=np.int64), tuple(names), tuple(alphabets))

    @property
    def sizes(self) -> np.ndarray:
        """(K,) int64, the number of images of each class."""
        return np.diff(self.offsets)

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the pictures that samplers hand out."""
        _, stored, height, width = self.images.shape
        return self.channels or stored, height, width

    def show(self, rows: np.ndarray, numbers: np.ndarray | None) -> torch.Tensor:
        """Positions (B, S) -> images (B, S, C, H, W) float32, in [0, 1] before the normalisation.

        Numbers (B, S * 6) in [0, 1) decide each image's distortion, see `distorted`; None is for none.
        """
        pixels = torch.from_numpy(self.images[rows]).float().div_(255)
        if numbers is not None:
            pixels = distorted(pixels, numbers)
        if self.channels == 3 and pixels.shape[2] == 1:
            pixels = pixels.repeat(1, 1, 3, 1, 1)
        return pixels if self.normalisation is None else self.normalisation.apply(pixels)

    def subset(self, chosen: Sequence[int]) -> ImageClasses:
        """The classes with the given indices, in the given order; images stay lazy if they are."""
        ranges = [np.arange(self.offsets[c], self.offsets[c + 1]) for c in chosen]
        rows = np.concatenate([np.arange(0), *ranges])
        return replace(
            self,
            images=self.images[rows] if isinstance(self.images, np.ndarray) else Rows(self.images, rows),
            offsets=np.cumsum([0, *map(len, ranges)], dtype=np.int64),
            names=tuple(self.names[c] for c in chosen),
            alphabets=tuple(self.alphabets[c] for c in chosen),
        )


@dataclass(frozen=True)
class Splits:
    """Classes for training, for choosing settings, and for the final test.

    They share no image, and no class but with `digits`, whose training and validation have the same ones.
    """

    train: ImageClasses
    validation: ImageClasses
    test: ImageClasses

    def __iter__(self) -> Iterator[ImageClasses]:
        """The three in the order of `PARTS`."""
        return (getattr(self, part) for part in PARTS)


def measured_normalisation(classes: ImageClasses) -> Normalisation:
    """Mean and standard deviation of each stored channel over all pixels of all images.

    Counted in whole numbers, a thousand images at a time. There must be two unlike pixels of a channel.
    """
    count, channels, _, _ = classes.images.shape
    if not count:
        raise ValueError("measured_normalisation: expected at least one image, got none")
    levels = np.zeros((channels, 256), np.int64)
    for first in range(0, count, 1000):
        images = classes.images[np.arange(first, min(first + 1000, count))]
        for channel in range(channels):
            levels[channel] += np.bincount(images[:, channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    shares = levels / levels.sum(axis=1, keepdims=True)
    means = (shares * values).sum(axis=1)
    deviations = np.sqrt((shares * (values - means[:, None]) ** 2).sum(axis=1))
    return Normalisation(mean=tuple(means.tolist()), std=tuple(deviations.tolist()))


class Rows:
    """Some of the images, by their positions, looked up when asked for."""

    def __init__(self, images: Images, rows: np.ndarray) -> None:
        self.images, self.rows = images, rows
        self.shape = (len(rows), *images.shape[1:])
        self.dtype = images.dtype

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        return self.images[self.rows[rows]]
