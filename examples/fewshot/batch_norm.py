"""Batch normalisation by the statistics of all processes' images together.

With them, several processes compute what one would on the joined batch. PyTorch's own
`torch.nn.SyncBatchNorm` does the same, but on GPUs alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..training.collectives import process_count, sum_processes


class JoinedBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over the joined batch; the same to the bit with one process."""

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
