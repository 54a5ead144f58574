"""For the owner of a GPU: speed beside a PyTorch loop, cycles a step, parity, determinism, races.

    python -m benchmarks.gpu_check                # writes runs/gpu-check/report.md and report.json
    python -m benchmarks.gpu_check --speed-only   # what is measured alone, without the tests

It ends within ten minutes, whatever a device does: every step is a process with a time limit, and one that
reaches its limit is ended and counts as failed. Each is run whatever the ones before gave, and the exit
status is 1 if any failed. What is measured comes first, while nothing else has used the device.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from srwm import _dispatch

FOLDER = Path("runs", "gpu-check")
TIMED_OUT = 124  # as `timeout` of the coreutils says it
TAIL = 15


class Step(NamedTuple):
    """A command, and how many seconds it may take; what it leaves of them the next one may take too."""

    name: str
    command: Sequence[str]
    seconds: float


def steps(folder: Path, *, speed_only: bool) -> list[Step]:
    """What is run, in this order. The limits add up to less than ten minutes."""
    python = sys.executable
    measured = [
        Step("speed", [python, "-m", "benchmarks.gpu_speed", str(folder / "speed.jsonl")], 90),
        Step("cycles", [python, "-m", "benchmarks.gpu_cycles", str(folder / "cycles.jsonl")], 50),
    ]
    if speed_only:
        return measured
    pytest = [python, "-m", "pytest", "-q", "-m", "gpu", "-W", "default"]
    # The files side by side: compilers take most of the time, and use one processor each.
    beside = [*pytest, "--numprocesses", "3", "--dist", "loadfile", "tests"]
    sanitizer = shutil.which("compute-sanitizer") or "compute-sanitizer"
    some = [*pytest, "tests/test_parity.py", "-k", "resets or halves"]
    return [
        *measured,
        Step("parity, determinism, transforms", beside, 260),
        *(
            Step(
                f"compute-sanitizer {tool}", [sanitizer, "--tool", tool, "--error-exitcode", "9", *some], 90
            )
            for tool in ("memcheck", "racecheck")
        ),
    ]


def ran(step: Step, seconds: float) -> dict[str, Any]:
    """Run a step for at most so many seconds; its last lines and exit status."""
    done = {"name": step.name, "command": " ".join(step.command)}
    if shutil.which(step.command[0]) is None:
        return {**done, "status": 0, "tail": f"{step.command[0]} is not installed"}
    # A file, as a pipe would stay open for as long as whatever the step had started.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            step.command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = TIMED_OUT
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                with suppress(subprocess.TimeoutExpired):  # one that waits in the driver does not end
                    process.wait(5)
        output.seek(0)
        lines = output.read().strip().splitlines()[-TAIL:]
    if status == TIMED_OUT:
        lines.append(f"ended at its limit of {seconds:.0f} seconds")
    return {**done, "status": status, "tail": "\n".join(lines)}


def ran_all(
    given: Sequence[Step],
    run: Callable[[Step, float], dict[str, Any]] = ran,
    now: Callable[[], float] = time.monotonic,
) -> list[dict[str, Any]]:
    """Run the steps one after the other."""
    results, until = [], now()
    for step in given:
        until += step.seconds
        results.append(run(step, until - now()))
        print("{name}: exit status {status}\n{tail}\n".format(**results[-1]), flush=True)
    return results


def has_failed(results: Sequence[dict[str, Any]]) -> bool:
    """Whether any step has."""
    return any(step["status"] != 0 for step in results)


def left_by(path: Path) -> list[dict[str, Any]]:
    """The rows that a step wrote, as far as it came."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def as_markdown(report: dict[str, Any]) -> str:
    """The report to read: steps, single calls, warm loops, cycles."""
    lines = [f"# {report['device']}, CuPy {report['cupy']}, PyTorch {report['torch']}"]
    lines += ["", "| step | exit status | |", "|---|---|---|"]
    for step in report["steps"]:
        last = step["tail"].splitlines()[-1] if step["tail"] else ""
        lines.append(f"| {step['name']} | {step['status']} | {last} |")
    lines += ["", "A single call, from an idle device to its results, in ms:", ""]
    lines += ["| B, H, L, D | | srwm | PyTorch loop | times faster |", "|---|---|---|---|---|"]
    for row in report["speed"]:
        ours, loop = row["single ms"], row["loop, single ms"]
        lines.append(f"| {_row(row)} | {ours:.3f} | {loop:.3f} | {loop / ours:.1f} |")
    lines += ["", "A call in a warm loop, and on the device alone, in a CUDA graph, in ms:", ""]
    lines += [
        "| B, H, L, D | | srwm | in a graph | PyTorch loop | times faster |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["speed"]:
        ours, loop = row["warm ms"], row["loop, warm ms"]
        lines.append(
            f"| {_row(row)} | {ours:.4f} | {row['graph ms']:.4f} | {loop:.3f} | {loop / ours:.1f} |"
        )
    lines += ["", "| kernel | D = Do | cycles a step |", "|---|---|---|"]
    lines += [f"| {row['kernel']} | {row['D']} | {row['cycles']:.0f} |" for row in report["cycles"]]
    return "\n".join(lines) + "\n"


def _row(row: dict[str, Any]) -> str:
    return f"{', '.join(map(str, row['B, H, L, D']))} | {row['what']}"


def main() -> None:
    """Run everything and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--speed-only", action="store_true", help="measure, and run no tests")
    options = parser.parse_args()
    reason = _dispatch.states()["cuda"]
    if reason != "usable":
        sys.exit(f"gpu_check: the CUDA backend cannot run here: {reason}")
    import cupy
    import torch

    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in ("speed.jsonl", "cycles.jsonl"):
        (FOLDER / name).unlink(missing_ok=True)  # of a run before
    results = ran_all(steps(FOLDER, speed_only=options.speed_only))
    report = {
        "device": cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode(),
        "cupy": cupy.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "steps": results,
        "speed": left_by(FOLDER / "speed.jsonl"),
        "cycles": left_by(FOLDER / "cycles.jsonl"),
    }
    (FOLDER / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (FOLDER / "report.md").write_text(as_markdown(report), encoding="utf-8")
    print(f"{as_markdown(report)}\n{FOLDER / 'report.md'} is written")
    sys.exit(has_failed(results))


if __name__ == "__main__":
    main()
