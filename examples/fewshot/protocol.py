"""How a learner is measured, on classes that it has never seen.

Letters in the shapes: E episodes or sequences, S support images, Q queries, L positions, N ways,
K shots, F features, T tasks of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .data.episodes import EpisodeSampler
from .data.sequences import SequenceSampler
from .models import FewShotLearner
from .tasks import Task, answer_tasks

_EPISODES = 50  # read together; bounds the memory, as do
_SEQUENCES = 8  # and
_IMAGES = 512  # encoded together


@dataclass(frozen=True)
class Scores:
    """Accuracy in each of E episodes, the mean over its queries.

    Attributes
    ----------
    learner : (E,) float64.
    nearest : (E,) float64, of `nearest_class` on the same encoder's features.
    """

    learner: np.ndarray
    nearest: np.ndarray


def score(learner: FewShotLearner, sampler: EpisodeSampler, episodes: int) -> Scores:
    """Accuracy in exactly the first ``episodes`` of a sampler; leaves the learner in evaluation mode.

    The learner may be on any device; only images and answers travel.
    """
    device = _ready(learner)
    learned: list[Tensor] = []
    nearest: list[Tensor] = []
    with torch.no_grad():
        for first in range(0, episodes, _EPISODES):
            drawn = sampler.batch(first, min(_EPISODES, episodes - first))
            support = _encode(learner, drawn.support, device)
            query = _encode(learner, drawn.query, device)
            support_labels, query_labels = drawn.support_labels.to(device), drawn.query_labels.to(device)
            logits = learner.classify(support, support_labels, query)
            closest = nearest_class(support, support_labels, query, sampler.n_way)
            for answers, correct in ((logits.argmax(dim=-1), learned), (closest, nearest)):
                correct.append((answers == query_labels).double().mean(dim=1).cpu())
    return Scores(learner=torch.cat(learned).numpy(), nearest=torch.cat(nearest).numpy())


@dataclass(frozen=True)
class SequenceScores:
    """Right and wrong answers at every position of E sequences of two tasks.

    Attributes
    ----------
    correct : (E, L) bool, or float64 where it is expected and not observed.
    counted : (E, L) float64, what to expect of who looks at no image; see `counting_labels`.
    tasks : (E, L) int64, the domain of each position, 0 or 1.
    shots : (E, L) int64, how many images of the same class came before in the same task: as many times
        the learner has been told the label.
    """

    correct: np.ndarray
    counted: np.ndarray
    tasks: np.ndarray
    shots: np.ndarray

    @property
    def of_counting(self) -> SequenceScores:
        """The scores of who looks at no image instead of the learner's."""
        return replace(self, correct=self.counted)

    def at_shots(self, task: int | None = None) -> np.ndarray:
        """(E, K) float64, accuracy in each sequence at the first, second, ... image of a class.

        The mean over the classes of the domain ``task``, or over all.
        """
        chosen = [self._of(task) & (self.shots == shot) for shot in range(int(self.shots.max()) + 1)]
        return np.stack(list(map(self._accuracy, chosen)), axis=1)

    def of_sequences(self, task: int | None = None) -> np.ndarray:
        """(E,) float64, accuracy in each sequence: of one domain's positions, or of all."""
        return self._accuracy(self._of(task))

    def _of(self, task: int | None) -> np.ndarray:
        """(E, L) bool, the positions of a domain, or all."""
        return self.tasks == task if task is not None else np.ones(self.tasks.shape, bool)

    def _accuracy(self, chosen: np.ndarray) -> np.ndarray:
        """(E,) float64, in each sequence at the chosen positions (E, L) bool."""
        return (self.correct * chosen).sum(axis=1) / chosen.sum(axis=1)


def score_sequences(learner: FewShotLearner, sequences: SequenceSampler, count: int) -> SequenceScores:
    """Answers in exactly the first ``count`` sequences; leaves the learner in evaluation mode.

    Raises
    ------
    ValueError : if the sampler trims, for positions would then mean different things.
    """
    if sequences.max_trim:
        raise ValueError(
            f"score_sequences: sequences must be whole, got max_trim={sequences.max_trim}; "
            "make the sampler with max_trim=0"
        )
    device = _ready(learner)
    parts: list[tuple[Tensor, ...]] = []
    first = 0
    with torch.no_grad():
        while first < count:
            left_in_batch = sequences.batch_size - first % sequences.batch_size
            size = min(_SEQUENCES, left_in_batch, count - first)
            drawn = sequences.batch(first, size)
            features = _encode(learner, drawn.images, device)
            logits, _ = learner.read(features, drawn.shown.to(device), return_states=False)
            is_right = logits.argmax(dim=-1).cpu() == drawn.labels
            shots = shots_before(drawn.labels, drawn.tasks, sequences.n_way)
            counted = counting_labels(drawn.labels, drawn.tasks, sequences.n_way)
            parts.append((is_right, counted, drawn.tasks, shots))
            first += size
    return SequenceScores(*(torch.cat(part).numpy() for part in zip(*parts, strict=True)))


def score_tasks(
    learner: FewShotLearner, samplers: Sequence[EpisodeSampler], order: Sequence[int], episodes: range
) -> np.ndarray:
    """Accuracy on each of T tasks after each of them; leaves the learner in evaluation mode.

    Parameters
    ----------
    learner : as of `score`.
    samplers : of each domain's tasks; episode e of all of them together is a sequence.
    order : in which the tasks of the domains are read.
    episodes : which ones.

    Returns
    -------
    (E, T, T) float64, of each sequence [task asked, last task read], both by their place in the order; NaN
    where the one asked has not been read.
    """
    device = _ready(learner)
    accuracy = np.full((len(episodes), len(order), len(order)), np.nan)
    with torch.no_grad():
        for first in range(0, len(episodes), _EPISODES):
            part = episodes[first : first + _EPISODES]
            drawn = [sampler.batch(part.start, len(part)) for sampler in samplers]
            tasks = [
                Task(
                    _encode(learner, of.support, device),
                    of.support_labels.to(device),
                    _encode(learner, of.query, device),
                )
                for of in drawn
            ]
            for term, logits in answer_tasks(learner, tasks, order).items():
                right = logits.argmax(dim=-1).cpu() == drawn[term.asked].query_labels
                asked, last = order.index(term.asked), len(term.read) - 1
                rows = slice(first, first + len(part))
                accuracy[rows, asked, last] = right.double().mean(dim=1).numpy()
    return accuracy


def shots_before(labels: Tensor, tasks: Tensor, n_way: int) -> Tensor:
    """How often the label of each position has occurred before it in the same task.

    Parameters
    ----------
    labels : (E, L) int64 in [0, n_way).
    tasks : (E, L) int64, 0 or 1.
    n_way : N.

    Returns
    -------
    (E, L) int64.
    """
    return _counts_before(labels, tasks, n_way).gather(2, labels.unsqueeze(2)).squeeze(2)


def counting_labels(labels: Tensor, tasks: Tensor, n_way: int) -> Tensor:
    """Accuracy to expect of always answering a label that has occurred least often in the task so far.

    Classes come equally often, so this beats chance without a look at the images: at the first image of
    a class by ruling out the labels that are taken, (1 + 1/2 + ... + 1/N) / N, and more and more towards
    the end of a task. Learners find it before anything else.

    Parameters
    ----------
    labels : (E, L) int64 in [0, n_way).
    tasks : (E, L) int64, 0 or 1.
    n_way : N.

    Returns
    -------
    (E, L) float64 in [0, 1].
    """
    counts = _counts_before(labels, tasks, n_way)
    rarest = counts == counts.amin(dim=2, keepdim=True)  # (E, L, N)
    is_among = rarest.gather(2, labels.unsqueeze(2)).squeeze(2)
    return is_among.double() / rarest.sum(dim=2)


def _counts_before(labels: Tensor, tasks: Tensor, n_way: int) -> Tensor:
    """(E, L, N) int64, how often each label has occurred before a position in the same task."""
    occurs = F.one_hot(labels, n_way)
    first, second = (
        (occurs * (tasks == task).unsqueeze(2)).cumsum(dim=1) - occurs for task in (0, 1)
    )  # each right in its own task
    return torch.where(tasks.unsqueeze(2) == 0, first, second)


def nearest_class(support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """The class whose mean support feature makes the smallest angle with the query's feature.

    Parameters
    ----------
    support : (E, S, F), as many of each class.
    support_labels : (E, S) int64 in [0, n_way).
    query : (E, Q, F).
    n_way : N.

    Returns
    -------
    (E, Q) int64.
    """
    members = F.one_hot(support_labels, n_way).to(support.dtype)  # (E, S, N)
    sums = members.mT @ support  # (E, N, F): an angle does not depend on the mean's divisor
    return (query @ F.normalize(sums, dim=-1).mT).argmax(dim=-1)


def _ready(learner: FewShotLearner) -> torch.device:
    """Put the learner in evaluation mode; says where it is."""
    learner.eval()
    return next(learner.parameters()).device


def _encode(learner: FewShotLearner, images: Tensor, device: torch.device) -> Tensor:
    """Features of images (E, S, C, H, W), a few at a time: in evaluation mode each is by itself."""
    parts = [learner.encode(part.to(device)) for part in images.flatten(0, 1).split(_IMAGES)]
    return torch.cat(parts).unflatten(0, images.shape[:2])
