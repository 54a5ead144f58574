"""The few-shot learner: a convolutional encoder followed by self-referential layers.

Letters in the shapes: B episodes, S support images, Q queries, L positions, N ways, F features,
D the layers' width.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srwm.nn import SRWM, FeedForward

State = list[Tensor]  # one per layer: the shift of its weights


class Conv4(nn.Module):
    """Four blocks of convolution, batch normalisation, pooling, dropout and ReLU.

    Parameters
    ----------
    in_channels : channels of the images.
    channels : channels of every block.
    dropout : probability of dropping a unit after each pooling.
    """

    def __init__(self, in_channels: int = 1, channels: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block in range(4):
            layers += [
                nn.Conv2d(channels if block else in_channels, channels, 3, padding=1),
                nn.BatchNorm2d(channels, momentum=0.1),
                nn.MaxPool2d(2),
                nn.Dropout(dropout),
                nn.ReLU(),
            ]
        self.blocks = nn.Sequential(*layers)
        # On a CPU, convolution and pooling take two thirds of the time in this layout.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> features (B, channels * (H // 16) * (W // 16))."""
        return cast(Tensor, self.blocks(images)).flatten(1)


class FewShotLearner(nn.Module):
    """Reads labelled support images one after the other, then names the class of a query.

    The encoder's features of each image are joined by the one-hot label that is shown with it.
    A query shows label 0, as in the published "synchronous" protocol, and the answer is read at
    its position (Irie et al. 2022, https://arxiv.org/abs/2202.05780). The default sizes are the
    published configuration for Omniglot, 1,342,021 parameters.

    Parameters
    ----------
    n_way : classes of an episode.
    image_size, image_channels : of the images.
    encoder_channels : channels of `Conv4`.
    n_layers, n_heads, d_model : of the self-referential layers.
    ff_factor : width of the feed-forward blocks, in units of ``d_model``.
    dropout, encoder_dropout : probabilities, in the layers and in the encoder.
    beta_init, q_scale, input_softmax : see `srwm.nn.SRWM`.
    unit_features : whether the layers see each feature vector centred and scaled to length 1.
        Beside features of length 7, as the encoder's come out, the label's single 1 is hard to see.
    input_gain : factor on the initial weights of ``input_proj``. With weak inputs queries and keys
        start all but uniform, their difference, which is what writes, close to 0, and training
        waits long on the plateau at chance.
    """

    def __init__(
        self,
        n_way: int = 5,
        *,
        image_size: int = 28,
        image_channels: int = 1,
        encoder_channels: int = 64,
        n_layers: int = 2,
        n_heads: int = 16,
        d_model: int = 256,
        ff_factor: int = 4,
        dropout: float = 0.0,
        encoder_dropout: float = 0.0,
        beta_init: float = 0.0,
        q_scale: float = 1.0,
        input_softmax: bool = False,
        unit_features: bool = False,
        input_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.n_way = n_way
        self.unit_features = unit_features
        self.n_features = encoder_channels * (image_size // 16) ** 2
        self.encoder = Conv4(image_channels, encoder_channels, encoder_dropout)
        self.input_proj = nn.Linear(self.n_features + n_way, d_model)
        self.mixers = nn.ModuleList(
            SRWM(
                d_model,
                n_heads,
                input_softmax=input_softmax,
                beta_init=beta_init,
                q_scale=q_scale,
                dropout=dropout,
            )
            for _ in range(n_layers)
        )
        self.feed_forwards = nn.ModuleList(
            FeedForward(d_model, ff_factor * d_model, dropout=dropout) for _ in range(n_layers)
        )
        self.out_layer = nn.Linear(d_model, n_way)
        with torch.no_grad():
            self.input_proj.weight.mul_(input_gain)

    def encode(self, images: Tensor) -> Tensor:
        """Images (..., C, H, W) -> features (..., F)."""
        features: Tensor = self.encoder(images.flatten(0, -4))
        return features.reshape(*images.shape[:-3], -1)

    def read(
        self, features: Tensor, labels: Tensor, states: State | None = None, *, return_states: bool = True
    ) -> tuple[Tensor, State]:
        """Go through sequences of images and the labels shown with them.

        Parameters
        ----------
        features : (..., L, F).
        labels : (..., L) int64 in [0, N).
        states : what an earlier call returned; by default the layers' own weights.
        return_states : whether they are wanted again.

        Returns
        -------
        logits : (..., L, N).
        states : to continue with, or none at all; leading axes broadcast against those of ``features``.
        """
        if self.unit_features:
            features = F.layer_norm(features, features.shape[-1:]) / math.sqrt(self.n_features)
        feedback = F.one_hot(labels, self.n_way).to(features.dtype)
        h = self.input_proj(torch.cat([features, feedback], dim=-1))
        final: State = []
        for layer, (mixer, feed_forward) in enumerate(zip(self.mixers, self.feed_forwards, strict=True)):
            h, state = mixer(h, None if states is None else states[layer], return_state=return_states)
            h = feed_forward(h)
            if return_states:
                final.append(state)
        return self.out_layer(h), final

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

    def answer(self, query: Tensor, states: State) -> Tensor:
        """Answer queries (B, Q, F) from the states that `read` left: logits (B, Q, N)."""
        unknown = torch.zeros(*query.shape[:-1], 1, dtype=torch.int64, device=query.device)
        logits, _ = self.read(
            query.unsqueeze(-2), unknown, [state.unsqueeze(1) for state in states], return_states=False
        )  # (B, Q, 1, N)
        return logits.squeeze(-2)

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor) -> Tensor:
        """`classify` on images: (B, S, C, H, W), (B, S) and (B, Q, C, H, W) -> (B, Q, N)."""
        n_support = support.shape[1]
        features = self.encode(torch.cat([support, query], dim=1))  # one batch to normalise
        return self.classify(features[:, :n_support], support_labels, features[:, n_support:])
