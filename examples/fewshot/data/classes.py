"""Images sorted by class, their three splits, and what of them a network is shown.

Letters in the shapes: K classes, I images of C channels and H x W pixels; B items of a batch, S
images of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F

# Largest distortions of the random affine map; each is drawn uniformly around "none".
_TAN_HALF_ROTATION = 0.1  # 2 * atan(0.1) = 11.4 degrees either way
_SCALE = 0.15  # each axis by itself, 0.85 to 1.15
_SHEAR = 0.15
_SHIFT = 0.15  # in half image widths: 2.1 pixels of 28, 6.3 of 84
NUMBERS_PER_IMAGE = 6


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
    """Images sorted by class, the material of one split."""

    images: Images  # (I, C, H, W) uint8, C = 1 (ink = 255 on 0) or 3 (red, green, blue)
    offsets: np.ndarray  # (K + 1,) int64: images of class k are from offsets[k] up to offsets[k + 1]
    names: tuple[str, ...]  # K, such as "GREEK SMALL LETTER ALPHA"
    alphabets: tuple[str, ...]  # K, the script, superclass or family of each class
    # Of the pixels that a sampler hands out, after any distortion; a pair for each channel, or one for all.
    normalisation: Normalisation | None = None
    channels: int | None = None  # 3 has samplers repeat grey images to three channels

    def __post_init__(self) -> None:
        shape, count = tuple(self.images.shape), len(self.names)
        means = 1 if self.normalisation is None else len(self.normalisation.mean)
        if not (
            self.images.dtype == np.uint8
            and len(shape) == 4
            and shape[1] in (1, 3)
            and self.channels in (None, 3, shape[1])
            and means in (1, self.picture_shape[0])
            and len(self.alphabets) == count
            and self.offsets.shape == (count + 1,)
            and (self.offsets[0], self.offsets[-1]) == (0, shape[0])
            and np.all(np.diff(self.offsets) >= 0)
        ):
            raise ValueError(
                "ImageClasses: expected (I, C, H, W) uint8 images with C = 1 or 3, to be shown with C or 3 "
                "channels and normalised by one mean or as many, and for each name an alphabet and an "
                f"offset that rises from 0 to I; got images {shape} {self.images.dtype}, "
                f"channels={self.channels}, {means} means, {count} names, {len(self.alphabets)} alphabets, "
                f"offsets {self.offsets}"
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


class Splits(NamedTuple):
    """Classes for training, for choosing settings, and for the final test.

    They share no image, and no class but with `digits`, whose training and validation have the same ones.
    """

    train: ImageClasses
    validation: ImageClasses
    test: ImageClasses


PARTS = Splits._fields


def measured_normalisation(classes: ImageClasses) -> Normalisation:
    """Mean and standard deviation of each stored channel over all pixels of all images.

    Counted in whole numbers, a thousand images at a time. There must be two unlike pixels of a channel.
    """
    count, channels, _, _ = classes.images.shape
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


def distorted(pixels: torch.Tensor, numbers: np.ndarray) -> torch.Tensor:
    """Each image under a random affine map, bilinear: (B, S, C, H, W) -> the same, in [0, 1].

    Numbers (B, S * 6) in [0, 1) decide the map. What it brings in from outside is paper (0) for grey
    images; colour images have no paper, and are mirrored at their edges.

    Elementwise with exactly rounded operations (no sine, no exponential, no matrix product), so that
    an image does not depend on the batch it is in.
    """
    *_, channels, height, width = pixels.shape
    flat = pixels.reshape(-1, channels, height, width)
    signed = torch.from_numpy(2 * numbers.reshape(len(flat), NUMBERS_PER_IMAGE, 1, 1) - 1).float()
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
    outside = "zeros" if channels == 1 else "reflection"
    moved = F.grid_sample(flat, grid, mode="bilinear", padding_mode=outside, align_corners=False)
    return moved.clamp_(0, 1).view(pixels.shape)  # bilinear weights may sum to 1 + one rounding
