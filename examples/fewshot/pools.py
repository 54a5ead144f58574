"""Many training episodes from one pool of encoded images.

Encoding an image costs far more than reading its features, so the images of a training step are
drawn in pools (some classes, some images of each), encoded once, and shared by many episodes, each
a random choice of classes, labels, support and queries from one pool. A pool of N classes that
serves a single episode is the ordinary way of drawing episodes.

Letters in the shapes: G pools, P classes of a pool, R images of each; B episodes, N ways, K shots,
Q queries, F features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .data.episodes import EpisodeSampler


def draw_pools(sampler: EpisodeSampler, step: int, pools: int) -> Tensor:
    """The pools of a training step, a function of the sampler's seed and the step.

    Parameters
    ----------
    sampler : its "episodes" are the pools: P ways, R shots; its query is not used.
    step : from 0.
    pools : G.

    Returns
    -------
    (G, P, R, C, H, W) float32 images.
    """
    drawn = sampler.batch(step * pools, pools)
    by_class = drawn.support_labels.argsort(dim=1)
    images = drawn.support[torch.arange(pools)[:, None], by_class]
    return images.reshape(pools, sampler.n_way, sampler.k_shot, *images.shape[2:])


def draw_episodes(
    features: Tensor, *, episodes: int, n_way: int, k_shot: int, queries: int, seed: int, step: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Episodes from pools of features, a function of (seed, step) in which images they choose.

    Parameters
    ----------
    features : (G, P, R, F).
    episodes : B, a multiple of G; the first B / G are of the first pool, and so on.
    n_way, k_shot, queries : N, K and Q; no image is used twice in an episode.
    seed, step : non-negative.

    Returns
    -------
    support : (B, N * K, F), classes mixed.
    support_labels : (B, N * K) int64.
    query : (B, Q, F).
    query_labels : (B, Q) int64.
    """
    pools, classes, images, _ = features.shape
    rng = np.random.default_rng([seed, step])
    class_of = rng.random((episodes, classes)).argsort(axis=1)[:, :n_way]  # (B, N), by label
    image_of = rng.random((episodes, n_way, images)).argsort(axis=2)  # (B, N, R), first K shown

    def choose(rank: slice, count: int) -> tuple[Tensor, Tensor]:
        """`count` random ones of the images at these ranks of every class."""
        ranked = image_of[:, :, rank]
        order = rng.random((episodes, n_way * ranked.shape[2])).argsort(axis=1)[:, :count]
        labels = order // ranked.shape[2]
        chosen = (
            np.repeat(np.arange(pools), episodes // pools)[:, None],
            np.take_along_axis(class_of, labels, axis=1),
            np.take_along_axis(ranked.reshape(episodes, -1), order, axis=1),
        )
        return features[tuple(map(torch.from_numpy, chosen))], torch.from_numpy(labels)

    support = choose(slice(k_shot), n_way * k_shot)
    query = choose(slice(k_shot, None), queries)
    return *support, *query
