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
from benchmarks.cases import random_case
from benchmarks.compile_matrix import is_replayed
from benchmarks.gpu_model import SIZES
from benchmarks.gpu_speed import ROUNDS, elapsed, write
from benchmarks.peers.family import FAMILY
from srwm._cy import launch
from srwm._raw_kernels import loader

# Steps of the two calls whose difference is the cost of a step, launch and first reads left out.
SHORT, LONG = 1024, 3072

# Of the kernels whose states are in memory: shared memory, and partly that of the device.
SIZES_OF_REPLAYED = (16, 64)

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
    """Forward and backward of as many sequences of L steps as a block takes, each with its own matrices."""
    limits = loader.limits(torch.cuda.current_device())
    groups = launch.forward(operator, D, D, "float32", limits).groups
    size = 1, groups, L, D
    if operator == "srwm":
        case, call = random_case(size), of_srwm
    else:
        member = next(member for member in FAMILY.values() if member.operator == operator)
        case, call = member.case(size), member.call
    given = tuple(torch.from_numpy(a).cuda() for a in case.operands)
    (y, _), pullback = call("vjp", given)
    return {"forward": lambda: call("forward", given), "backward": lambda: pullback(y)}


def of_srwm(verb: str, operands: tuple[Any, ...]) -> Any:
    """One of the functions of `srwm` itself."""
    return getattr(srwm, verb)(*operands)


def measured() -> Iterator[tuple[str, int]]:
    """The operators and sizes, those with a layout for each size first: the time is limited."""
    replayed = [member.operator for member in FAMILY.values() if is_replayed(f"{member.operator}_forward")]
    yield from ((operator, D) for operator in ("srwm", "delta") for D in SIZES)
    yield from ((operator, D) for D in SIZES_OF_REPLAYED for operator in replayed)


def cycles() -> Iterator[dict[str, Any]]:
    """Cycles a step of every kernel at the model's sizes: calls of two lengths, and their difference."""
    rate = clock_rate()
    for operator, D in measured():
        short, long = (passes_of(operator, D, L) for L in (SHORT, LONG))
        for direction in short:
            for f in (short[direction], long[direction]):
                f()  # compiles, and fills the allocator
            differences = [elapsed(long[direction]) - elapsed(short[direction]) for _ in range(ROUNDS)]
            a_step = statistics.median(differences) * rate / (LONG - SHORT)
            yield {"kernel": f"{operator}_{direction}", "D": D, "cycles": a_step}


if __name__ == "__main__":
    write(cycles(), Path(sys.argv[1]))
