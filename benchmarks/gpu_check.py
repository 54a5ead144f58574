"""For the owner of a GPU: parity, determinism, races, speed beside a PyTorch loop; a report to keep.

    python -m benchmarks.gpu_check                # writes runs/gpu-check/report.md and report.json

Every step is run whatever the ones before gave; the exit status is that of the worst.
"""

from __future__ import annotations

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

# (B, H, L, D), as in `make bench`
SIZES = ((16, 16, 26, 16), (32, 16, 150, 16), (8, 8, 256, 32), (4, 8, 512, 64))
ROUNDS = 9


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

        for ours, theirs in zip(both(srwm.forward), both(eager_y), strict=True):
            worst = float((ours - theirs).abs().max() / theirs.abs().max())
            if not worst < 1e-3:
                raise RuntimeError(f"gpu_check: relative difference {worst} at {(B, H, L, D)}: not timed")
        times: dict[str, list[float]] = {"srwm": [], "loop": []}
        for _ in range(ROUNDS):
            times["srwm"].append(timed(lambda: both(srwm.forward)))
            times["loop"].append(timed(lambda: both(eager_y)))
        ours, theirs = (statistics.median(times[name]) for name in ("srwm", "loop"))
        rows.append(
            {"B, H, L, D": [B, H, L, D], "srwm ms": ours, "loop ms": theirs, "ratio": theirs / ours}
        )
        print(rows[-1])
    return rows


def main() -> None:
    """Run everything and write the report."""
    reason = _dispatch.states()["cuda"]
    if reason != "usable":
        sys.exit(f"gpu_check: the CUDA backend cannot run here: {reason}")
    import cupy

    pytest = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-W", "default"]
    steps = [tested("parity and determinism", pytest)]
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is not None:
        some = [*pytest, "tests/test_parity.py", "-k", "resets or halves"]
        steps += [
            tested(f"compute-sanitizer {tool}", [sanitizer, "--tool", tool, "--error-exitcode", "9", *some])
            for tool in ("memcheck", "racecheck")
        ]
    device = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    report = {
        "device": device,
        "cupy": cupy.__version__,
        "python": platform.python_version(),
        "steps": steps,
        "speed": speed(),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    lines = [f"# {device}, CuPy {cupy.__version__}", "", "| step | exit status |", "|---|---|"]
    lines += [f"| {step['name']} | {step['status']} |" for step in steps]
    if sanitizer is None:
        lines.append("| compute-sanitizer | not found |")
    lines += ["", "| B, H, L, D | srwm, ms | PyTorch loop, ms | times faster |", "|---|---|---|---|"]
    for row in report["speed"]:
        sizes = ", ".join(map(str, row["B, H, L, D"]))
        lines.append(f"| {sizes} | {row['srwm ms']:.3f} | {row['loop ms']:.1f} | {row['ratio']:.0f} |")
    (FOLDER / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{FOLDER / 'report.md'} is written")
    sys.exit(max(step["status"] for step in steps) != 0)


if __name__ == "__main__":
    main()
