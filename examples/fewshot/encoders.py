"""Convolutional encoders: images (B, C, H, W) to features (B, F), one vector an image.

The published sizes (Irie et al. 2022, https://arxiv.org/abs/2202.05780, and its code)::

    Conv4(1, 64, 28)              64 features    Omniglot
    Conv4(3, 32, 84)             800             Mini-ImageNet, and all else at 84 x 84
    Conv4(3, 32, 32)             128             FC100
    ResNet12(3, 32)              256             FC100
    ResNet12(3, 32, big=True)    512
"""

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ..training.collectives import process_count, sum_processes

DropoutType = Literal["base", "inblock", "2d", "2d_inblock"]

_BLOCKS = 4  # of both encoders; each halves the image


class Encoder(nn.Module, ABC):
    """Dropout of the image's values, four blocks, and one vector of what they leave; see the subclasses.

    Images are square, of at least 16 pixels a side; `n_features` is F.
    """

    n_features: int
    blocks: nn.Sequential

    def __init__(self, in_channels: int, image_size: int, input_dropout: float) -> None:
        super().__init__()
        if image_size < 2**_BLOCKS:
            raise ValueError(
                f"{type(self).__name__}: image_size must be at least {2**_BLOCKS}, got {image_size}"
            )
        self.image_shape = (in_channels, image_size, image_size)
        self.input_dropout = nn.Dropout(input_dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> features (B, F)."""
        return self._join(self.blocks(self.input_dropout(images)))

    @abstractmethod
    def _join(self, maps: Tensor) -> Tensor:
        """(B, C', H // 16, W // 16) -> (B, F)."""

    def _use_channels_last(self) -> None:
        """Keep the filters in a layout in which convolution and pooling take two thirds of a CPU's time."""
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # in no stub


class Conv4(Encoder):
    """Blocks of convolution, batch normalisation, pooling, dropout and ReLU, with ``channels`` each.

    F is ``channels * (image_size // 16) ** 2``. ``dropout`` drops single units after each pooling.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 64,
        image_size: int = 28,
        dropout: float = 0.0,
        *,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__(in_channels, image_size, input_dropout)
        self.n_features = channels * (image_size // 2**_BLOCKS) ** 2
        layers: list[nn.Module] = []
        for block in range(_BLOCKS):
            layers += [
                nn.Conv2d(channels if block else in_channels, channels, 3, padding=1),
                nn.BatchNorm2d(channels, momentum=0.1),
                nn.MaxPool2d(2),
                nn.Dropout(dropout),
                nn.ReLU(),
            ]
        self.blocks = nn.Sequential(*layers)
        self._use_channels_last()

    def _join(self, maps: Tensor) -> Tensor:
        return maps.flatten(1)


class ResNet12(Encoder):
    """Residual blocks of three convolutions, and the mean over all positions.

    Channels 64, 96, 128, 256: 2,232,448 parameters of colour images; ``big`` 64, 128, 256, 512: 7,996,800.
    F is the last of them. Convolutions start from
    ``kaiming_normal_(mode="fan_out", nonlinearity="leaky_relu")``.

    ``dropout_type`` "base" drops single units at the end of each block; "inblock" also after the block's
    first and second activation; "2d" and "2d_inblock" drop whole channels there.
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int = 32,
        *,
        big: bool = False,
        dropout: float = 0.0,
        dropout_type: DropoutType = "base",
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__(in_channels, image_size, input_dropout)
        channels = (64, 128, 256, 512) if big else (64, 96, 128, 256)
        self.n_features = channels[-1]
        self.blocks = nn.Sequential(
            *(_ResidualBlock(*pair, dropout, dropout_type) for pair in pairwise((in_channels, *channels)))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Its gain is then that of ReLU, as published, not of the slope 0.1: 0.5 % more.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")
        self._use_channels_last()

    def _join(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(-2, -1))


class _ResidualBlock(nn.Module):
    """Three convolutions beside a shortcut, their sum pooled: (B, C, H, W) -> (B, C', H // 2, W // 2)."""

    def __init__(self, in_channels: int, channels: int, dropout: float, dropout_type: DropoutType) -> None:
        super().__init__()
        kind = nn.Dropout2d if dropout_type.startswith("2d") else nn.Dropout
        inside = dropout if dropout_type.endswith("inblock") else 0.0
        self.body = nn.Sequential(
            *_convolution(in_channels, channels, 3),
            *(nn.LeakyReLU(0.1), kind(inside)),
            *_convolution(channels, channels, 3),
            *(nn.LeakyReLU(0.1), kind(inside)),
            *_convolution(channels, channels, 3),
        )
        self.shortcut = nn.Sequential(*_convolution(in_channels, channels, 1))
        # The activation never falls, so that it may as well follow the pooling: a quarter of the units.
        self.end = nn.Sequential(nn.MaxPool2d(2), nn.LeakyReLU(0.1), kind(dropout))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.end(self.body(x) + self.shortcut(x))
        return out


def _convolution(in_channels: int, channels: int, size: int) -> tuple[nn.Module, nn.Module]:
    """Same-size convolution, whose bias batch normalisation would take away again, and the latter."""
    convolution = nn.Conv2d(in_channels, channels, size, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(channels)


class JoinedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all processes' images together.

    With them, several processes compute what one would on the joined batch; one process computes the same
    to the bit as with `torch.nn.BatchNorm2d`. PyTorch's own `torch.nn.SyncBatchNorm` is for GPUs alone.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) of this process -> the same shape."""
        if not self.training or process_count() == 1:
            return super().forward(images)
        self._check_input_dim(images)
        # Half precision would lose the sums; double stays what it is.
        x = images.to(torch.promote_types(images.dtype, torch.float32))
        ones = x.new_full((1,), x.numel() / self.num_features)
        sums = sum_processes(torch.cat([x.sum(dim=(0, 2, 3)), ones]))
        total, count = sums[:-1], sums[-1]
        mean = total / count
        # In a second pass: the mean of squares less the squared mean would cancel.
        centred = x - mean[:, None, None]
        variance = sum_processes((centred * centred).sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            unbiased = variance * count / (count - 1)
            for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
                running.lerp_(new.to(running.dtype), self.momentum)
        normed = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        return (normed * self.weight[:, None, None] + self.bias[:, None, None]).to(images.dtype)


def join_batch_norms(module: nn.Module) -> None:
    """Make every `torch.nn.BatchNorm2d` inside a `JoinedBatchNorm2d`, with the tensors that it has."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = JoinedBatchNorm2d
