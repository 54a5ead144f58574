"""Classes of images that an encoder has read beforehand: a sampler draws features instead of images.

An encoder that no longer learns gives an image the same features at every step. Encoding each image once,
under a few distortions, leaves the training of the layers with nothing to encode.

Letters in the shapes: K classes, I images, V views of each; B items of a batch, S images of each; F
features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from .classes import NUMBERS_PER_IMAGE, ImageClasses
from .draws import below, stream_key, uniform_rows

_STREAM = 6  # of the seed's random draws: how the views are distorted
_IMAGES = 256  # encoded together


@dataclass(frozen=True)
class EncodedClasses:
    """What a sampler needs of `ImageClasses`, with features in the place of pictures."""

    features: Tensor  # (I, V, F) float32 on the CPU
    offsets: np.ndarray
    names: tuple[str, ...]

    @property
    def sizes(self) -> np.ndarray:
        """(K,) int64, the number of images of each class."""
        return np.diff(self.offsets)

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """(F,)."""
        return tuple(self.features.shape[2:])

    def show(self, rows: np.ndarray, numbers: np.ndarray | None) -> Tensor:
        """Positions (B, S) -> features (B, S, F).

        Of the numbers (B, S * 6) in [0, 1) each image's first decides its view; None is for view 0.
        """
        if numbers is None:
            return self.features[rows, 0]
        views = below(numbers.reshape(*rows.shape, NUMBERS_PER_IMAGE)[..., 0], self.features.shape[1])
        return self.features[rows, views]

    def lookalikes(self, count: int) -> np.ndarray:
        """For each class the ones whose mean features make the smallest angles with its own.

        (K, count) int64, or (K, K) if there are fewer; the nearest first, which is the class itself.
        """
        directions = F.normalize(self.features, dim=-1).mean(dim=1)
        parts = directions.split(self.sizes.tolist())
        means = F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=-1)  # (K, F)
        cosines = (means @ means.T).fill_diagonal_(2.0)
        nearest: np.ndarray = cosines.topk(min(count, len(means)), dim=1).indices.numpy()
        return nearest


def encode_classes(
    encode: Callable[[Tensor], Tensor], classes: ImageClasses, *, views: int, seed: int, augment: bool
) -> EncodedClasses:
    """Encode all images, with a progress bar.

    ``encode`` makes (I, F) of (I, C, H, W) on any device, of each image by itself. With ``augment`` each
    view is distorted otherwise, as the seed decides; without, one serves as all.
    """
    key = stream_key(seed, _STREAM)
    count = classes.images.shape[0]
    views = views if augment else 1
    parts = []
    with torch.no_grad(), tqdm(desc="encoding", total=count, unit="image", disable=None) as bar:
        for first in range(0, count, _IMAGES):
            rows = np.arange(first, min(first + _IMAGES, count))[:, None].repeat(views, axis=1)
            numbers = uniform_rows(key, first, len(rows), NUMBERS_PER_IMAGE * views) if augment else None
            pictures = classes.show(rows, numbers)  # (B, V, C, H, W)
            parts.append(encode(pictures.flatten(0, 1)).cpu().unflatten(0, rows.shape))
            bar.update(len(rows))
    return EncodedClasses(torch.cat(parts), classes.offsets, classes.names)
