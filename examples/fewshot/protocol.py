"""How a learner is measured, on classes that it has never seen.

Letters in the shapes: E episodes or sequences, S support images, Q queries, L positions, N ways,
K shots, F features, T tasks of a sequence.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .data.classes import ImageClasses
from .data.episodes import Episodes, EpisodeSampler
from .data.lazy import with_copies
from .data.sequences import Order, SequenceSampler
from .domains import domain_names
from .models import FewShotLearner
from .settings import Settings
from .tasks import Task, answer_tasks, settings_of_tasks

_EPISODES = 50  # read together; bounds the memory, as do
# Read together, with one domain leading before as many with the other. The published batches are of 16;
# each sequence is scored by itself, so that only the share of each order matters, which is the same.
_SEQUENCES = 8
_IMAGES = 512  # encoded together

# What is reported of validation classes; "accuracy" decides. It leaves the learner in evaluation mode.
Validation = Callable[[FewShotLearner], dict[str, float]]


def episode_sampler(settings: Settings, classes: ImageClasses) -> EpisodeSampler:
    """Of the episodes that a learner is measured in."""
    s = settings
    return EpisodeSampler(
        classes,
        n_way=s.n_way,
        k_shot=s.k_shot,
        n_query=s.test_queries,
        seed=s.seed,
        augment=s.augment_evaluation,
    )


def task_samplers(settings: Settings, domains: Sequence[ImageClasses]) -> list[EpisodeSampler]:
    """The same of tasks that are read one after the other."""
    return list(map(episode_sampler, settings_of_tasks(settings, len(domains)), domains))


def sequence_sampler(settings: Settings, domains: Sequence[ImageClasses], order: Order) -> SequenceSampler:
    """Of whole sequences of two tasks; distorted, classes of too few images show them again."""
    s = settings
    first, second = (with_copies(c, s.k_shot + 1) if s.augment_evaluation else c for c in domains)
    return SequenceSampler(
        first,
        second,
        n_way=s.n_way,
        k_shot=s.k_shot,
        seed=s.seed,
        order=order,
        batch_size=_SEQUENCES,
        unknown_label=s.unknown_label,
        augment=s.augment_evaluation,
    )


@torch.no_grad()
def score(learner: FewShotLearner, sampler: EpisodeSampler, episodes: int) -> dict[str, np.ndarray]:
    """Accuracy in each of exactly the first ``episodes``, the mean over its queries: (E,) float64.

    That of the "learner", which is left in evaluation mode, and of the "nearest_neighbour", by
    `nearest_class` on the same encoder's features.
    """
    scores: dict[str, list[Tensor]] = {"learner": [], "nearest_neighbour": []}
    for first in range(0, episodes, _EPISODES):
        drawn = sampler.batch(first, min(_EPISODES, episodes - first))
        task = _encode_task(learner, drawn)
        labels = drawn.query_labels.to(task.query.device)
        logits = learner.classify(task.support, task.support_labels, task.query)
        closest = nearest_class(task.support, task.support_labels, task.query, sampler.n_way)
        for name, answers in (("learner", logits.argmax(dim=-1)), ("nearest_neighbour", closest)):
            scores[name].append((answers == labels).double().mean(dim=1).cpu())
    return {name: torch.cat(parts).numpy() for name, parts in scores.items()}


@dataclass(frozen=True)
class SequenceScores:
    """Right and wrong answers at every position of E sequences of two tasks."""

    correct: np.ndarray  # (E, L) bool, or float64 where it is expected and not observed
    counted: np.ndarray  # (E, L) float64, what to expect of who looks at no image; see `counting_labels`
    tasks: np.ndarray  # (E, L) int64, the domain of each position, 0 or 1
    shots: np.ndarray  # (E, L) int64, how often the label of the class was told before in the same task

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


@torch.no_grad()
def score_sequences(learner: FewShotLearner, sequences: SequenceSampler, count: int) -> SequenceScores:
    """Answers in exactly the first ``count`` sequences; leaves the learner in evaluation mode."""
    parts: list[tuple[Tensor, ...]] = []
    for first in range(0, count, _SEQUENCES):
        drawn = sequences.batch(first, min(_SEQUENCES, count - first))
        labels, tasks = drawn["labels"], drawn["tasks"]
        features = _encode(learner, drawn["images"])
        logits, _ = learner.read(features, drawn["shown"].to(features.device), return_states=False)
        is_right = logits.argmax(dim=-1).cpu() == labels
        shots = shots_before(labels, tasks, sequences.n_way)
        parts.append((is_right, counting_labels(labels, tasks, sequences.n_way), tasks, shots))
    return SequenceScores(*(torch.cat(part).numpy() for part in zip(*parts, strict=True)))


@torch.no_grad()
def score_tasks(
    learner: FewShotLearner, samplers: Sequence[EpisodeSampler], order: Sequence[int], episodes: range
) -> np.ndarray:
    """Accuracy on each of T tasks after each of them; leaves the learner in evaluation mode.

    Episode e of the samplers of all domains together is a sequence; ``order`` is that of the domains.
    (E, T, T) float64, of each sequence [task asked, last task read], both by their place in the order; NaN
    where the one asked has not been read.
    """
    accuracy = np.full((len(episodes), len(order), len(order)), np.nan)
    for first in range(0, len(episodes), _EPISODES):
        part = episodes[first : first + _EPISODES]
        drawn = [sampler.batch(part.start, len(part)) for sampler in samplers]
        tasks = [_encode_task(learner, of_domain) for of_domain in drawn]
        for term, logits in answer_tasks(learner, tasks, order).items():
            right = logits.argmax(dim=-1).cpu() == drawn[term.asked].query_labels
            asked, last = order.index(term.asked), len(term.read) - 1
            accuracy[first : first + len(part), asked, last] = right.double().mean(dim=1).numpy()
    return accuracy


def shots_before(labels: Tensor, tasks: Tensor, n_way: int) -> Tensor:
    """How often the label of each position has occurred before it in the same task.

    Labels (E, L) int64 in [0, n_way) and tasks (E, L) int64, 0 or 1, to (E, L) int64.
    """
    return _counts_before(labels, tasks, n_way).gather(2, labels.unsqueeze(2)).squeeze(2)


def counting_labels(labels: Tensor, tasks: Tensor, n_way: int) -> Tensor:
    """Accuracy to expect of always answering a label that has occurred least often in the task so far.

    Classes come equally often, so this beats chance without a look at the images: at the first image of
    a class by ruling out the labels that are taken, (1 + 1/2 + ... + 1/N) / N, and more and more towards
    the end of a task. Learners find it before anything else.

    Labels and tasks as of `shots_before`, to (E, L) float64 in [0, 1].
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

    Features (E, S, F), as many of each class, labels (E, S) int64 in [0, n_way), and features (E, Q, F) to
    (E, Q) int64.
    """
    members = F.one_hot(support_labels, n_way).to(support.dtype)  # (E, S, N)
    sums = members.mT @ support  # (E, N, F): an angle does not depend on the mean's divisor
    return (query @ F.normalize(sums, dim=-1).mT).argmax(dim=-1)


def _encode_task(learner: FewShotLearner, drawn: Episodes) -> Task:
    support, query = (_encode(learner, images) for images in (drawn.support, drawn.query))
    return Task(support, drawn.support_labels.to(support.device), query)


def _encode(learner: FewShotLearner, images: Tensor) -> Tensor:
    """Features of images (E, S, C, H, W), a few at a time: in evaluation mode each is by itself."""
    learner.eval()
    device = next(learner.parameters()).device
    parts = [learner.encode(part.to(device)) for part in images.flatten(0, 1).split(_IMAGES)]
    return torch.cat(parts).unflatten(0, images.shape[:2])


def make_validation(settings: Settings, domains: Sequence[ImageClasses]) -> Validation:
    """A score on the same episodes or sequences every time."""
    of_tasks = {"sequential": _of_sequences, "continual": _of_tasks}
    return of_tasks.get(settings.protocol, _of_episodes)(settings, domains)


def _of_episodes(settings: Settings, domains: Sequence[ImageClasses]) -> Validation:
    sampler = episode_sampler(settings, domains[0])

    def validate(learner: FewShotLearner) -> dict[str, float]:
        scores = score(learner, sampler, settings.validation_episodes)
        means = {name: float(values.mean()) for name, values in scores.items()}
        return {"accuracy": means.pop("learner"), **means}

    return validate


def _of_sequences(settings: Settings, domains: Sequence[ImageClasses]) -> Validation:
    """Whole sequences, by turns with the first and with the second domain leading, as published."""
    sampler = sequence_sampler(settings, domains, "alternating")

    def validate(learner: FewShotLearner) -> dict[str, float]:
        scores = score_sequences(learner, sampler, settings.validation_episodes)
        names = enumerate(domain_names(settings))
        of_domains = {name: float(scores.of_sequences(task).mean()) for task, name in names}
        return {"accuracy": float(scores.of_sequences().mean()), **of_domains}

    return validate


def _of_tasks(settings: Settings, domains: Sequence[ImageClasses]) -> Validation:
    """Sequences of tasks, as many in each order; all entries of the matrices of `score_tasks` decide."""
    samplers = task_samplers(settings, domains)
    orders = list(itertools.permutations(range(len(domains))))
    ends = np.linspace(0, settings.validation_episodes, len(orders) + 1).astype(int).tolist()

    def validate(learner: FewShotLearner) -> dict[str, float]:
        matrices = [
            score_tasks(learner, samplers, order, range(*part))
            for order, part in zip(orders, itertools.pairwise(ends), strict=True)
        ]
        mean = np.concatenate(matrices).mean(axis=0)
        return {
            "accuracy": float(np.nanmean(mean)),
            "current": float(mean.diagonal().mean()),
            "backward": float(mean[np.triu_indices(len(domains), 1)].mean()),
        }

    return validate
