"""The score on validation classes, by which the best weights are chosen."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from .data.classes import ImageClasses, Splits
from .domains import domain_names
from .models import FewShotLearner
from .protocol import (
    episode_sampler,
    score,
    score_sequences,
    score_tasks,
    sequence_sampler,
    task_samplers,
)
from .settings import Settings

# What is reported; "accuracy" decides. It leaves the learner in evaluation mode.
Validation = Callable[[FewShotLearner], dict[str, float]]

# Sequences with one domain leading, before as many with the other. The published batches are of 16;
# each sequence is scored by itself, so that only the share of each order matters, which is the same.
_ALTERNATE = 8


def make_validation(settings: Settings, domains: Sequence[Splits]) -> Validation:
    """A score on the same episodes or sequences every time; only the validation classes are looked at."""
    of_tasks = {"sequential": _of_sequences, "continual": _of_tasks}
    make = of_tasks.get(settings.protocol, _of_episodes)
    return make(settings, [splits.validation for splits in domains])


def _of_episodes(settings: Settings, domains: list[ImageClasses]) -> Validation:
    sampler = episode_sampler(settings, domains[0])

    def validate(learner: FewShotLearner) -> dict[str, float]:
        scores = score(learner, sampler, settings.validation_episodes)
        return {
            "accuracy": float(scores.learner.mean()),
            "nearest_neighbour": float(scores.nearest.mean()),
        }

    return validate


def _of_sequences(settings: Settings, domains: list[ImageClasses]) -> Validation:
    """Whole sequences, by turns with the first and with the second domain leading, as published."""
    sampler = sequence_sampler(settings, domains, "alternating", _ALTERNATE)

    def validate(learner: FewShotLearner) -> dict[str, float]:
        scores = score_sequences(learner, sampler, settings.validation_episodes)
        names = enumerate(domain_names(settings))
        of_domains = {name: float(scores.of_sequences(task).mean()) for task, name in names}
        return {"accuracy": float(scores.of_sequences().mean()), **of_domains}

    return validate


def _of_tasks(settings: Settings, domains: list[ImageClasses]) -> Validation:
    """Sequences of tasks, as many in each order; all entries of the matrices of `score_tasks` decide."""
    samplers = task_samplers(settings, domains)
    orders = list(itertools.permutations(range(len(domains))))
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
            "backward": float(mean[np.triu_indices(len(domains), 1)].mean()),
        }

    return validate
