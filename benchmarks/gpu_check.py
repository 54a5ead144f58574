"""For the owner of a GPU: parity, determinism, races, speed beside a PyTorch loop, cycles a step.

    python -m benchmarks.gpu_check                # writes runs/gpu-check/report.md and report.json
    python -m benchmarks.gpu_check --speed-only   # what was measured alone, without the tests

Every step is run whatever the ones before gave; the exit status is that of the worst. The cycles are what
the model of `benchmarks.gpu_model` is to be held against.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srwm import _dispatch

FOLDER = Path("runs", "gpu-check")

# (B, H, L, D), as in `make bench`, and a head that registers cannot hold
SIZES = ((16, 16, 26, 16), (32, 16, 150, 16), (8, 8, 256, 32), (4, 8, 512, 64), (4, 8, 128, 128))
ROUNDS = 9

# Steps of the two calls whose difference is the cost of a step, launch and first reads left out.
SHORT, LONG = 1024, 3072

_SPIN = r"""
extern "C" __global__ void spin(long long cycles) {
    const long long begin = clock64();
    while (clock64() - begin < cycles) {
    }
}
"""


def tested(name: str, command: list[str]) -> dict[str, Any]:
    """Run a command; its last lines and exit status."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
    print(f"{name}: exit status {done.returncode}\n{tail}\n")
    return {"name": name, "command": " ".join(command), "status": done.returncode, "tail": tail}


def timed(f: Callable[[], Any]) -> float:
    """Milliseconds of one call, by the device's clock."""
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    f()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def clock_rate() -> float:
    """Cycles that a multiprocessor runs in a millisecond, measured."""
    import cupy

    kernel, cycles = cupy.RawKernel(_SPIN, "spin"), 50_000_000
    kernel((1,), (1,), (cycles,))
    return cycles / statistics.median(timed(lambda: kernel((1,), (1,), (cycles,))) for _ in range(3))


def passes_of(operator: str, D: int, L: int) -> dict[str, Callable[[], Any]]:
    """Forward and backward of as many sequences of L steps as one block takes, each with its own state."""
    import torch

    import srwm
    from srwm._cy import launch
    from srwm._raw_kernels import loader

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


def cycles() -> list[dict[str, Any]]:
    """Cycles a step of every kernel at the model's sizes: calls of two lengths, and their difference."""
    from benchmarks.gpu_model import SIZES as HEADS

    rate, rows = clock_rate(), []
    for operator in ("srwm", "delta"):
        for D in HEADS:
            short, long = (passes_of(operator, D, L) for L in (SHORT, LONG))
            for direction in short:
                for f in (short[direction], long[direction]):
                    f()  # compiles, and fills the allocator
                differences = [timed(long[direction]) - timed(short[direction]) for _ in range(ROUNDS)]
                a_step = statistics.median(differences) * rate / (LONG - SHORT)
                rows.append({"kernel": f"{operator}_{direction}", "D": D, "cycles": a_step})
                print(rows[-1])
    return rows


def replayed(f: Callable[[], Any]) -> Any:
    """A CUDA graph of f, which costs the host nothing."""
    import torch

    with torch.cuda.stream(torch.cuda.Stream()):
        f()  # no capture holds the first call
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        f()
    return graph


def speed() -> list[dict[str, Any]]:
    """Forward and backward beside the loop, interleaved, medians; outputs and gradients compared first."""
    import torch

    import srwm
    from benchmarks.peers.eager import eager_y

    rows = []
    for B, H, L, D in SIZES:
        torch.manual_seed(0)
        x = torch.randn(B, H, L, D, device="cuda", requires_grad=True)
        W = (torch.randn(H, D, 3 * D + 4, device="cuda") / D**0.5).requires_grad_()

        def both(f: Callable[..., Any], x: Any = x, W: Any = W) -> tuple[Any, ...]:
            y = f(x, W)
            return (y.detach(), *torch.autograd.grad(y.sum(), (x, W)))

        graph = replayed(lambda: both(srwm.forward))

        for ours, theirs in zip(both(srwm.forward), both(eager_y), strict=True):
            worst = float((ours - theirs).abs().max() / theirs.abs().max())
            if not worst < 1e-3:
                raise RuntimeError(f"gpu_check: relative difference {worst} at {(B, H, L, D)}: not timed")
        times: dict[str, list[float]] = {"srwm": [], "graph": [], "loop": []}
        for _ in range(ROUNDS):
            times["srwm"].append(timed(lambda: both(srwm.forward)))
            times["graph"].append(timed(graph.replay))
            times["loop"].append(timed(lambda: both(eager_y)))
        medians = {f"{name} ms": statistics.median(values) for name, values in times.items()}
        rows.append(
            {"B, H, L, D": [B, H, L, D], **medians, "ratio": medians["loop ms"] / medians["srwm ms"]}
        )
        print(rows[-1])
    return rows


def tests() -> list[dict[str, Any]]:
    """The GPU suite, and some of it under compute-sanitizer where that is installed."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-W", "default"]
    steps = [tested("parity and determinism", pytest)]
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        return [*steps, {"name": "compute-sanitizer", "command": "", "status": 0, "tail": "not found"}]
    some = [*pytest, "tests/test_parity.py", "-k", "resets or halves"]
    return steps + [
        tested(f"compute-sanitizer {tool}", [sanitizer, "--tool", tool, "--error-exitcode", "9", *some])
        for tool in ("memcheck", "racecheck")
    ]


def main() -> None:
    """Run everything and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--speed-only", action="store_true", help="measure, and run no tests")
    options = parser.parse_args()
    reason = _dispatch.states()["cuda"]
    if reason != "usable":
        sys.exit(f"gpu_check: the CUDA backend cannot run here: {reason}")
    import cupy

    device = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    report = {
        "device": device,
        "cupy": cupy.__version__,
        "python": platform.python_version(),
        "steps": [] if options.speed_only else tests(),
        "speed": speed(),
        "cycles": cycles(),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    lines = [f"# {device}, CuPy {cupy.__version__}"]
    if report["steps"]:
        lines += ["", "| step | exit status | |", "|---|---|---|"]
    for step in report["steps"]:
        last = step["tail"].splitlines()[-1] if step["tail"] else ""
        lines.append(f"| {step['name']} | {step['status']} | {last} |")
    lines += ["", "| B, H, L, D | srwm, ms | in a CUDA graph | PyTorch loop | times faster |"]
    lines += ["|---|---|---|---|---|"]
    for row in report["speed"]:
        sizes = ", ".join(map(str, row["B, H, L, D"]))
        ours = f"{row['srwm ms']:.2f} | {row['graph ms']:.3f}"
        lines.append(f"| {sizes} | {ours} | {row['loop ms']:.1f} | {row['ratio']:.0f} |")
    lines += ["", "| kernel | D = Do | cycles a step |", "|---|---|---|"]
    lines += [f"| {row['kernel']} | {row['D']} | {row['cycles']:.0f} |" for row in report["cycles"]]
    (FOLDER / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{FOLDER / 'report.md'} is written")
    sys.exit(max((step["status"] for step in report["steps"]), default=0) != 0)


if __name__ == "__main__":
    main()
