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
            self._track(mean, variance * count / (count - 1))
        normed = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        if self.affine:
            normed = normed * self.weight[:, None, None] + self.bias[:, None, None]
        return normed.to(images.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, of which the variance is the unbiased one."""
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        step = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), step)
        self.running_var.lerp_(variance.to(self.running_var.dtype), step)


def join_batch_norms(module: nn.Module) -> None:
    """Replace every `torch.nn.BatchNorm2d` inside by a `JoinedBatchNorm2d` with the same tensors."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            joined = JoinedBatchNorm2d(
                child.num_features,
                eps=child.eps,
                momentum=child.momentum,
                affine=child.affine,
                track_running_stats=child.track_running_stats,
            )
            joined._parameters, joined._buffers = child._parameters, child._buffers
            joined.train(child.training)
            setattr(module, name, joined)
        else:
            join_batch_norms(child)
