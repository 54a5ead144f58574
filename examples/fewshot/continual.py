"""Training to learn without forgetting: what was read of a task is asked again after later tasks.

Letters in the shapes: B sequences of T tasks, N ways, K shots, Q queries of a task; C channels, images of
H x W pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ..training.objective import Batch, MicroBatches, Objective, Share
from .data.classes import ImageClasses
from .data.draws import stream_key, uniform_rows
from .data.episodes import Classes
from .data.sequences import task_seed
from .models import FewShotLearner
from .objectives import (
    draw_episodes,
    encode_for_training,
    learner_groups,
    training_features,
    training_sampler,
)
from .settings import Settings
from .tasks import Task, answer_tasks

_ORDER_STREAM = 8  # of the seed's random draws


class ContinualTraining(Objective[FewShotLearner]):
    """Answer queries of each task after it was read, and again after each later one.

    The loss is the mean of the terms' cross-entropies: of each task after itself, with ``backward_terms``
    of each task after each later one, with ``first_shot_terms`` of each task after one image of each class.
    The order of the tasks is drawn once for a step, so that it is the same however the step is cut.

    Parameters
    ----------
    learner : what is trained.
    domains : the training classes of the T domains, with images of one shape.
    settings : of the run.

    Raises
    ------
    ValueError : if the shapes differ.
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
        self.domains = domains
        shapes = {classes.picture_shape for classes in domains}
        if len(shapes) > 1:
            raise ValueError(
                "ContinualTraining: the images of all domains must have one shape, got "
                f"{' and '.join(map(str, sorted(shapes)))}; load them with the same image_size and channels"
            )
        self.draw = _Sequences(domains, settings)

    def prepare(self) -> None:
        s = self.settings
        if s.feature_views:
            encoded = [
                encode_for_training(self.learner, classes, s, task_seed(s.seed, domain))
                for domain, classes in enumerate(self.domains)
            ]
            self.draw = _Sequences(encoded, s)

    def dataset(self, share: Share) -> Dataset[Batch]:
        size = share.size(self.units_per_step, "--batch-size")
        if self.settings.pools:
            share.size(self.settings.pools, "--pools")
        return MicroBatches(self.draw, share, size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss, and accuracy over the queries after their own task and later ones, and of each kind.

        Batch: "images" (I, C, H, W) or their features (I, F); "support" (B, T, N * K) and "query"
        (B, T, Q), positions among the images, by domain; "support_labels" and "query_labels" likewise;
        "order" (T,), the domains as they are read.
        """
        self.train()
        s = self.settings
        features = training_features(self.learner, batch["images"], s)
        tasks = [
            Task(features[support], labels, features[query])
            for support, labels, query in zip(
                *(batch[part].unbind(dim=1) for part in ("support", "support_labels", "query")), strict=True
            )
        ]
        answers = answer_tasks(
            self.learner,
            tasks,
            batch["order"].tolist(),
            backward=s.backward_terms,
            first_shots=s.first_shot_terms,
        )
        losses: list[Tensor] = []
        right: dict[str, list[Tensor]] = {}
        for term, logits in answers.items():
            labels = batch["query_labels"][:, term.asked]
            losses.append(F.cross_entropy(logits.flatten(0, 1), labels.flatten()))
            kind = "first_shot" if term.first_shot else "backward" if term.backward else "current"
            right.setdefault(kind, []).append((logits.argmax(dim=-1) == labels).float().mean())
        accuracy = torch.stack(right["current"] + right.get("backward", [])).mean()
        of_kinds = {f"accuracy_{kind}": torch.stack(values).mean() for kind, values in right.items()}
        return {"loss": torch.stack(losses).mean(), "accuracy": accuracy, **of_kinds}

    def parameter_groups(self) -> list[dict[str, Any]]:
        return learner_groups(self.learner, self.settings)


class _Sequences:
    """Draws an episode of each domain for every sequence; the order of the domains is that of the step."""

    def __init__(self, domains: Sequence[Classes], settings: Settings) -> None:
        self.batch_size = settings.batch_size
        self.key = stream_key("ContinualTraining", settings.seed, _ORDER_STREAM)
        self.draws: list[Callable[[int, int], Batch]] = [
            _episodes(classes, dataclasses.replace(settings, seed=task_seed(settings.seed, domain)))
            for domain, classes in enumerate(domains)
        ]
        self.image_axes = len(domains[0].picture_shape)

    def __call__(self, first: int, size: int) -> Batch:
        parts = [draw(first, size) for draw in self.draws]
        images = [part.pop("images").flatten(0, -1 - self.image_axes) for part in parts]
        before = 0
        for part, of_domain in zip(parts, images, strict=True):
            part["support"] = part["support"] + before
            part["query"] = part["query"] + before
            before += len(of_domain)
        order = uniform_rows(self.key, first // self.batch_size, 1, len(parts))[0].argsort()
        return {
            "images": torch.cat(images),
            **{name: torch.stack([part[name] for part in parts], dim=1) for name in parts[0]},
            "order": torch.from_numpy(order),
        }


def _episodes(classes: Classes, settings: Settings) -> Callable[[int, int], Batch]:
    return draw_episodes(training_sampler(classes, settings), settings)
