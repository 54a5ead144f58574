"""The score on validation classes, by which the best weights are chosen."""

from __future__ import annotations

from .data.classes import Splits
from .data.episodes import EpisodeSampler
from .models import FewShotLearner
from .protocol import score
from .settings import Settings


class Validation:
    """Scores a learner on the same validation episodes every time.

    Parameters
    ----------
    settings : of the run.
    splits : only the validation classes are looked at.
    """

    def __init__(self, settings: Settings, splits: Splits) -> None:
        self.count = settings.validation_episodes
        self.sampler = EpisodeSampler(
            splits.validation,
            n_way=settings.n_way,
            k_shot=settings.k_shot,
            n_query=settings.test_queries,
            seed=settings.seed,
            augment=settings.augment_evaluation,
        )

    def __call__(self, learner: FewShotLearner) -> dict[str, float]:
        """What is reported; "accuracy" decides. Leaves the learner in evaluation mode."""
        scores = score(learner, self.sampler, self.count)
        return {
            "accuracy": float(scores.learner.mean()),
            "nearest_neighbour": float(scores.nearest.mean()),
        }
