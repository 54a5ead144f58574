"""Sums and joins over the processes that train together, differentiable; with one process, nothing."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def process_count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_processes(values: Tensor) -> Tensor:
    """The sum over all processes, on each of them.

    Its gradient is the sum of what each process's own loss sends back: that of the sum of the
    losses, whose mean DistributedDataParallel then takes.
    """
    return _Sum.apply(values) if process_count() > 1 else values


def gather_processes(values: Tensor) -> Tensor:
    """(B, ...), as many on each process -> (processes * B, ...), in the order of the processes."""
    count = process_count()
    if count == 1:
        return values
    joined = values.new_zeros(count, *values.shape)
    joined[dist.get_rank()] = values
    return sum_processes(joined).flatten(0, 1)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
