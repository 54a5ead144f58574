"""Times the operator beside a PyTorch loop: one process, interleaved rounds, medians, outputs first.

    python -m benchmarks.run --help

Prints a Markdown table and writes it beside a JSON file. A result that differs from the float64
truth is an error, never a row. Times depend on the machine and on what else runs there: the ratios
are what to read.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import tyro
from tqdm import tqdm

import srwm
from benchmarks.memory import peak_growth
from benchmarks.peers import PEERS, eager_forward, forward_and_backward, random_case

TOLERANCE = 1e-4  # of float32 results, relative to the greatest entry of the float64 truth


@dataclass(frozen=True)
class Settings:
    """What is timed, and how often."""

    sizes: tuple[tuple[int, int, int, int], ...] = (
        (16, 16, 26, 16),
        (32, 16, 150, 16),
        (8, 8, 256, 32),
        (4, 8, 512, 64),
    )
    """(B, H, L, D) of forward + backward: batch, heads, steps, entries per head."""
    memory_size: tuple[int, int, int, int] = (2, 4, 2048, 64)
    """(B, H, L, D) of the peak memory measurement."""
    threads: int = 1
    """Threads, the same for every peer."""
    rounds: int = 9
    """Interleaved rounds; medians are over these."""
    out: Path = field(default_factory=lambda: Path("runs/bench"))
    """Folder for results.json and results.md."""


def check_results(size: tuple[int, int, int, int]) -> dict[str, float]:
    """The greatest relative error of each peer's y, gx and gW; raises where it is too great."""
    truth = forward_and_backward(PEERS["eager"], *random_case(size, torch.float64))
    worst = {}
    for name, peer in PEERS.items():
        results = forward_and_backward(peer, *random_case(size))
        worst[name] = max(
            ((a.double() - b).abs().max() / b.abs().max()).item()
            for a, b in zip(results, truth, strict=True)
        )
        if not worst[name] <= TOLERANCE:
            raise ArithmeticError(f"{name} at {size}: relative error {worst[name]} above {TOLERANCE}")
    return worst


def seconds(call: Callable[[], Any], least: float = 0.02) -> float:
    """Time of one call, over as many as take `least` seconds."""
    calls, taken = 0, 0.0
    start = time.perf_counter()
    while taken < least:
        call()
        calls += 1
        taken = time.perf_counter() - start
    return taken / calls


def medians(calls: dict[str, Callable[[], Any]], rounds: int, label: str) -> dict[str, float]:
    """Median time of each call over interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in tqdm(range(rounds), desc=label, leave=False):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return {name: median(of_name) for name, of_name in times.items()}


def time_training(size: tuple[int, int, int, int], rounds: int) -> dict[str, Any]:
    """One row: forward + backward of every peer at one size."""
    errors = check_results(size)
    case = random_case(size)
    calls = {name: lambda peer=peer: forward_and_backward(peer, *case) for name, peer in PEERS.items()}
    times = medians(calls, rounds, f"forward + backward {size}")
    return {
        "size": size,
        "seconds": times,
        "relative_error": errors,
        "ratio": times["eager"] / times["srwm"],
    }


def time_one_step(rounds: int) -> dict[str, Any]:
    """One step of one sequence of 8 heads, D = 16, as an agent acts: arrays and tensors."""
    x_, W_, _ = random_case((1, 8, 1, 16))
    x, W = x_.numpy(), W_.numpy()
    truth = eager_forward(x_.double(), W_.double())[0]
    error = np.abs(srwm.forward(x, W) - truth.numpy()).max() / truth.abs().max().item()
    if not error <= TOLERANCE:
        raise ArithmeticError(f"one step: relative error {error} above {TOLERANCE}")
    calls = {
        "srwm, NumPy": lambda: srwm.forward(x, W),
        "srwm, torch": lambda: srwm.forward(x_, W_),
        "eager": lambda: eager_forward(x_, W_),
    }
    return {"seconds": medians(calls, rounds, "one step")}


def as_table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        f"{results['threads']} thread(s), {results['processor']}, torch {results['torch']}, float32.",
        "",
        "| forward + backward, (B, H, L, D) | srwm | PyTorch loop | srwm is faster by |",
        "|---|---|---|---|",
    ]
    for row in results["training"]:
        size, times = row["size"], row["seconds"]
        lines.append(
            f"| {', '.join(map(str, size))} | {times['srwm'] * 1e3:.2f} ms | "
            f"{times['eager'] * 1e3:.1f} ms | {row['ratio']:.1f} |"
        )
    memory, step = results["memory"], results["one_step"]["seconds"]
    lines += [
        "",
        f"Peak memory of forward + backward at {memory['size']}: srwm "
        f"{memory['bytes']['srwm'] / 1e6:.0f} MB, PyTorch loop {memory['bytes']['eager'] / 1e6:.0f} MB: "
        f"1 / {memory['ratio']:.1f}.",
        "",
        "One step, 1 sequence of 8 heads, D = 16: "
        + ", ".join(f"{name} {taken * 1e6:.1f} µs" for name, taken in step.items())
        + ".",
    ]
    return "\n".join(lines)


def main(settings: Settings) -> None:
    """Measure, print, write."""
    torch.set_num_threads(settings.threads)
    results: dict[str, Any] = {
        "threads": settings.threads,
        "processor": f"{platform.machine()}, {srwm_instruction_set()}",
        "torch": torch.__version__,
        "srwm": srwm.__version__,
    }
    memory = {name: peak_growth(name, settings.memory_size) for name in PEERS}
    results["memory"] = {
        "size": settings.memory_size,
        "bytes": memory,
        "ratio": memory["eager"] / memory["srwm"],
    }
    results["one_step"] = time_one_step(settings.rounds)
    results["training"] = [time_training(size, settings.rounds) for size in settings.sizes]
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    table = as_table(results)
    (settings.out / "results.md").write_text(table + "\n")
    print(table)


def srwm_instruction_set() -> str:
    """The instruction set whose kernels run here."""
    from srwm._cy import backend

    return str(backend.instruction_set())


if __name__ == "__main__":
    main(tyro.cli(Settings))
