"""How a learner is measured: episodes of unseen classes, beside nearest neighbour and chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .data.episodes import EpisodeSampler
from .models import FewShotLearner

_BATCH = 50  # episodes encoded together; bounds the memory


@dataclass(frozen=True)
class Scores:
    """Accuracy in each of E episodes, the mean over its queries.

    Attributes
    ----------
    learner : (E,) float64.
    nearest : (E,) float64, of `nearest_class` on the same encoder's features.
    """

    learner: np.ndarray
    nearest: np.ndarray


def score(learner: FewShotLearner, sampler: EpisodeSampler, episodes: int) -> Scores:
    """Accuracy in the sampler's first episodes; leaves the learner in evaluation mode."""
    learner.eval()
    learned: list[Tensor] = []
    nearest: list[Tensor] = []
    with torch.no_grad():
        for first in range(0, episodes, _BATCH):
            drawn = sampler.batch(first, min(_BATCH, episodes - first))
            support, query = learner.encode(drawn.support), learner.encode(drawn.query)
            logits = learner.classify(support, drawn.support_labels, query)
            closest = nearest_class(support, drawn.support_labels, query, sampler.n_way)
            for answers, correct in ((logits.argmax(dim=-1), learned), (closest, nearest)):
                correct.append((answers == drawn.query_labels).double().mean(dim=1))
    return Scores(learner=torch.cat(learned).numpy(), nearest=torch.cat(nearest).numpy())


def nearest_class(support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """The class whose mean support feature makes the smallest angle with the query's feature.

    Parameters
    ----------
    support : (B, S, F), as many of each class.
    support_labels : (B, S) int64 in [0, n_way).
    query : (B, Q, F).
    n_way : N.

    Returns
    -------
    (B, Q) int64.
    """
    members = F.one_hot(support_labels, n_way).to(support.dtype)  # (B, S, N)
    sums = members.mT @ support  # (B, N, F): an angle does not depend on the mean's divisor
    return (query @ F.normalize(sums, dim=-1).mT).argmax(dim=-1)


def mean_and_interval(values: np.ndarray) -> tuple[float, float]:
    """Mean of independent values (E,) and the half width of its 95 % interval.

    ``1.96 * s / sqrt(E)`` with s the sample standard deviation (divisor E - 1).

    Raises
    ------
    ValueError : for fewer than two values, which say nothing about their spread.
    """
    if len(values) < 2:
        raise ValueError(f"mean_and_interval: values must hold at least 2 episodes, got {len(values)}")
    return float(values.mean()), float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))
