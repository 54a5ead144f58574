"""Tasks read one after the other, and their queries answered from the states in between.

After Irie, Csordás, Schmidhuber, "Automating Continual Learning" (https://arxiv.org/abs/2312.00276).

Letters in the shapes: B sequences of T tasks, N ways, K shots, Q queries of a task, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .data.sequences import task_seed
from .models import FewShotLearner
from .settings import Settings


@dataclass(frozen=True)
class Task:
    """One N-way K-shot task of each of B sequences: features and labels, those in mixed order."""

    support: Tensor  # (B, N * K, F)
    support_labels: Tensor  # (B, N * K) int64 in [0, N)
    query: Tensor  # (B, Q, F)


@dataclass(frozen=True)
class Term:
    """Which queries are asked, and what was read before; tasks are known by their domains.

    With ``first_shot``, one image of each class of the asked task was read after those, and no more.
    """

    asked: int
    read: tuple[int, ...]
    first_shot: bool = False


def settings_of_tasks(settings: Settings, tasks: int) -> list[Settings]:
    """Of several, each with a seed of its own: with the same classes they would draw the same numbers."""
    if tasks == 1:
        return [settings]
    return [replace(settings, seed=task_seed(settings.seed, task)) for task in range(tasks)]


def answer_tasks(
    learner: FewShotLearner,
    tasks: Sequence[Task],
    order: Sequence[int],
    *,
    backward: bool = True,
    first_shots: bool = False,
) -> dict[Term, Tensor]:
    """Read the tasks, by domain, in some order, without a mark between them, and answer queries on the way.

    Each query is answered by itself from the state that was reached, which goes on without it. All
    queries of one state are answered together. Gradients flow through all states.

    With ``backward`` the tasks before the last one read are asked about as well; with ``first_shots`` each
    task also after one image of each class, the first of each. Returned are the logits (B, Q, N) of each
    term.
    """
    found = {}
    states = None
    for place, domain in enumerate(order):
        task, read = tasks[domain], tuple(order[: place + 1])
        if first_shots:
            first = first_of_each(task.support_labels, learner.n_way)
            shown = task.support.take_along_dim(first.unsqueeze(2), dim=1)
            _, after_one = learner.read(shown, task.support_labels.gather(1, first), states)
            found[Term(domain, read[:-1], first_shot=True)] = learner.answer(task.query, after_one)
        _, states = learner.read(task.support, task.support_labels, states)
        asked = read if backward else (domain,)
        queries = [tasks[other].query for other in asked]
        answers = learner.answer(torch.cat(queries, dim=1), states)
        parts = answers.split([query.shape[1] for query in queries], dim=1)
        found |= {Term(other, read): part for other, part in zip(asked, parts, strict=True)}
    return found


def first_of_each(labels: Tensor, n_way: int) -> Tensor:
    """Where each class is shown first in (B, S) labels: (B, N) positions, rising."""
    return F.one_hot(labels, n_way).argmax(dim=1).sort(dim=1).values
