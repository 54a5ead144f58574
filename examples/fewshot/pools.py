"""Many training episodes from one pool of encoded images.

Encoding an image costs far more than reading its features, so the images of a training step are
drawn in pools (some classes, some images of each), encoded once, and shared by many episodes, each
a random choice of classes, labels, support and queries from one pool.

Letters in the shapes: G pools, P classes of a pool, R images of each; B episodes, N ways, K shots,
Q queries.
"""

import numpy as np
import torch
from torch import Tensor

from ..training.objective import Batch
from .data.episodes import EpisodeSampler
from .settings import Settings


def pooled_episodes(sampler: EpisodeSampler, settings: Settings, first: int, size: int) -> Batch:
    """Whole pools and the training episodes they serve, as `EpisodeTraining` reads them."""
    s = settings
    step, offset = divmod(first, s.batch_size)
    per_pool = s.batch_size // s.pools
    rows = slice(offset, offset + size)
    batch = {name: values[rows] for name, values in choose_episodes(s, step).items()}
    images_before = offset // per_pool * s.pool_classes * s.pool_images
    for name in ("support", "query"):
        batch[name] = batch[name] - images_before
    return {"images": draw_pools(sampler, first // per_pool, size // per_pool), **batch}


def draw_pools(sampler: EpisodeSampler, first: int, pools: int) -> Tensor:
    """Pools ``first`` to ``first + pools - 1``, (G, P, R, C, H, W) float32 images.

    The sampler's "episodes" are the pools: P ways, R shots; its query is not used. Each is a function of
    its seed and the pool's number.
    """
    drawn = sampler.batch(first, pools)
    by_class = drawn.support_labels.argsort(dim=1)
    images = drawn.support[torch.arange(pools)[:, None], by_class]
    return images.reshape(pools, sampler.n_way, sampler.k_shot, *images.shape[2:])


def choose_episodes(settings: Settings, step: int) -> Batch:
    """Which images of the pools make up the episodes of a training step, a function of (seed, step).

    "support" (B, N * K) and "query" (B, Q) are positions among the G * P * R images, classes mixed,
    "support_labels" and "query_labels" what they are called there. The first B / G episodes are of the
    first pool, and so on. No image is used twice in an episode.
    """
    s = settings
    rng = np.random.default_rng([s.seed, step])
    class_of = rng.random((s.batch_size, s.pool_classes)).argsort(axis=1)[:, : s.n_way]  # (B, N), by label
    image_of = rng.random((s.batch_size, s.n_way, s.pool_images)).argsort(axis=2)  # first K are shown
    pool_of = np.repeat(np.arange(s.pools), s.batch_size // s.pools)[:, None]

    def choose(rank: slice, count: int) -> tuple[Tensor, Tensor]:
        """`count` random ones of the images at these ranks of every class, and their labels."""
        ranked = image_of[:, :, rank]
        order = rng.random((s.batch_size, s.n_way * ranked.shape[2])).argsort(axis=1)[:, :count]
        labels = order // ranked.shape[2]
        classes = np.take_along_axis(class_of, labels, axis=1)
        images = np.take_along_axis(ranked.reshape(s.batch_size, -1), order, axis=1)
        positions = (pool_of * s.pool_classes + classes) * s.pool_images + images
        return torch.from_numpy(positions), torch.from_numpy(labels)

    support, support_labels = choose(slice(s.k_shot), s.n_way * s.k_shot)
    query, query_labels = choose(slice(s.k_shot, None), s.queries)
    return {
        "support": support,
        "support_labels": support_labels,
        "query": query,
        "query_labels": query_labels,
    }
