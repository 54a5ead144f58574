"""The few-shot learner: an encoder, and a core that reads its features beside the labels shown.

Letters in the shapes: B episodes, S support images, Q queries, L positions, N ways, F features.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..training.core import Core, States
from ..training.cores import build_core
from .data.sequences import UnknownLabel
from .encoders import Conv4, Encoder, ResNet12
from .settings import Settings


class FewShotLearner(nn.Module):
    """Reads labelled support images one after the other, then names the class of a query.

    The encoder's features of each image are joined by the one-hot label that is shown with it.
    A query shows label 0, as in the published "synchronous" protocol, and the answer is read at
    its position (Irie et al. 2022, https://arxiv.org/abs/2202.05780).

    The core reads ``encoder.n_features + n_way`` entries a position. With ``unit_features`` it sees each
    feature vector centred and scaled to length 1: beside features of length 7, as the encoder's come out,
    the label's single 1 is hard to see.
    """

    def __init__(
        self,
        encoder: Encoder,
        core: Core,
        n_way: int,
        *,
        unit_features: bool = False,
        unknown_label: UnknownLabel = "class_0",
    ) -> None:
        super().__init__()
        self.n_way = n_way
        self.unit_features, self.unknown_label = unit_features, unknown_label
        self.encoder, self.core = encoder, core

    def encode(self, images: Tensor) -> Tensor:
        """Images (..., C, H, W) -> features (..., F)."""
        features: Tensor = self.encoder(images.flatten(0, -4))
        return features.reshape(*images.shape[:-3], -1)

    def read(
        self, features: Tensor, labels: Tensor, states: States | None = None, *, return_states: bool = True
    ) -> tuple[Tensor, States]:
        """Go through sequences of images and the labels shown with them.

        Features (..., L, F) and labels (..., L) int64 in [0, N), or -1 where none is shown, to logits
        (..., L, N). Sequences go on from ``states`` that an earlier call returned, whose leading axes
        broadcast against those of the features; by default they begin.
        """
        if self.unit_features:
            features = F.layer_norm(features, features.shape[-1:]) / math.sqrt(features.shape[-1])
        shown = F.one_hot(labels + 1, self.n_way + 1)[..., 1:]  # all zero for -1
        inputs = torch.cat([features, shown.to(features.dtype)], dim=-1)
        logits, final = self.core(inputs, states, return_states=return_states)
        return logits, final

    def classify(self, support: Tensor, support_labels: Tensor, query: Tensor) -> Tensor:
        """Answer many queries after one reading of the support.

        Every query continues from the state that the support left behind, by itself: the answers
        are those of Q separate sequences, each the support and one query. Features (B, S, F), labels
        (B, S) int64 and features (B, Q, F) to logits (B, Q, N).
        """
        _, states = self.read(support, support_labels)
        return self.answer(query, states)

    def answer(self, query: Tensor, states: States) -> Tensor:
        """Answer queries (B, Q, F) from the states that `read` left: logits (B, Q, N)."""
        unknown = torch.full(
            (*query.shape[:-1], 1), 0 if self.unknown_label == "class_0" else -1, device=query.device
        )
        logits, _ = self.read(
            query.unsqueeze(-2), unknown, [state.unsqueeze(1) for state in states], return_states=False
        )  # (B, Q, 1, N)
        return logits.squeeze(-2)

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor) -> Tensor:
        """`classify` on images: (B, S, C, H, W), (B, S) and (B, Q, C, H, W) -> (B, Q, N)."""
        n_support = support.shape[1]
        features = self.encode(torch.cat([support, query], dim=1))  # one batch to normalise
        return self.classify(features[:, :n_support], support_labels, features[:, n_support:])


def build_learner(settings: Settings) -> FewShotLearner:
    """The learner that the settings describe, with fresh weights."""
    s = settings
    encoder = _build_encoder(s)
    core = build_core(
        s.core,
        encoder.n_features + s.n_way,
        s.n_way,
        n_layers=s.n_layers,
        n_heads=s.n_heads,
        d_model=s.d_model,
        d_ff=s.ff_factor * s.d_model,
        dropout=s.dropout,
        residual=s.residual,
        input_softmax=s.input_softmax or None,  # without, as published
        beta_init=s.beta_init,
        q_scale=s.q_scale,
        input_gain=s.input_gain,
    )
    return FewShotLearner(
        encoder, core, s.n_way, unit_features=s.unit_features, unknown_label=s.unknown_label
    )


def _build_encoder(settings: Settings) -> Encoder:
    s = settings
    channels, size, _ = s.picture_shape
    if s.encoder == "resnet12":
        return ResNet12(
            channels,
            size,
            big=s.big_resnet12,
            dropout=s.encoder_dropout,
            dropout_type=s.encoder_dropout_type,
            input_dropout=s.input_dropout,
        )
    for option, usual in (("big_resnet12", False), ("encoder_dropout_type", "base")):
        if getattr(s, option) != usual:
            raise ValueError(
                f"build_learner: {option} belongs to encoder resnet12, got it with encoder 'conv4'; "
                "leave it at its default"
            )
    return Conv4(channels, s.encoder_channels, size, s.encoder_dropout, input_dropout=s.input_dropout)
