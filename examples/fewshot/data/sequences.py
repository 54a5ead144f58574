"""Two few-shot tasks of different domains in one sequence, with the labels one position late.

The learner sees an image, answers, and is told the answer with the next image, for N-way K-shot
classification of classes of one domain and then, with no sign of the change, of another
(Irie et al. 2022, https://arxiv.org/abs/2202.05780, section 4.2).

Sequence ``i`` is a function of ``(seed, i)`` alone, and order and lengths of the two tasks one of the
seed and of ``i // batch_size``: all workers and processes that share out a batch draw the same ones.

Letters in the shapes: B sequences of L positions, N ways, K shots; C channels, images of H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .draws import below, stream_key, uniform_rows
from .episodes import Classes, EpisodeSampler

Order = Literal["random", "alternating", "first", "second"]
UnknownLabel = Literal["class_0", "nothing"]

# Streams of random numbers of one seed: the images of up to three tasks, and what a batch shares.
_TASK_STREAMS = (2, 3, 7)
_BATCH_STREAM = 4


@dataclass(frozen=True)
class Layout:
    """What the sequences of a batch share: which domain comes first, and how long each one's task is."""

    order: tuple[int, int]  # of the domains 0 and 1
    lengths: tuple[int, int]  # positions of the task of domain 0 and of domain 1

    def join(self, of_task: Sequence[Tensor]) -> Tensor:
        """What belongs to the positions of whole tasks, (B, N * K, ...) each, in sequence: (B, L, ...)."""
        return torch.cat([of_task[task][:, : self.lengths[task]] for task in self.order], dim=1)


class SequenceSampler:
    """Draws sequences of two N-way K-shot tasks; sequence ``i`` is a function of ``(seed, i)`` alone.

    A task is N classes of its domain drawn without replacement, K images of each drawn without
    replacement, all in random order; its labels are a permutation of its own. Each task then loses its
    last n images, n uniform over 0 to ``max_trim`` inclusive and drawn for each task by itself.

    Parameters
    ----------
    max_trim : most images that a task may lose, below N * K.
    order : which domain comes first. "random": either, in each batch; "alternating": the first domain
        in batches 0, 2, ..., the second in batches 1, 3, ...; "first" or "second": always that one.
    batch_size : sequences of a batch, which share order and lengths.
    """

    def __init__(
        self,
        first: Classes,
        second: Classes,
        *,
        n_way: int,
        k_shot: int,
        seed: int,
        max_trim: int = 0,
        order: Order = "random",
        batch_size: int = 1,
        unknown_label: UnknownLabel = "class_0",
        augment: bool = True,
    ) -> None:
        self._key = stream_key(seed, _BATCH_STREAM)
        self.samplers = [
            EpisodeSampler(
                classes, n_way=n_way, k_shot=k_shot, n_query=1, seed=task_seed(seed, task), augment=augment
            )
            for task, classes in enumerate((first, second))
        ]
        self.n_way, self.k_shot = n_way, k_shot
        self.max_trim, self.order, self.batch_size = max_trim, order, batch_size
        self.unknown_label = unknown_label

    def layout(self, batch: int) -> Layout:
        """Order and lengths of the two tasks in a batch, a function of the seed and its number."""
        numbers = uniform_rows(self._key, batch, 1, 3)[0]
        lengths = self.n_way * self.k_shot - below(numbers[:2], self.max_trim + 1)
        drawn = int(below(numbers[2:], 2)[0])
        leader = {"random": drawn, "alternating": batch % 2, "first": 0, "second": 1}[self.order]
        return Layout(order=(leader, 1 - leader), lengths=(int(lengths[0]), int(lengths[1])))

    def batch(self, first: int, size: int) -> dict[str, Tensor]:
        """Sequences ``first`` to ``first + size - 1``, all of one batch, which share a layout.

        "images" (B, L, C, H, W) float32, or (B, L, F) of classes that are encoded, and their `answers`.
        """
        layout = self.layout(first // self.batch_size)
        drawn = [
            sampler.batch(first, size, n_support=length)
            for sampler, length in zip(self.samplers, layout.lengths, strict=True)
        ]
        images = layout.join([task.support for task in drawn])
        return {"images": images, **self.answers(layout, [task.support_labels for task in drawn])}

    def answers(self, layout: Layout, labels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Of the labels of both tasks, (B, N * K) int64 each, in sequence: (B, L) int64.

        "labels" are to be answered; "shown" is with each image the label of the one before it, at first 0,
        or -1 for none; "tasks" has the domain of each image, 0 or 1.
        """
        joined = layout.join(labels)
        unknown = torch.full_like(joined[:, :1], 0 if self.unknown_label == "class_0" else -1)
        return {
            "shown": torch.cat([unknown, joined[:, :-1]], dim=1),
            "labels": joined,
            "tasks": layout.join([torch.full_like(of_task, task) for task, of_task in enumerate(labels)]),
        }


def task_seed(seed: int, task: int) -> int:
    """The seed of one of the tasks: with the same classes they would else draw the same numbers."""
    stream = np.random.SeedSequence(seed, spawn_key=(_TASK_STREAMS[task],))
    return int(stream.generate_state(1, np.uint64)[0])
