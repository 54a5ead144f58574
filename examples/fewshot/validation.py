"""The score on validation classes, by which the best weights are chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .data.classes import ImageClasses, Splits
from .data.episodes import EpisodeSampler
from .data.lazy import with_copies
from .data.sequences import SequenceSampler
from .domains import domain_names
from .models import FewShotLearner
from .protocol import score, score_sequences
from .settings import Settings

# What is reported; "accuracy" decides. It leaves the learner in evaluation mode.
Validation = Callable[[FewShotLearner], dict[str, float]]


def make_validation(settings: Settings, domains: Sequence[Splits]) -> Validation:
    """A score on the same episodes or sequences every time; only the validation classes are looked at."""
    classes = [splits.validation for splits in domains]
    if settings.protocol == "sequential":
        return _of_sequences(settings, classes)
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


# Sequences with one domain leading, before as many with the other. The published batches are of 16;
# each sequence is scored by itself, so that only the share of each order matters, which is the same.
_ALTERNATE = 8
