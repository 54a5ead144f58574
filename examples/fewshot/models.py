"""The few-shot learner: an encoder, and a core that reads its features beside the labels shown.

Letters in the shapes: B episodes, S support images, Q queries, L positions, N ways, F features.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..training.cores import Core, States, build_core
from .encoders import Conv4, DropoutType, Encoder, ResNet12

EncoderName = Literal["conv4", "resnet12"]
UnknownLabel = Literal["class_0", "nothing"]

# Those that carry what the support tells them to the queries, and one that cannot.
CoreName = Literal[
    "srwm",
    "deltanet",
    "lstm",
    "fake_sr",
    "linear",
    "recurrent_delta",
    "delta_rnn",
    "delta_delta",
    "delta_cde",
    "self_modifying_titans",
]


class FewShotLearner(nn.Module):
    """Reads labelled support images one after the other, then names the class of a query.

    The encoder's features of each image are joined by the one-hot label that is shown with it.
    A query shows label 0, as in the published "synchronous" protocol, and the answer is read at
    its position (Irie et al. 2022, https://arxiv.org/abs/2202.05780).

    Parameters
    ----------
    encoder : images to features, `Conv4` or `ResNet12`.
    core : reads ``encoder.n_features + n_way`` entries a position, answers with ``n_way`` logits.
    n_way : classes of an episode.
    unit_features : whether the core sees each feature vector centred and scaled to length 1.
        Beside features of length 7, as the encoder's come out, the label's single 1 is hard to see.
    unknown_label : what stands at a query in place of its label, "class_0" as published or "nothing".

    Raises
    ------
    ValueError : for no such ``unknown_label``.
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
        if unknown_label not in get_args(UnknownLabel):
            raise ValueError(
                f"FewShotLearner: unknown_label must be one of {', '.join(get_args(UnknownLabel))}, "
                f"got {unknown_label!r}"
            )
        self.n_way = n_way
        self.unit_features = unit_features
        self.unknown_label = unknown_label
        self.encoder = encoder
        self.core = core

    def encode(self, images: Tensor) -> Tensor:
        """Images (..., C, H, W) -> features (..., F)."""
        features: Tensor = self.encoder(images.flatten(0, -4))
        return features.reshape(*images.shape[:-3], -1)

    def read(
        self, features: Tensor, labels: Tensor, states: States | None = None, *, return_states: bool = True
    ) -> tuple[Tensor, States]:
        """Go through sequences of images and the labels shown with them.

        Parameters
        ----------
        features : (..., L, F).
        labels : (..., L) int64 in [0, N), or -1 where none is shown.
        states : what an earlier call returned; by default sequences begin.
        return_states : whether they are wanted again.

        Returns
        -------
        logits : (..., L, N).
        states : to continue with, or none at all; leading axes broadcast against those of ``features``.
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
        are those of Q separate sequences, each the support and one query.

        Parameters
        ----------
        support : (B, S, F) features.
        support_labels : (B, S) int64.
        query : (B, Q, F) features.

        Returns
        -------
        logits : (B, Q, N).
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


def build_learner(
    *,
    n_way: int = 5,
    image_size: int = 28,
    channels: int = 1,
    encoder: EncoderName = "conv4",
    encoder_channels: int = 64,
    encoder_dropout: float = 0.0,
    encoder_dropout_type: DropoutType = "base",
    input_dropout: float = 0.0,
    big_resnet12: bool = False,
    core: CoreName = "srwm",
    n_heads: int = 16,
    d_model: int = 256,
    ff_factor: int = 4,
    input_softmax: bool = False,
    unit_features: bool = False,
    unknown_label: UnknownLabel = "class_0",
    **options: Any,
) -> FewShotLearner:
    """A learner with fresh weights; by default the published one for Omniglot, 1,342,021 parameters.

    Parameters
    ----------
    n_way, unit_features, unknown_label : see `FewShotLearner`.
    image_size, channels : of the images.
    encoder : "conv4", `Conv4`, or "resnet12", `ResNet12`.
    encoder_channels : of every block of Conv4.
    encoder_dropout, encoder_dropout_type, input_dropout, big_resnet12 : of the encoder; Conv4 knows only
        the dropout type "base".
    core : by its name in `build_core`.
    ff_factor : width of the feed-forward blocks, in units of d_model.
    n_heads, d_model, input_softmax, options : see `build_core`.

    Raises
    ------
    ValueError : for unknown names, options that the encoder or the core does not have, or sizes that do
        not fit.
    """
    if core not in get_args(CoreName):
        raise ValueError(
            f"build_learner: core must be one of {', '.join(get_args(CoreName))}, got {core!r}"
        )
    built: Encoder
    if encoder == "resnet12":
        built = ResNet12(
            channels,
            image_size,
            big=big_resnet12,
            dropout=encoder_dropout,
            dropout_type=encoder_dropout_type,
            input_dropout=input_dropout,
        )
    elif encoder == "conv4":
        for option, changed in (
            ("big_resnet12", big_resnet12),
            ("encoder_dropout_type", encoder_dropout_type != "base"),
        ):
            if changed:
                raise ValueError(
                    f"build_learner: {option} belongs to encoder resnet12, got it with encoder 'conv4'; "
                    "leave it at its default"
                )
        built = Conv4(channels, encoder_channels, image_size, encoder_dropout, input_dropout=input_dropout)
    else:
        raise ValueError(
            f"build_learner: encoder must be one of {', '.join(get_args(EncoderName))}, got {encoder!r}"
        )
    return FewShotLearner(
        built,
        build_core(
            core,
            built.n_features + n_way,
            n_way,
            n_heads=n_heads,
            d_model=d_model,
            d_ff=ff_factor * d_model,
            input_softmax=input_softmax or None,  # without, as published
            **options,
        ),
        n_way,
        unit_features=unit_features,
        unknown_label=unknown_label,
    )
