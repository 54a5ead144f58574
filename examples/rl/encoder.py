"""The convolutional encoder of IMPALA: frames (N, C, H, W) to features (N, F), one vector a frame.

Espeholt et al., IMPALA, ICML 2018 (https://arxiv.org/abs/1802.01561), figure 3, the larger network, as
in Irie et al. 2022 (https://arxiv.org/abs/2202.05780) without its own LSTM.
"""

import math
from collections import OrderedDict
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

_Convolution = partial(nn.Conv2d, kernel_size=3, padding=1)


class ImpalaEncoder(nn.Module):
    """Sections of a convolution, a pooling that halves the frame, and two residual blocks; a linear map.

    Published: frames of 3 x 64 x 64, 622,144 parameters. Initial weights are torch's defaults, as there.

    Parameters
    ----------
    frame_shape : (C, H, W) of the frames. Of any size: each pooling rounds up, so that three of them leave
        ceil(H / 8) x ceil(W / 8), of a tiny frame at least 1 x 1, and every pixel counts. With pooled
        maps that small most of what a 3 x 3 filter sees is padding; fewer sections are enough then.
    channels, scale : of the sections, as many as there are sections, and a factor on them.
    n_features : F.
    """

    def __init__(
        self,
        frame_shape: tuple[int, int, int] = (3, 64, 64),
        *,
        channels: tuple[int, ...] = (16, 32, 32),
        scale: int = 1,
        n_features: int = 256,
    ) -> None:
        super().__init__()
        if min(channels, default=0) < 1:
            raise ValueError(
                f"ImpalaEncoder: channels must be of one section or more, each at least 1, got {channels}"
            )
        self.frame_shape, self.n_features = frame_shape, n_features
        in_channels, *size = frame_shape
        scaled = [scale * c for c in channels]
        self.sections = nn.Sequential(*(_section(*pair) for pair in pairwise((in_channels, *scaled))))
        height, width = (math.ceil(n / 2 ** len(channels)) for n in size)
        self.linear = nn.Linear(scaled[-1] * height * width, n_features)
        # The layout in which a CPU's convolutions and poolings take half the time.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # in no stub

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, C, H, W) uint8, on the device of the weights -> features (N, F), none negative."""
        if frames.dtype != torch.uint8:
            raise TypeError(
                f"ImpalaEncoder: frames must be uint8, from 0 to 255, got {frames.dtype}; "
                "the encoder divides by 255 itself"
            )
        if frames.ndim != 4 or tuple(frames.shape[1:]) != self.frame_shape:
            raise ValueError(
                f"ImpalaEncoder: frames must be (N, C, H, W) with (C, H, W) = {self.frame_shape}, "
                f"got {tuple(frames.shape)}"
            )
        pixels = frames.to(self.linear.weight.dtype, memory_format=torch.channels_last) / 255
        # Flattened as (C, H, W) whatever the layout, the order of published checkpoints.
        features: Tensor = self.linear(self.sections(pixels).relu().flatten(1))
        return features.relu()


def _section(in_channels: int, channels: int) -> nn.Sequential:
    """(N, C, H, W) -> (N, C', ceil(H / 2), ceil(W / 2))."""
    return nn.Sequential(
        OrderedDict(
            convolution=_Convolution(in_channels, channels),
            pooling=nn.MaxPool2d(3, stride=2, padding=1),
            blocks=nn.Sequential(_ResidualBlock(channels), _ResidualBlock(channels)),
        )
    )


class _ResidualBlock(nn.Module):
    """Two convolutions, each of what is positive in its input, beside the input itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _Convolution(channels, channels)
        self.second = _Convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(self.first(x.relu()).relu())
        return out
