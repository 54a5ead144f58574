"""What the two phases of training minimise: one class each, with the same few members."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data.classes import ImageClasses
from .data.episodes import EpisodeSampler
from .models import FewShotLearner
from .pools import draw_episodes, draw_pools
from .settings import Settings


class Objective(Protocol):
    """A phase of training, seen from the loop."""

    steps: int
    minutes: float | None  # the phase's own limit of time
    unit: str  # what the progress bar counts
    units_per_step: int
    head: nn.Module  # what is trained beside the learner, and thrown away after the phase

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Adam's groups, each with its peak learning rate."""

    def loss(self, step: int) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of a training step, both scalars."""


class EncoderWarmup:
    """Give images of one class similar features, and images of different classes different ones.

    In a batch of P classes with R images each, every image is classified by the angles between its
    feature and the mean of each class's images (of its own class: of the others of it). This is
    nearest neighbour, made differentiable by a softmax with a learnt factor; it learns from the
    labels of the training classes, but knows no class by name, hence serves unseen ones as well.
    """

    unit = "image"

    def __init__(self, learner: FewShotLearner, classes: ImageClasses, settings: Settings) -> None:
        self.learner = learner
        self.learning_rate = settings.encoder_warmup_learning_rate
        self.steps = settings.encoder_warmup_steps
        self.minutes = settings.encoder_warmup_minutes
        self.sampler = EpisodeSampler(
            classes,
            n_way=settings.encoder_warmup_classes,
            k_shot=settings.encoder_warmup_images,
            n_query=1,
            seed=settings.seed,
        )
        self.units_per_step = self.sampler.n_way * self.sampler.k_shot
        self.head: nn.Module = CosineFactor()

    def parameter_groups(self) -> list[dict[str, Any]]:
        parameters = [*self.learner.encoder.parameters(), *self.head.parameters()]
        return [{"params": parameters, "lr": self.learning_rate}]

    def loss(self, step: int) -> tuple[Tensor, Tensor]:
        self.learner.train()
        features = self.learner.encode(draw_pools(self.sampler, step, 1)).squeeze(0)
        logits = self.head(cosines_to_classes(features)).flatten(0, 1)  # (P * R, P)
        labels = torch.arange(len(features)).repeat_interleave(features.shape[1])
        return F.cross_entropy(logits, labels), _accuracy(logits, labels)


class CosineFactor(nn.Module):
    """Cosines times a learnt positive factor, so that a softmax can become certain."""

    def __init__(self) -> None:
        super().__init__()
        self.log_factor = nn.Parameter(torch.tensor(10.0).log())

    def forward(self, cosines: Tensor) -> Tensor:
        return self.log_factor.exp() * cosines


def cosines_to_classes(features: Tensor) -> Tensor:
    """Of each image's feature with the mean of each class's, itself left out.

    Parameters
    ----------
    features : (P, R, F) of R images of each of P classes; R at least 2.

    Returns
    -------
    (P, R, P).
    """
    directions = F.normalize(features, dim=-1)
    sums = directions.sum(dim=1)  # (P, F)
    to_all = directions @ F.normalize(sums, dim=-1).T  # (P, R, P)
    others = F.normalize(sums.unsqueeze(1) - directions, dim=-1)
    to_own = (directions * others).sum(dim=-1, keepdim=True)  # (P, R, 1)
    own = torch.eye(len(features), dtype=torch.bool).unsqueeze(1)  # (P, 1, P)
    return torch.where(own, to_own, to_all)


class EpisodeTraining:
    """Answer the queries of N-way K-shot episodes: the cross-entropy at the queries alone."""

    unit = "episode"
    minutes: float | None = None

    def __init__(self, learner: FewShotLearner, classes: ImageClasses, settings: Settings) -> None:
        self.learner, self.settings = learner, settings
        self.steps = settings.steps
        self.units_per_step = settings.episodes
        self.head = nn.Module()  # nothing beside the learner
        self.frozen = settings.encoder == "frozen"
        learner.encoder.requires_grad_(not self.frozen)
        self.sampler = EpisodeSampler(
            classes,
            n_way=settings.pool_classes,
            k_shot=settings.pool_images,
            n_query=1,
            seed=settings.seed,
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        rate, factor = self.settings.learning_rate, self.settings.encoder_learning_rate_factor
        encoder = list(self.learner.encoder.parameters())
        others = [p for name, p in self.learner.named_parameters() if "encoder." not in name]
        groups = [{"params": others, "lr": rate}]
        return groups if self.frozen else [*groups, {"params": encoder, "lr": rate * factor}]

    def loss(self, step: int) -> tuple[Tensor, Tensor]:
        self.learner.train()
        self.learner.encoder.train(not self.frozen)
        s = self.settings
        features = self.learner.encode(draw_pools(self.sampler, step, s.pools))
        support, support_labels, query, query_labels = draw_episodes(
            features,
            episodes=s.episodes,
            n_way=s.n_way,
            k_shot=s.k_shot,
            queries=s.queries,
            seed=s.seed,
            step=step,
        )
        logits = self.learner.classify(support, support_labels, query)
        return F.cross_entropy(logits.mT, query_labels), _accuracy(logits, query_labels)


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(dim=-1) == labels).float().mean()
