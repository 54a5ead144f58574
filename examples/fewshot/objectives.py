"""What a phase of training minimises: the encoder's warm-up, and episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..training.collectives import gather_processes
from ..training.objective import Batch, MicroBatches, Objective, Share
from .data.classes import ImageClasses
from .data.encoded import EncodedClasses, encode_classes
from .data.episodes import Classes, EpisodeSampler
from .models import FewShotLearner
from .pools import choose_episodes, draw_pools
from .settings import Settings

_LOOKALIKES = 20  # classes among which a hard episode chooses


class EncoderWarmup(Objective[FewShotLearner]):
    """Give images of one class similar features, and images of different classes different ones.

    In a batch of P classes with R images each, every image is classified by the angles between its
    feature and the mean of each class's images (of its own class: of the others of it). This is
    nearest neighbour, made differentiable by a softmax with a learnt factor; it learns from the
    labels of the training classes, but knows no class by name, hence serves unseen ones as well.

    The classes of a step are compared with each other, so several processes put their features
    together, and there is no accumulation: it would leave fewer classes to compare.

    Parameters
    ----------
    learner : its encoder is trained.
    domains : the training classes; of several domains, each gives the same number to a step.
    settings : of the run.
    """

    unit = "image"

    def __init__(
        self, learner: FewShotLearner, domains: Sequence[ImageClasses], settings: Settings
    ) -> None:
        self.classes, self.images = settings.encoder_warmup_classes, settings.encoder_warmup_images
        super().__init__(
            learner,
            steps=settings.encoder_warmup_steps,
            units_per_step=self.classes * self.images,
            minutes=settings.encoder_warmup_minutes,
        )
        self.learning_rate = settings.encoder_warmup_learning_rate
        self.samplers = [
            EpisodeSampler(
                classes,
                n_way=self.classes // len(domains),
                k_shot=self.images,
                n_query=1,
                seed=settings.seed,
                augment=settings.augment,
            )
            for classes in domains
        ]
        self.head = CosineFactor()

    def dataset(self, share: Share) -> Dataset[Batch]:
        share.size(self.classes, "--encoder-warmup-classes")
        size = share.size(self.units_per_step, "images of a warm-up step")
        return MicroBatches(_WarmupImages(self.samplers), share, size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Batch: "images" (P', R, C, H, W) and "labels" (P',), this process's of the P classes."""
        self.train()
        features = self.learner.encode(batch["images"])  # (P', R, F)
        cosines = cosines_to_classes(gather_processes(features))[batch["labels"]]
        logits = self.head(cosines).flatten(0, 1)  # (P' * R, P)
        labels = batch["labels"].repeat_interleave(self.images)
        return _loss_and_accuracy(logits, labels)

    def parameter_groups(self) -> list[dict[str, Any]]:
        parameters = [*self.learner.encoder.parameters(), *self.head.parameters()]
        return [{"params": parameters, "lr": self.learning_rate}]


class _WarmupImages:
    """Draws part of the classes of a warm-up step."""

    def __init__(self, samplers: list[EpisodeSampler]) -> None:
        self.samplers = samplers

    def __call__(self, first: int, size: int) -> Batch:
        images = torch.cat([draw_pools(s, self._step(first), 1).squeeze(0) for s in self.samplers])
        per_class = images.shape[1]
        start = first // per_class % len(images)
        labels = torch.arange(start, start + size // per_class)
        return {"images": images[labels], "labels": labels}

    def _step(self, first: int) -> int:
        return first // sum(sampler.n_way * sampler.k_shot for sampler in self.samplers)


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
    own = torch.eye(len(features), dtype=torch.bool, device=features.device).unsqueeze(1)  # (P, 1, P)
    return torch.where(own, to_own, to_all)


class EpisodeTraining(Objective[FewShotLearner]):
    """Answer the queries of N-way K-shot episodes: the cross-entropy at the queries alone.

    With ``pools`` the episodes of a step share images (see `pools`); without, as published, every
    episode draws its own, and all images of a micro-batch go through the encoder together. With
    ``feature_views`` all images are encoded before the first step.

    Parameters
    ----------
    learner : what is trained.
    classes : the training classes.
    settings : of the run.
    """

    unit = "episode"

    def __init__(self, learner: FewShotLearner, classes: ImageClasses, settings: Settings) -> None:
        super().__init__(
            learner,
            steps=settings.steps,
            units_per_step=settings.batch_size,
            accumulation=settings.accumulation,
        )
        self.settings = settings
        self.classes = classes
        self.sampler = training_sampler(classes, settings)

    def prepare(self) -> None:
        if self.settings.feature_views:
            encoded = encode_for_training(self.learner, self.classes, self.settings, self.settings.seed)
            many = max(_LOOKALIKES, self.settings.n_way)
            alike = encoded.lookalikes(many) if self.settings.hard_episodes else None
            self.sampler = training_sampler(encoded, self.settings, alike)

    def dataset(self, share: Share) -> Dataset[Batch]:
        size = share.size(self.units_per_step, "--batch-size")
        if self.settings.pools:
            share.size(self.settings.pools, "--pools")
        return MicroBatches(draw_episodes(self.sampler, self.settings), share, size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Batch: "images" (..., C, H, W), or their features (..., F); "support" (B, S) and "query"
        (B, Q), positions in the flattened leading axes of the images; "support_labels" and
        "query_labels" likewise."""
        self.train()
        features = training_features(self.learner, batch["images"], self.settings)
        logits = self.learner.classify(
            features[batch["support"]], batch["support_labels"], features[batch["query"]]
        )
        return _loss_and_accuracy(logits.flatten(0, 1), batch["query_labels"].flatten())

    def parameter_groups(self) -> list[dict[str, Any]]:
        return learner_groups(self.learner, self.settings)


def training_sampler(
    classes: Classes, settings: Settings, lookalikes: np.ndarray | None = None
) -> EpisodeSampler:
    """Of the training's episodes, or of its pools, which are episodes without queries.

    Parameters
    ----------
    classes : the training classes, perhaps encoded.
    settings : of the run.
    lookalikes : as of `EpisodeSampler`, for its hard episodes.
    """
    s = settings
    return EpisodeSampler(
        classes,
        n_way=s.pool_classes if s.pools else s.n_way,
        k_shot=s.pool_images if s.pools else s.k_shot,
        n_query=1 if s.pools else s.queries,
        seed=s.seed,
        augment=s.augment,
        lookalikes=lookalikes,
        hard=0.0 if lookalikes is None else s.hard_episodes,
    )


def draw_episodes(sampler: EpisodeSampler, settings: Settings) -> Callable[[int, int], Batch]:
    """(first, size) -> the batch of these training episodes, as `EpisodeTraining` reads it."""
    return PooledImages(sampler, settings) if settings.pools else _OwnImages(sampler)


class _OwnImages:
    """Draws episodes that share no draw of an image."""

    def __init__(self, sampler: EpisodeSampler) -> None:
        self.sampler = sampler

    def __call__(self, first: int, size: int) -> Batch:
        drawn = self.sampler.batch(first, size)
        images = torch.cat([drawn.support, drawn.query], dim=1)  # (B, S + Q, C, H, W)
        n_support, n_images = drawn.support.shape[1], images.shape[1]
        positions = torch.arange(size * n_images).reshape(size, n_images)
        return {
            "images": images,
            "support": positions[:, :n_support],
            "support_labels": drawn.support_labels,
            "query": positions[:, n_support:],
            "query_labels": drawn.query_labels,
        }


class PooledImages:
    """Draws whole pools and the episodes they serve."""

    def __init__(self, sampler: EpisodeSampler, settings: Settings) -> None:
        self.sampler, self.settings = sampler, settings

    def __call__(self, first: int, size: int) -> Batch:
        s = self.settings
        step, offset = divmod(first, s.batch_size)
        per_pool = s.batch_size // s.pools
        chosen = choose_episodes(
            pools=s.pools,
            pool_classes=s.pool_classes,
            pool_images=s.pool_images,
            episodes=s.batch_size,
            n_way=s.n_way,
            k_shot=s.k_shot,
            queries=s.queries,
            seed=s.seed,
            step=step,
        )
        rows = slice(offset, offset + size)
        images_before = offset // per_pool * s.pool_classes * s.pool_images
        return {
            "images": draw_pools(self.sampler, first // per_pool, size // per_pool),
            "support": torch.from_numpy(chosen.support[rows] - images_before),
            "support_labels": torch.from_numpy(chosen.support_labels[rows]),
            "query": torch.from_numpy(chosen.query[rows] - images_before),
            "query_labels": torch.from_numpy(chosen.query_labels[rows]),
        }


def encode_for_training(
    learner: FewShotLearner, classes: ImageClasses, settings: Settings, seed: int
) -> EncodedClasses:
    """All images of the training classes, by an encoder that is not trained any more."""
    learner.eval()
    device = next(learner.parameters()).device
    return encode_classes(
        lambda images: learner.encode(images.to(device)),
        classes,
        views=settings.feature_views,
        seed=seed,
        augment=settings.augment,
    )


def training_features(learner: FewShotLearner, images: Tensor, settings: Settings) -> Tensor:
    """Features (I, F) of images (..., C, H, W), or of features (..., F) themselves, with noise.

    An encoder that is not trained is in evaluation mode, and no gradient goes through it.
    """
    trained = settings.train_encoder
    learner.encoder.train(trained)
    if settings.feature_views:
        features = images.flatten(0, -2)
    else:
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            features = learner.encode(images).flatten(0, -2)
    if settings.feature_noise:
        deviation = settings.feature_noise * features.std(dim=-1, keepdim=True)
        features = features + deviation * torch.randn_like(features)
    return features


def learner_groups(learner: FewShotLearner, settings: Settings) -> list[dict[str, Any]]:
    """Adam's groups for the whole learner: the encoder has its own rate, or is not trained."""
    rate, factor = settings.learning_rate, settings.encoder_learning_rate_factor
    others = [p for name, p in learner.named_parameters() if not name.startswith("encoder.")]
    groups = [{"params": others, "lr": rate}]
    if settings.train_encoder:
        groups.append({"params": list(learner.encoder.parameters()), "lr": rate * factor})
    return groups


def _loss_and_accuracy(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Means over the rows of logits (rows, classes)."""
    accuracy = (logits.argmax(dim=-1) == labels).float().mean()
    return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy}
