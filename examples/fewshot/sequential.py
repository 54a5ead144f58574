"""Training on two tasks in one sequence, with the labels one position late.

Letters in the shapes: B sequences of L positions, N ways, K shots; C channels, images of H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..training.objective import Batch
from .data.classes import ImageClasses
from .data.episodes import Classes
from .data.lazy import with_copies
from .data.sequences import SequenceSampler
from .models import FewShotLearner
from .objectives import Draw, LearnerTraining, draw_episodes, draw_tasks, training_features
from .settings import Settings
from .tasks import settings_of_tasks


class SequentialTraining(LearnerTraining):
    """Name the class of every image of two tasks in sequence: the mean cross-entropy of all positions.

    Order and lengths of the tasks are drawn once for a step, so that it is the same however it is cut.

    With ``pools``, the sequences of a step take their images from as many pools of each domain, which are
    encoded once; 150 images a sequence are otherwise most of the time on a CPU. Sequences of one step then
    share images, under other labels and in another order.

    With distortions (``augment``), a class of too few images shows some of them again, distorted otherwise.
    """

    unit = "sequence"

    def __init__(
        self, learner: FewShotLearner, domains: Sequence[ImageClasses], settings: Settings
    ) -> None:
        if settings.augment:
            least = 1 + (settings.pool_images if settings.pools else settings.k_shot)
            domains = [with_copies(classes, least) for classes in domains]
        super().__init__(learner, domains, settings)

    def make_draw(self, domains: Sequence[Classes]) -> Draw:
        s, [first, second] = self.settings, domains
        # As published: a part of all processes together, so that their number still changes nothing.
        parts = s.accumulation if s.sequence_layout == "micro_batch" else 1
        sampler = SequenceSampler(
            first,
            second,
            n_way=s.n_way,
            k_shot=s.k_shot,
            seed=s.seed,
            max_trim=s.max_trim,
            batch_size=s.batch_size // parts,
            unknown_label=s.unknown_label,
            augment=s.augment,
        )
        if not s.pools:
            return partial(_own_sequences, sampler)
        of_tasks = settings_of_tasks(replace(s, queries=0), 2)  # a task is an episode without queries
        draws = list(map(draw_episodes, domains, of_tasks))
        return partial(_pooled_sequences, sampler, draws, len(first.picture_shape))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss, and accuracy over all positions and over those of each domain.

        Batch: "images" (..., C, H, W) or (..., F); "positions" (B, L), the image of each position among
        the flattened leading axes of the images; "shown", "labels" and "tasks" (B, L) as of
        `SequenceSampler`.
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


def _own_sequences(sampler: SequenceSampler, first: int, size: int) -> Batch:
    """Sequences each of which has its own images."""
    drawn = sampler.batch(first, size)
    shape = drawn["labels"].shape
    return {**drawn, "positions": torch.arange(shape.numel()).reshape(shape)}


def _pooled_sequences(
    sampler: SequenceSampler, draws: Sequence[Draw], image_axes: int, first: int, size: int
) -> Batch:
    """Whole pools of both domains and the sequences they serve."""
    images, parts = draw_tasks(draws, image_axes, first, size)
    layout = sampler.layout(first // sampler.batch_size)
    return {
        "images": images,
        "positions": layout.join([part["support"] for part in parts]),
        **sampler.answers(layout, [part["support_labels"] for part in parts]),
    }
