"""Many training episodes from one pool of encoded images.

Encoding an image costs far more than reading its features, so the images of a training step are
drawn in pools (some classes, some images of each), encoded once, and shared by many episodes, each
a random choice of classes, labels, support and queries from one pool.

Letters in the shapes: G pools, P classes of a pool, R images of each; B episodes, N ways, K shots,
Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .data.episodes import EpisodeSampler


@dataclass(frozen=True)
class Choices:
    """Which images of the pools make up B episodes, and what they are called there.

    Attributes
    ----------
    support, query : (B, N * K) and (B, Q) int64, positions among the G * P * R images; classes mixed.
    support_labels, query_labels : (B, N * K) and (B, Q) int64 in [0, N).
    """

    support: np.ndarray
    support_labels: np.ndarray
    query: np.ndarray
    query_labels: np.ndarray


def draw_pools(sampler: EpisodeSampler, first: int, pools: int) -> Tensor:
    """Pools ``first`` to ``first + pools - 1``; each is a function of the sampler's seed and its number.

    Parameters
    ----------
    sampler : its "episodes" are the pools: P ways, R shots; its query is not used.
    first : from 0.
    pools : G.

    Returns
    -------
    (G, P, R, C, H, W) float32 images.
    """
    drawn = sampler.batch(first, pools)
    by_class = drawn.support_labels.argsort(dim=1)
    images = drawn.support[torch.arange(pools)[:, None], by_class]
    return images.reshape(pools, sampler.n_way, sampler.k_shot, *images.shape[2:])


def choose_episodes(
    *,
    pools: int,
    pool_classes: int,
    pool_images: int,
    episodes: int,
    n_way: int,
    k_shot: int,
    queries: int,
    seed: int,
    step: int,
) -> Choices:
    """The episodes of a training step, a function of (seed, step).

    Parameters
    ----------
    pools, pool_classes, pool_images : G, P and R.
    episodes : B, a multiple of G; the first B / G are of the first pool, and so on.
    n_way, k_shot, queries : N, K and Q; no image is used twice in an episode.
    seed, step : non-negative.
    """
    rng = np.random.default_rng([seed, step])
    class_of = rng.random((episodes, pool_classes)).argsort(axis=1)[:, :n_way]  # (B, N), by label
    image_of = rng.random((episodes, n_way, pool_images)).argsort(axis=2)  # (B, N, R), first K shown
    pool_of = np.repeat(np.arange(pools), episodes // pools)[:, None]

    def choose(rank: slice, count: int) -> tuple[np.ndarray, np.ndarray]:
        """`count` random ones of the images at these ranks of every class."""
        ranked = image_of[:, :, rank]
        order = rng.random((episodes, n_way * ranked.shape[2])).argsort(axis=1)[:, :count]
        labels = order // ranked.shape[2]
        classes = np.take_along_axis(class_of, labels, axis=1)
        images = np.take_along_axis(ranked.reshape(episodes, -1), order, axis=1)
        return (pool_of * pool_classes + classes) * pool_images + images, labels

    return Choices(*choose(slice(k_shot), n_way * k_shot), *choose(slice(k_shot, None), queries))
