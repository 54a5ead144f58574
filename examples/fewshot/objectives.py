"""What a phase of training minimises: the encoder's warm-up, and episodes."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

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
from .pools import draw_pools, pooled_episodes
from .settings import Settings
from .tasks import settings_of_tasks

_LOOKALIKES = 20  # classes among which a hard episode chooses

Draw = Callable[[int, int], Batch]  # (first, size) -> the batch of these units


class EncoderWarmup(Objective[FewShotLearner]):
    """Give images of one class similar features, and images of different classes different ones.

    In a batch of P classes with R images each, every image is classified by the angles between its
    feature and the mean of each class's images (of its own class: of the others of it). This is
    nearest neighbour, made differentiable by a softmax with a learnt factor; it learns from the
    labels of the training classes, but knows no class by name, hence serves unseen ones as well.
    Of several domains, each gives the same number of classes to a step.

    The classes of a step are compared with each other, so several processes put their features
    together, and there is no accumulation: it would leave fewer classes to compare.
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
        # A positive factor on the cosines, so that a softmax can become certain.
        self.head.register_parameter("log_factor", nn.Parameter(torch.tensor(10.0).log()))

    def dataset(self, share: Share) -> Dataset[Batch]:
        share.size(self.classes, "--encoder-warmup-classes")
        size = share.size(self.units_per_step, "images of a warm-up step")
        return MicroBatches(partial(_warmup_images, self.samplers), share, size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Batch: "images" (P', R, C, H, W) and "labels" (P',), this process's of the P classes."""
        self.train()
        features = self.learner.encode(batch["images"])  # (P', R, F)
        cosines = cosines_to_classes(gather_processes(features))[batch["labels"]]
        logits = (self.head.get_parameter("log_factor").exp() * cosines).flatten(0, 1)  # (P' * R, P)
        labels = batch["labels"].repeat_interleave(self.images)
        return _loss_and_accuracy(logits, labels)

    def parameter_groups(self) -> list[dict[str, Any]]:
        parameters = [*self.learner.encoder.parameters(), *self.head.parameters()]
        return [{"params": parameters, "lr": self.learning_rate}]


def _warmup_images(samplers: Sequence[EpisodeSampler], first: int, size: int) -> Batch:
    """Part of the classes of a warm-up step."""
    step = first // sum(sampler.n_way * sampler.k_shot for sampler in samplers)
    images = torch.cat([draw_pools(sampler, step, 1).squeeze(0) for sampler in samplers])
    per_class = images.shape[1]
    start = first // per_class % len(images)
    labels = torch.arange(start, start + size // per_class)
    return {"images": images[labels], "labels": labels}


def cosines_to_classes(features: Tensor) -> Tensor:
    """Of the feature of each of R images of each of P classes with each class's mean, itself left out.

    Features (P, R, F), R at least 2, to (P, R, P).
    """
    directions = F.normalize(features, dim=-1)
    sums = directions.sum(dim=1)  # (P, F)
    to_all = directions @ F.normalize(sums, dim=-1).T  # (P, R, P)
    others = F.normalize(sums.unsqueeze(1) - directions, dim=-1)
    to_own = (directions * others).sum(dim=-1, keepdim=True)  # (P, R, 1)
    own = torch.eye(len(features), dtype=torch.bool, device=features.device).unsqueeze(1)  # (P, 1, P)
    return torch.where(own, to_own, to_all)


class LearnerTraining(Objective[FewShotLearner]):
    """Training of the layers, and perhaps of the encoder, on the training classes of some domains.

    With ``pools`` the units of a step share images (see `pools`); without, as published, each draws its
    own, and all images of a micro-batch go through the encoder together. With ``feature_views`` all images
    are encoded before the first step.
    """

    def __init__(
        self, learner: FewShotLearner, domains: Sequence[ImageClasses], settings: Settings
    ) -> None:
        super().__init__(learner, settings.steps, settings.batch_size, settings.accumulation)
        self.settings, self.domains = settings, domains
        self.draw = self.make_draw(domains)

    @abstractmethod
    def make_draw(self, domains: Sequence[Classes]) -> Draw:
        """What draws the micro-batches from the domains, whose classes may be encoded."""

    def prepare(self) -> None:
        if not self.settings.feature_views:
            return
        self.learner.eval()
        device = next(self.learner.parameters()).device

        def encode(images: Tensor) -> Tensor:
            return self.learner.encode(images.to(device))

        of_tasks = settings_of_tasks(self.settings, len(self.domains))
        encoded = [
            encode_classes(encode, classes, views=of.feature_views, seed=of.seed, augment=of.augment)
            for classes, of in zip(self.domains, of_tasks, strict=True)
        ]
        self.draw = self.make_draw(encoded)

    def dataset(self, share: Share) -> Dataset[Batch]:
        size = share.size(self.units_per_step, "--batch-size")
        if self.settings.pools:
            share.size(self.settings.pools, "--pools")
        return MicroBatches(self.draw, share, size)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The encoder has its own rate, or is not trained."""
        s = self.settings
        others = [p for name, p in self.learner.named_parameters() if not name.startswith("encoder.")]
        groups = [{"params": others, "lr": s.learning_rate}]
        if s.train_encoder:
            rate = s.learning_rate * s.encoder_learning_rate_factor
            groups.append({"params": list(self.learner.encoder.parameters()), "lr": rate})
        return groups


class EpisodeTraining(LearnerTraining):
    """Answer the queries of N-way K-shot episodes: the cross-entropy at the queries alone."""

    unit = "episode"

    def __init__(self, learner: FewShotLearner, classes: ImageClasses, settings: Settings) -> None:
        super().__init__(learner, [classes], settings)

    def make_draw(self, domains: Sequence[Classes]) -> Draw:
        s, [classes] = self.settings, domains
        hard: dict[str, Any] = {}
        if s.hard_episodes and isinstance(classes, EncodedClasses):
            alike = classes.lookalikes(max(_LOOKALIKES, s.n_way))
            hard = {"lookalikes": alike, "hard": s.hard_episodes}
        return draw_episodes(classes, s, **hard)

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


def draw_episodes(classes: Classes, settings: Settings, **hard: Any) -> Draw:
    """What draws training episodes, as `EpisodeTraining` reads them; ``hard`` is as of `EpisodeSampler`.

    Pools are drawn as episodes without queries.
    """
    s = settings
    sampler = EpisodeSampler(
        classes,
        n_way=s.pool_classes if s.pools else s.n_way,
        k_shot=s.pool_images if s.pools else s.k_shot,
        n_query=1 if s.pools else s.queries,
        seed=s.seed,
        augment=s.augment,
        **hard,
    )
    return partial(pooled_episodes, sampler, s) if s.pools else partial(_own_episodes, sampler)


def _own_episodes(sampler: EpisodeSampler, first: int, size: int) -> Batch:
    """Episodes that share no draw of an image."""
    drawn = sampler.batch(first, size)
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


def draw_tasks(draws: Sequence[Draw], image_axes: int, first: int, size: int) -> tuple[Tensor, list[Batch]]:
    """Training episodes of several domains: all images, (I, ...) with so many axes, and the rest of each.

    Positions are moved accordingly.
    """
    parts = [draw(first, size) for draw in draws]
    images = [part.pop("images").flatten(0, -1 - image_axes) for part in parts]
    before = 0
    for part, of_domain in zip(parts, images, strict=True):
        for name in ("support", "query"):
            part[name] = part[name] + before
        before += len(of_domain)
    return torch.cat(images), parts


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


def _loss_and_accuracy(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Means over the rows of logits (rows, classes)."""
    accuracy = (logits.argmax(dim=-1) == labels).float().mean()
    return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy}
