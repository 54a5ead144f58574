"""Training to learn without forgetting: what was read of a task is asked again after later tasks.

Letters in the shapes: B sequences of T tasks, N ways, K shots, Q queries of a task; C channels, images of
H x W pixels.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..training.objective import Batch
from .data.draws import stream_key, uniform_rows
from .data.episodes import Classes
from .objectives import Draw, LearnerTraining, draw_episodes, draw_tasks, training_features
from .settings import Settings
from .tasks import Task, answer_tasks, settings_of_tasks

_ORDER_STREAM = 8  # of the seed's random draws


class ContinualTraining(LearnerTraining):
    """Answer queries of each task after it was read, and again after each later one.

    The loss is the mean of the terms' cross-entropies: of each task after itself, with ``backward_terms``
    of each task after each later one, with ``first_shot_terms`` of each task after one image of each class.
    The order of the tasks is drawn once for a step, so that it is the same however the step is cut.
    """

    unit = "sequence"

    def make_draw(self, domains: Sequence[Classes]) -> Draw:
        s = self.settings
        draws = list(map(draw_episodes, domains, settings_of_tasks(s, len(domains))))
        key = stream_key(s.seed, _ORDER_STREAM)
        return partial(_sequences, draws, len(domains[0].picture_shape), key, s)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss, and accuracy over the queries after their own task and later ones, and of each kind.

        Batch: "images" (I, C, H, W) or their features (I, F); "support" (B, T, N * K) and "query"
        (B, T, Q), positions among the images, by domain; "support_labels" and "query_labels" likewise;
        "order" (T,), the domains as they are read.
        """
        self.train()
        s = self.settings
        features = training_features(self.learner, batch["images"], s)
        by_task = (batch[part].unbind(dim=1) for part in ("support", "support_labels", "query"))
        tasks = [
            Task(features[support], labels, features[query])
            for support, labels, query in zip(*by_task, strict=True)
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
            of_earlier = not term.first_shot and term.asked != term.read[-1]
            kind = "first_shot" if term.first_shot else "backward" if of_earlier else "current"
            right.setdefault(kind, []).append((logits.argmax(dim=-1) == labels).float().mean())
        accuracy = torch.stack(right["current"] + right.get("backward", [])).mean()
        of_kinds = {f"accuracy_{kind}": torch.stack(values).mean() for kind, values in right.items()}
        return {"loss": torch.stack(losses).mean(), "accuracy": accuracy, **of_kinds}


def _sequences(
    draws: Sequence[Draw], image_axes: int, key: np.ndarray, settings: Settings, first: int, size: int
) -> Batch:
    """An episode of each domain for every sequence; the order of the domains is that of the step."""
    images, parts = draw_tasks(draws, image_axes, first, size)
    order = uniform_rows(key, first // settings.batch_size, 1, len(parts))[0].argsort()
    return {
        "images": images,
        **{name: torch.stack([part[name] for part in parts], dim=1) for name in parts[0]},
        "order": torch.from_numpy(order),
    }
