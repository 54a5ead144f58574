"""Speed on a device beside a loop of PyTorch operations: single calls, warm loops, and the device alone.

    python -m benchmarks.gpu_speed runs/gpu-check/speed.jsonl

A single call begins on an idle device and ends when its results are there. In a warm loop calls follow each
other and one wait ends them all: the time of a call is what the host needs to issue it, or the device to
run it, whichever is longer. A CUDA graph of many calls costs the host nothing. Everything has its turn in
every round; figures are medians. Results are compared with the loop's before anything is timed.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import srwm
from benchmarks.peers.eager import eager_y
from benchmarks.timing import medians

# (B, H, L, D): a step of an agent, sizes as in `make bench`, and a head that registers cannot hold
SIZES = (
    (1, 8, 1, 16),
    (16, 16, 26, 16),
    (32, 16, 150, 16),
    (8, 8, 256, 32),
    (4, 8, 512, 64),
    (4, 8, 128, 128),
)
ROUNDS = 9
LOOP_SECONDS = 0.1
"""A warm loop lasts about this long."""
IN_GRAPH = 20
"""Calls in a graph: the wait for its start is shared by them."""
TOLERANCE = 1e-4

Call = Callable[[], tuple[Any, ...]]


@dataclass(frozen=True)
class Device:
    """What timing asks of a device; a test puts something else in its place.

    Attributes
    ----------
    name : str
        The device of the tensors.
    synchronize : callable
        Waits for all that was issued.
    captured : callable
        A call, and how often it runs -> a function that runs it so often, and returns its last results.
    elapsed : callable
        A function -> seconds by the device's clock.
    now : callable
        Seconds by the host's clock.
    """

    name: str
    synchronize: Callable[[], None]
    captured: Callable[[Call, int], Call]
    elapsed: Callable[[Callable[[], Any]], float]
    now: Callable[[], float] = time.perf_counter


def elapsed(f: Callable[[], Any]) -> float:
    """Seconds between two CUDA events around f."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    f()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e-3


def captured(call: Call, times: int) -> Call:
    """A CUDA graph of so many calls, replayed."""
    with torch.cuda.stream(torch.cuda.Stream()):
        call()  # no capture holds the first call
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            results = call()

    def replay() -> tuple[Any, ...]:
        graph.replay()
        return results

    return replay


def cuda() -> Device:
    """PyTorch's current device."""
    return Device("cuda", torch.cuda.synchronize, captured, elapsed)


def seconds_a_call(device: Device, call: Callable[[], Any], calls: int) -> float:
    """Host's time of a call, of so many back to back: from an idle device to the end of the last one."""
    device.synchronize()
    begin = device.now()
    for _ in range(calls):
        call()
    device.synchronize()
    return (device.now() - begin) / calls


def calls_of_a_loop(a_call: float, least: int) -> int:
    """How many calls a warm loop has, where a single one takes this long."""
    return max(least, math.ceil(LOOP_SECONDS / a_call))


def calls_of(f: Callable[..., Any], size: tuple[int, int, int, int], device: str) -> dict[str, Call]:
    """Forward without a gradient, and forward and backward, of `f` on the same random operands."""
    B, H, L, D = size
    random = torch.Generator().manual_seed(0)
    x, g = (torch.randn(B, H, L, D, generator=random).to(device) for _ in range(2))
    W = (torch.randn(H, D, 3 * D + 4, generator=random) / D**0.5).to(device)
    leaves = x.clone().requires_grad_(), W.clone().requires_grad_()

    def forward() -> tuple[Any, ...]:
        return (f(x, W),)

    def both() -> tuple[Any, ...]:
        y = f(*leaves)
        return (y.detach(), *torch.autograd.grad(y, leaves, g))

    return {"forward": forward, "forward + backward": both}


def compare(what: str, ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> None:
    """Raise RuntimeError unless all results are those of the loop."""
    for a, b in zip(ours, theirs, strict=True):
        worst = float((a - b).abs().max() / b.abs().max())
        if not worst <= TOLERANCE:
            raise RuntimeError(
                f"gpu_speed: {what}: expected the PyTorch loop's results within {TOLERANCE}, got a "
                f"relative difference of {worst}; it is not timed: look for the fault by `pytest -m gpu`"
            )


def row_of(
    device: Device, size: tuple[int, int, int, int], what: str, ours: Call, loop: Call
) -> dict[str, Any]:
    """A row of the report: milliseconds of a call in every way, and how many were in the warm loops."""
    graph = device.captured(ours, IN_GRAPH)
    expected = loop()
    compare(f"{what} at (B, H, L, D) = {size}", ours(), expected)
    compare(f"{what} in a graph at (B, H, L, D) = {size}", graph(), expected)
    calls = {
        name: calls_of_a_loop(seconds_a_call(device, call, 1), least)
        for name, call, least in (("srwm", ours, 20), ("loop", loop, 2))
    }
    found = medians(
        {
            "single": lambda: seconds_a_call(device, ours, 1),
            "warm": lambda: seconds_a_call(device, ours, calls["srwm"]),
            "graph": lambda: device.elapsed(graph) / IN_GRAPH,
            "loop, single": lambda: seconds_a_call(device, loop, 1),
            "loop, warm": lambda: seconds_a_call(device, loop, calls["loop"]),
        },
        ROUNDS,
        clock=lambda measure: measure(),
    )
    times = {f"{name} ms": 1e3 * seconds for name, seconds in found.items()}
    return {"B, H, L, D": list(size), "what": what, **times, "calls": calls["srwm"]}


def speed(device: Device, sizes: tuple[tuple[int, int, int, int], ...] = SIZES) -> Iterator[dict[str, Any]]:
    """The rows of all sizes."""
    for size in sizes:
        ours, loop = (calls_of(f, size, device.name) for f in (srwm.forward, eager_y))
        for what in ours:
            yield row_of(device, size, what, ours[what], loop[what])


def write(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Print rows, and write each as a line of JSON when it comes: a run that is cut off leaves them."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            print(row, flush=True)
            print(json.dumps(row), file=file, flush=True)


if __name__ == "__main__":
    write(speed(cuda()), Path(sys.argv[1]))
