"""Training on two tasks in one sequence, with the labels one position late.

Letters in the shapes: B sequences of L positions, N ways, K shots; C channels, images of H x W pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ..training.objective import Batch, MicroBatches, Objective, Share
from .data.classes import ImageClasses
from .data.episodes import Classes
from .data.lazy import with_copies
from .data.sequences import SequenceSampler, shown_labels, task_seed
from .models import FewShotLearner
from .objectives import (
    PooledImages,
    encode_for_training,
    learner_groups,
    training_features,
    training_sampler,
)
from .published import sequences_alike
from .settings import Settings


class SequentialTraining(Objective[FewShotLearner]):
    """Name the class of every image of two tasks in sequence: the mean cross-entropy of all positions.

    Order and lengths of the tasks are drawn once for a step, so that it is the same however it is cut.

    With ``pools``, the sequences of a step take their images from as many pools of each domain, which are
    encoded once; 150 images a sequence are otherwise most of the time on a CPU. Sequences of one step then
    share images, under other labels and in another order.

    With distortions (``augment``), a class of too few images shows some of them again, distorted otherwise.

    Parameters
    ----------
    learner : what is trained.
    domains : the training classes of the two domains, with images of one shape.
    settings : of the run.
    """

    unit = "sequence"

    def __init__(
        self, learner: FewShotLearner, domains: Sequence[ImageClasses], settings: Settings
    ) -> None:
        super().__init__(
            learner,
            steps=settings.steps,
            units_per_step=settings.batch_size,
            accumulation=settings.accumulation,
        )
        self.settings = settings
        if settings.augment:
            least = 1 + (settings.pool_images if settings.pools else settings.k_shot)
            domains = [with_copies(classes, least) for classes in domains]
        self.domains = domains
        self._make_samplers(domains)

    def prepare(self) -> None:
        if self.settings.feature_views:
            encoded = [
                encode_for_training(
                    self.learner, classes, self.settings, task_seed(self.settings.seed, task)
                )
                for task, classes in enumerate(self.domains)
            ]
            self._make_samplers(encoded)

    def _make_samplers(self, domains: Sequence[Classes]) -> None:
        s = self.settings
        first, second = domains
        self.sampler = SequenceSampler(
            first,
            second,
            n_way=s.n_way,
            k_shot=s.k_shot,
            seed=s.seed,
            max_trim=s.max_trim,
            batch_size=sequences_alike(s) if s.sequence_layout == "micro_batch" else s.batch_size,
            unknown_label=s.unknown_label,
            augment=s.augment,
        )
        if s.pools:
            self.pooled = _PooledSequences(domains, self.sampler, s)

    def dataset(self, share: Share) -> Dataset[Batch]:
        size = share.size(self.units_per_step, "--batch-size")
        if not self.settings.pools:
            return MicroBatches(_OwnSequences(self.sampler), share, size)
        share.size(self.settings.pools, "--pools")
        return MicroBatches(self.pooled, share, size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss, and accuracy over all positions and over those of each domain.

        Batch: "images" (..., C, H, W) or (..., F); "positions" (B, L), the image of each position among
        the flattened leading axes of the images; "shown", "labels" and "tasks" (B, L) as in `Sequences`.
        """
        self.train()
        features = training_features(self.learner, batch["images"], self.settings)
        logits, _ = self.learner.read(features[batch["positions"]], batch["shown"], return_states=False)
        labels, tasks = batch["labels"], batch["tasks"]
        correct = (logits.argmax(dim=-1) == labels).float()
        return {
            "loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten()),
            "accuracy": correct.mean(),
            "accuracy_first": correct[tasks == 0].mean(),
            "accuracy_second": correct[tasks == 1].mean(),
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        return learner_groups(self.learner, self.settings)


class _OwnSequences:
    """Draws sequences each of which has its own images."""

    def __init__(self, sampler: SequenceSampler) -> None:
        self.sampler = sampler

    def __call__(self, first: int, size: int) -> Batch:
        drawn = self.sampler.batch(first, size)
        return {
            "images": drawn.images,
            "positions": torch.arange(drawn.labels.numel()).reshape(drawn.labels.shape),
            "shown": drawn.shown,
            "labels": drawn.labels,
            "tasks": drawn.tasks,
        }


class _PooledSequences:
    """Draws whole pools of both domains and the sequences they serve."""

    def __init__(self, domains: Sequence[Classes], sequences: SequenceSampler, settings: Settings) -> None:
        self.sequences = sequences
        of_tasks = [
            dataclasses.replace(settings, seed=task_seed(settings.seed, task), queries=0)
            for task in range(len(domains))
        ]
        self.domains = [
            PooledImages(training_sampler(classes, of_task), of_task)
            for classes, of_task in zip(domains, of_tasks, strict=True)
        ]

    def __call__(self, first: int, size: int) -> Batch:
        parts = [domain(first, size) for domain in self.domains]  # a task is an episode without queries
        images = [part["images"].flatten(0, 2) for part in parts]
        layout = self.sequences.layout(first // self.sequences.batch_size)
        labels = [part["support_labels"] for part in parts]
        answers = layout.join(labels)
        return {
            "images": torch.cat(images),
            "positions": layout.join([parts[0]["support"], parts[1]["support"] + len(images[0])]),
            "shown": shown_labels(answers, self.sequences.unknown_label),
            "labels": answers,
            "tasks": layout.join([torch.full_like(of_task, task) for task, of_task in enumerate(labels)]),
        }
