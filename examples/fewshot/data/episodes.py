"""N-way K-shot episodes drawn from classes of images.

Episode ``i`` is a function of ``(seed, i)`` alone (see `draws`), so that a run can resume, or be evaluated
in batches of any size and by any number of worker processes, on the same pictures to the bit. Drawing is
vectorised over the batch, so that one core feeds a training loop.

Letters in the shapes: B episodes, N ways, K shots, Q queries; images of C channels, H x W pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch

from .classes import NUMBERS_PER_IMAGE, ImageClasses
from .draws import below, skip, stream_key, uniform_rows, without_replacement
from .encoded import EncodedClasses

Classes = ImageClasses | EncodedClasses
_STREAM = 0  # of the seed's random draws


@dataclass(frozen=True)
class Episodes:
    """B episodes as tensors on the CPU; in [0, 1] before any normalisation, and classes mixed.

    Of classes that are encoded, F features stand in the place of C, H, W.
    """

    support: torch.Tensor  # (B, N * K, C, H, W) float32
    support_labels: torch.Tensor  # (B, N * K) int64 in [0, N)
    query: torch.Tensor  # (B, Q, C, H, W) float32
    query_labels: torch.Tensor  # (B, Q) int64 in [0, N)
    classes: torch.Tensor  # (B, N) int64, the index in the split of the class behind each label


class EpisodeSampler:
    """Draws N-way K-shot episodes; episode ``i`` is a function of ``(seed, i)`` alone.

    The N classes are drawn without replacement and in random order, which makes the labels a
    random permutation. A class's K support images are drawn without replacement. Each query is
    independent of the others: its class is uniform over the N, its image uniform over the images
    of that class that are not in the support. (Two queries may therefore show one image; with
    ``augment`` under different distortions.)

    Distortion, with ``augment``, does not change which images are drawn. Of ``lookalikes``, (classes, M)
    int64 with M at least N, each row has the classes that one is easily taken for, itself among them; the
    share ``hard`` of the episodes has N classes of one random row.
    """

    def __init__(
        self,
        classes: Classes,
        *,
        n_way: int,
        k_shot: int,
        n_query: int,
        seed: int,
        augment: bool = True,
        lookalikes: np.ndarray | None = None,
        hard: float = 0.0,
    ) -> None:
        for name, value in (("n_way", n_way), ("k_shot", k_shot), ("n_query", n_query)):
            if value < 1:
                raise ValueError(f"EpisodeSampler: {name} must be at least 1, got {value}")
        count = len(classes.names)
        if n_way > count:
            raise ValueError(
                f"EpisodeSampler: {n_way} classes are drawn at a time, but there are {count}; lower "
                "--n-way, --pool-classes or --encoder-warmup-classes, or add classes"
            )
        smallest = int(np.argmin(classes.sizes))
        if classes.sizes[smallest] < k_shot + 1:
            raise ValueError(
                f"EpisodeSampler: {k_shot} images of a class are drawn and one is left, but "
                f"{classes.names[smallest]!r} has {classes.sizes[smallest]}; lower --k-shot, "
                "--future-shots, --pool-images or --encoder-warmup-images, or add images to the class"
            )
        self.classes = classes
        self.lookalikes, self.hard = lookalikes, hard
        self.n_way, self.k_shot, self.n_query = n_way, k_shot, n_query
        self.augment = augment
        self._key = stream_key(seed, _STREAM)

    def batch(self, first: int, size: int, *, n_support: int | None = None) -> Episodes:
        """Episodes ``first`` to ``first + size - 1``, with only the first ``n_support`` support images."""
        n, k, q = self.n_way, self.k_shot, self.n_query
        counts = [n, n * k, n * k, q, q, NUMBERS_PER_IMAGE * (n * k + q), 2 if self.hard else 0]
        numbers = uniform_rows(self._key, first, size, sum(counts))
        for_class, for_support, for_order, for_label, for_query, for_affine, for_hard = np.split(
            numbers, np.cumsum(counts)[:-1], axis=1
        )

        classes = without_replacement(for_class, np.full(size, len(self.classes.names)))
        if self.lookalikes is not None and self.hard:
            around = self.lookalikes[below(for_hard[:, 1], len(self.classes.names))]  # (B, M)
            alike = without_replacement(for_class, np.full(size, around.shape[1]))
            is_hard = for_hard[:, :1] < self.hard
            classes = np.where(is_hard, np.take_along_axis(around, alike, axis=1), classes)
        class_sizes = self.classes.sizes[classes]  # (B, N)
        shots = without_replacement(for_support.reshape(size, n, k), class_sizes)  # (B, N, K)

        query_labels = below(for_label, n)  # (B, Q)
        query_sizes = np.take_along_axis(class_sizes, query_labels, axis=1)
        taken = np.take_along_axis(shots, query_labels[:, :, None], axis=1)  # (B, Q, K)
        query_images = skip(below(for_query, query_sizes - k), taken)

        starts = self.classes.offsets[classes]  # (B, N)
        order = np.argsort(for_order, axis=1)[:, :n_support]  # (B, S), mixes the classes
        n_shown = order.shape[1]
        support_rows = (starts[:, :, None] + shots).reshape(size, n * k)
        shown = np.take_along_axis(support_rows, order, axis=1)
        asked = np.take_along_axis(starts, query_labels, axis=1) + query_images
        rows = np.concatenate([shown, asked], axis=1)  # (B, S + Q) positions in self.classes.images
        for_shown, for_asked = np.split(for_affine, [NUMBERS_PER_IMAGE * n * k], axis=1)
        affine = np.concatenate([for_shown[:, : NUMBERS_PER_IMAGE * n_shown], for_asked], axis=1)
        images = self.classes.show(rows, affine if self.augment else None)
        return Episodes(
            support=images[:, :n_shown],
            support_labels=torch.from_numpy(order // k),
            query=images[:, n_shown:],
            query_labels=torch.from_numpy(query_labels),
            classes=torch.from_numpy(classes),
        )
