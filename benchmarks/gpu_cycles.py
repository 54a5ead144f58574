"""Cycles a step of every kernel on a device, which the model of `benchmarks.gpu_model` is held against.

python -m benchmarks.gpu_cycles runs/gpu-check/cycles.jsonl
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import srwm
from benchmarks.gpu_model import SIZES
from benchmarks.gpu_speed import ROUNDS, elapsed, write
from srwm._cy import launch
from srwm._raw_kernels import loader

# Steps of the two calls whose difference is the cost of a step, launch and first reads left out.
SHORT, LONG = 1024, 3072

_SPIN = r"""
extern "C" __global__ void spin(long long cycles) {
    const long long begin = clock64();
    while (clock64() - begin < cycles) {
    }
}
"""


def clock_rate() -> float:
    """Cycles that a multiprocessor runs in a second, measured."""
    import cupy

    kernel, cycles = cupy.RawKernel(_SPIN, "spin"), 50_000_000
    kernel((1,), (1,), (cycles,))
    return cycles / statistics.median(elapsed(lambda: kernel((1,), (1,), (cycles,))) for _ in range(3))


def passes_of(operator: str, D: int, L: int) -> dict[str, Callable[[], Any]]:
    """Forward and backward of as many sequences of L steps as one block takes, each with its own state."""

    def tensor(*shape: int) -> Any:
        return torch.randn(groups, *shape, device="cuda")

    forward: Callable[..., Any]
    vjp: Callable[..., Any]
    torch.manual_seed(0)
    limits = loader.limits(torch.cuda.current_device())
    groups = launch.forward(operator, D, D, "float32", limits).groups
    if operator == "srwm":
        given = [tensor(L, D), tensor(D, 3 * D + 4) / D**0.5]
        forward, vjp = srwm.forward, srwm.vjp
    else:
        q, k = (tensor(L, D).softmax(-1) for _ in range(2))
        given = [q, k, tensor(L, D), tensor(L).sigmoid(), tensor(D, D)]
        forward, vjp = srwm.delta.forward, srwm.delta.vjp
    (y, _), pullback = vjp(*given)
    return {"forward": lambda: forward(*given), "backward": lambda: pullback(y)}


def cycles() -> Iterator[dict[str, Any]]:
    """Cycles a step of every kernel at the model's sizes: calls of two lengths, and their difference."""
    rate = clock_rate()
    for operator in ("srwm", "delta"):
        for D in SIZES:
            short, long = (passes_of(operator, D, L) for L in (SHORT, LONG))
            for direction in short:
                for f in (short[direction], long[direction]):
                    f()  # compiles, and fills the allocator
                differences = [elapsed(long[direction]) - elapsed(short[direction]) for _ in range(ROUNDS)]
                a_step = statistics.median(differences) * rate / (LONG - SHORT)
                yield {"kernel": f"{operator}_{direction}", "D": D, "cycles": a_step}


if __name__ == "__main__":
    write(cycles(), Path(sys.argv[1]))
