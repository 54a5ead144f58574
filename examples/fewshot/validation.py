"""The score on validation classes, by which the best weights are chosen."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from .data.classes import ImageClasses, Splits
from .data.episodes import EpisodeSampler
from .data.lazy import with_copies
from .data.sequences import SequenceSampler, task_seed
from .domains import domain_names
from .models import FewShotLearner
from .protocol import score, score_sequences, score_tasks
from .settings import Settings

# What is reported; "accuracy" decides. It leaves the learner in evaluation mode.
Validation = Callable[[FewShotLearner], dict[str, float]]


def make_validation(settings: Settings, domains: Sequence[Splits]) -> Validation:
    """A score on the same episodes or sequences every time; only the validation classes are looked at."""
    classes = [splits.validation for splits in domains]
    if settings.protocol == "sequential":
        return _of_sequences(settings, classes)
    if settings.protocol == "continual":
        return _of_tasks(settings, classes)
    return _of_episodes(settings, classes[0])


def _of_episodes(settings: Settings, classes: ImageClasses) -> Validation:
    sampler = EpisodeSampler(
        classes,
        n_way=settings.n_way,
        k_shot=settings.k_shot,
        n_query=settings.test_queries,
        seed=settings.seed,
        augment=settings.augment_evaluation,
    )

    def validate(learner: FewShotLearner) -> dict[str, float]:
        scores = score(learner, sampler, settings.validation_episodes)
        return {
            "accuracy": float(scores.learner.mean()),
            "nearest_neighbour": float(scores.nearest.mean()),
        }

    return validate


def _of_sequences(settings: Settings, classes: list[ImageClasses]) -> Validation:
    """Whole sequences, by turns with the first and with the second domain leading, as published."""
    if settings.augment_evaluation:
        classes = [with_copies(domain, settings.k_shot + 1) for domain in classes]
    first, second = classes
    sampler = SequenceSampler(
        first,
        second,
        n_way=settings.n_way,
        k_shot=settings.k_shot,
        seed=settings.seed,
        order="alternating",
        batch_size=_ALTERNATE,
        unknown_label=settings.unknown_label,
        augment=settings.augment_evaluation,
    )
    names = domain_names(settings)

    def validate(learner: FewShotLearner) -> dict[str, float]:
        scores = score_sequences(learner, sampler, settings.validation_episodes)
        of_domains = {name: float(scores.of_sequences(task).mean()) for task, name in enumerate(names)}
        return {"accuracy": float(scores.of_sequences().mean()), **of_domains}

    return validate


def _of_tasks(settings: Settings, classes: list[ImageClasses]) -> Validation:
    """Sequences of tasks, as many in each order; all entries of the matrices of `score_tasks` decide."""
    samplers = [
        EpisodeSampler(
            domain,
            n_way=settings.n_way,
            k_shot=settings.k_shot,
            n_query=settings.test_queries,
            seed=task_seed(settings.seed, task),
            augment=settings.augment_evaluation,
        )
        for task, domain in enumerate(classes)
    ]
    orders = list(itertools.permutations(range(len(classes))))
    ends = np.linspace(0, settings.validation_episodes, len(orders) + 1).astype(int).tolist()

    def validate(learner: FewShotLearner) -> dict[str, float]:
        matrices = [
            score_tasks(learner, samplers, order, range(*part))
            for order, part in zip(orders, itertools.pairwise(ends), strict=True)
        ]
        mean = np.concatenate(matrices).mean(axis=0)
        return {
            "accuracy": float(np.nanmean(mean)),
            "current": float(mean.diagonal().mean()),
            "backward": float(mean[np.triu_indices(len(classes), 1)].mean()),
        }

    return validate


# Sequences with one domain leading, before as many with the other. The published batches are of 16;
# each sequence is scored by itself, so that only the share of each order matters, which is the same.
_ALTERNATE = 8
