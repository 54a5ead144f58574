"""What stands in front of the CUDA kernels: the host's cost of a call on tensors, without a device.

    python -m benchmarks.host_cost

CPU tensors are taken for a device's, and the driver does nothing, so that what is left is ours and
PyTorch's on the host. On a device three launches (2 to 3 us each), dearer allocations and the hand-over to
autograd's thread come on top. Rows are timed in turns, one thread; run it while nothing else runs.
"""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import tyro

import srwm
from srwm import _dispatch, _plan, _torch_kernels
from srwm._cy import launch
from srwm._layouts import CPU
from srwm._raw_kernels import backend as cuda
from srwm._torch_private import is_plain
from srwm.operators.srwm import SRWM


@dataclass(frozen=True)
class Args:
    """Itemise what stands in front of the CUDA kernels."""

    size: tuple[int, int, int, int] = (16, 16, 26, 16)
    """(B, H, L, D)."""
    turns: int = 31
    """Turns of each row."""
    calls: int = 200
    """Calls of a turn."""


class Device(cuda.Device):
    """A device on which nothing happens."""

    def __init__(self, index: int) -> None:
        self.index = index
        self._current = lambda: index
        self._context = lambda: 1
        self._launch = lambda *arguments: None

    def limits(self) -> launch.Limits:
        """Those of an H100."""
        return launch.ARCHITECTURES[90]

    def kernel(self, config: launch.Config) -> int:
        """Any handle."""
        return 1


def _room(like: torch.Tensor) -> Callable[[int], tuple[int, Any]]:
    def room(size: int) -> tuple[int, Any]:
        memory = torch.empty(size, dtype=torch.uint8)
        return memory.data_ptr(), memory

    return room


class Empty(torch.autograd.Function):
    """What PyTorch asks of any Function, without work."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
        """An output that nobody computes."""
        ctx.save_for_backward(x, W)
        return torch.empty(1)

    @staticmethod
    def backward(ctx: Any, *grad: torch.Tensor) -> Any:
        """Gradients that nobody computes."""
        return ctx.saved_tensors


def rows_of(args: Args) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    B, H, L, D = args.size
    x, W, grad_y = torch.randn(B, H, L, D), torch.randn(H, D, 3 * D + 4), torch.ones(B, H, L, D)
    leaves = x.clone().requires_grad_(), W.clone().requires_grad_()
    flat, one = (x, W, None, None), torch.ones(1)
    srwm.forward(x, W)  # makes the plan
    read = _torch_kernels._Tensors.read
    key, _ = read(flat) or (b"", ())
    return {
        "is_plain": lambda: is_plain(flat),
        "key and addresses": lambda: read(flat),
        "plan of a key": lambda: _plan.find((SRWM, None, key)),
        "torch.empty of y": lambda: torch.empty((B, H, L, D), dtype=torch.float32, device=x.device),
        "forward": lambda: srwm.forward(x, W),
        "empty Function, forward and backward": lambda: torch.autograd.grad(
            Empty.apply(*leaves), leaves, one
        ),
        "forward and backward": lambda: torch.autograd.grad(srwm.forward(*leaves), leaves, grad_y),
    }


def _forget() -> None:
    """Plans, and choices of a backend, hold for the tensors of one device."""
    _plan.forget()
    _dispatch._resolve.cache_clear()


def main(args: Args) -> None:
    """Print the median microseconds of each row."""
    torch.set_num_threads(1)
    _forget()
    with (
        mock.patch.dict(_plan._KINDS, {CPU: "cuda"}),
        mock.patch.multiple(cuda, unusable=lambda: None, Device=Device),
        mock.patch.object(_torch_kernels._Tensors, "room", staticmethod(_room)),
    ):
        rows = rows_of(args)
        times: dict[str, list[float]] = {name: [] for name in rows}
        for row in rows.values():  # what a first call makes
            row()
        for _ in range(args.turns):
            for name, row in rows.items():
                times[name].append(timeit.timeit(row, number=args.calls) / args.calls * 1e6)
    _forget()
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:38s} {median:8.2f} us")
    beyond = medians["forward and backward"] - medians["empty Function, forward and backward"]
    print(f"{'forward and backward beyond a Function':38s} {beyond:8.2f} us")


if __name__ == "__main__":
    main(tyro.cli(Args))
