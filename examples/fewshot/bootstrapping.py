"""Bootstrapped training: the learner that has read more examples teaches the one that has read fewer.

After the published workshop script (https://github.com/IDSIA/modern-srwm): reading the support leaves the
state S, reading further examples from there leaves S'. The student answers the queries from S, the teacher
from S', and the student is drawn to the teacher, which is held still in that term alone.

The published operator added to a state's gradient what came in from after it a second time, an accident of
buffers that autograd shared with it; the gradients here are the true ones, and no option brings that back.

Letters in the shapes: B episodes, N ways, K support shots, J future shots, Q queries.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import srwm
from srwm.nn import SRWM

from ..training.objective import Batch
from .data.classes import ImageClasses
from .data.draws import stream_key, uniform_rows
from .data.episodes import Classes
from .models import FewShotLearner
from .objectives import Draw, EpisodeTraining, training_features
from .published import features_apart
from .settings import Settings

_DIVISION_STREAM = 5  # of a seed's random numbers: which images are support and which future


class Bootstrapping(EpisodeTraining):
    """``a CE(student) + b D(student, teacher) + c CE(teacher)``, with true gradients all the way.

    D is `answer_distance` or `state_distance`; the teacher's own cross-entropy reaches the weights through
    S' and S. The episodes are those of K + J shots, whose images are divided into support and future.
    Encoded in one batch, student and teacher see the same features of a query.
    """

    def __init__(self, learner: FewShotLearner, classes: ImageClasses, settings: Settings) -> None:
        shots = settings.k_shot + settings.future_shots
        super().__init__(learner, classes, replace(settings, k_shot=shots))

    def make_draw(self, domains: Sequence[Classes]) -> Draw:
        s = self.settings
        key = stream_key(s.seed, _DIVISION_STREAM)
        return partial(_divided, super().make_draw(domains), key, s.k_shot - s.future_shots)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and its three terms, and the accuracy of student ("accuracy") and teacher.

        Batch: "images" (..., C, H, W) or (..., F); "support" (B, N * K), "future" (B, N * J) and "query"
        (B, Q), positions among the flattened leading axes of the images; "support_labels",
        "future_labels" and "query_labels" likewise.
        """
        self.train()
        s = self.settings
        labels = batch["query_labels"].flatten()
        encode = features_apart if s.bootstrap_encoding == "separate" else _features_together
        features_of = encode(self.learner, batch, s)
        _, states = self.learner.read(features_of("support"), batch["support_labels"])
        student = self.learner.answer(features_of("query"), states).flatten(0, 1)  # (B * Q, N)
        _, next_states = self.learner.read(features_of("future"), batch["future_labels"], states)
        teacher = self.learner.answer(features_of("query"), next_states).flatten(0, 1)

        if s.bootstrap_loss == "kl":
            distance = answer_distance(student, teacher)
        else:
            distance = state_distance(self.learner, states, next_states)
        student_loss, teacher_loss = F.cross_entropy(student, labels), F.cross_entropy(teacher, labels)
        return {
            "loss": s.student_weight * student_loss
            + s.bootstrap_weight * distance
            + s.teacher_weight * teacher_loss,
            "student_loss": student_loss,
            "bootstrap_loss": distance,
            "teacher_loss": teacher_loss,
            "accuracy": (student.argmax(dim=-1) == labels).float().mean(),
            "teacher_accuracy": (teacher.argmax(dim=-1) == labels).float().mean(),
        }


def _features_together(
    learner: FewShotLearner, batch: Batch, settings: Settings
) -> Callable[[str], Tensor]:
    """Features (B, ..., F) of a part of the batch, from one call of the encoder for all."""
    features = training_features(learner, batch["images"], settings)
    return lambda part: features[batch[part]]


def answer_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student), mean over the rows of logits (rows, N); the teacher is a constant."""
    log_student, log_teacher = student.log_softmax(dim=-1), teacher.detach().log_softmax(dim=-1)
    return F.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean")


def state_distance(learner: FewShotLearner, states: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Mean squared difference of states, summed over layers and matrices; the targets are constant.

    They are as the learner's `read` returns them; those of a self-referential layer fall into the matrices
    of y, q, k and the rates, which count alike whatever their size.
    """
    is_packed = any(isinstance(module, SRWM) for module in learner.modules())
    total = torch.zeros((), device=next(learner.parameters()).device)
    for state, target in zip(states, targets, strict=True):
        parts = (srwm.unpack(state), srwm.unpack(target)) if is_packed else ([state], [target])
        for block, target_block in zip(*parts, strict=True):
            total = total + F.mse_loss(block, target_block.detach())
    return total


def divide_shots(labels: np.ndarray, numbers: np.ndarray, k_shot: int) -> tuple[np.ndarray, np.ndarray]:
    """Which positions of an episode's images are support and which future, k_shot of each class support.

    They are chosen by numbers that have nothing to do with the order of the images: the first k_shot of
    each class would not leave every order of the support as likely.

    Labels (B, S) int64, every one as often, and random numbers (B, S) in [0, 1) to rising positions
    (B, N * K) and (B, S - N * K) int64 in 0..S-1.
    """
    by_class = (labels + numbers).argsort(axis=1)
    rank = by_class.argsort(axis=1) % (labels.shape[1] // (int(labels.max()) + 1))  # within the class
    support, future = np.nonzero(rank < k_shot)[1], np.nonzero(rank >= k_shot)[1]
    return support.reshape(len(labels), -1), future.reshape(len(labels), -1)


def _divided(draw: Draw, key: np.ndarray, k_shot: int, first: int, size: int) -> Batch:
    """Episodes whose images to read are divided; a function of the seed and the episode's number."""
    batch = draw(first, size)
    positions, labels = batch["support"], batch["support_labels"]
    divided = divide_shots(labels.numpy(), uniform_rows(key, first, *labels.shape), k_shot)
    for name, part in zip(("support", "future"), map(torch.from_numpy, divided), strict=True):
        batch[name], batch[f"{name}_labels"] = positions.gather(1, part), labels.gather(1, part)
    return batch
