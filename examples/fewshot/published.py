"""What the published scripts do, where it was a defect and is done only on request."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from ..training.objective import Batch
from .models import FewShotLearner
from .objectives import training_features
from .settings import Settings


def interval(values: np.ndarray) -> np.ndarray:
    """``1.96 * s / n`` of values (n, ...), s their standard deviation with divisor n.

    What the paper's scripts print as a 95 % interval, over repeated tests of one learner. It would be
    one with the square root of n, the divisor n - 1 and Student's quantile: of five, it is 3.5 times too
    narrow.
    """
    return np.asarray(1.96 * values.std(0) / len(values))


def mean_and_interval(values: np.ndarray, tests: int) -> dict[str, Any]:
    """Mean of values (E, ...), one for each episode, and `interval` of the means of so many equal parts."""
    values = np.asarray(values, np.float64)
    of_tests = values.reshape(tests, -1, *values.shape[1:]).mean(1)
    return {"mean": values.mean(0).tolist(), "interval_95": interval(of_tests).tolist()}


def added_parts(step: int, parts: range) -> range:
    """The micro-batches of a step with ``--accumulation-rule published``, whose losses are added.

    The published loop steps after every micro-batch whose number, from 0, is a multiple of
    ``accumulation``: after the very first one, then after as many each time. Here the first step
    leaves its other parts out, so that the later ones still begin where a joined batch does.
    """
    return parts[-1:] if step == 0 else parts


def features_apart(learner: FewShotLearner, batch: Batch, settings: Settings) -> Callable[[str], Tensor]:
    """Features (B, ..., F) of a part of a batch of `Bootstrapping` with ``--bootstrap-encoding separate``.

    Each time the encoder is called anew, hence twice for the queries.
    """
    image_axes = 1 if settings.feature_views else 3  # (F,), or (C, H, W)
    images = batch["images"].flatten(0, -1 - image_axes)

    def features_of(part: str) -> Tensor:
        features = training_features(learner, images[batch[part]], settings)
        return features.unflatten(0, batch[part].shape)

    return features_of
