"""Time this checkout against another one, say the commit before: ratios of medians.

    git worktree add ../before a231a98
    (cd ../before && python setup.py build_ext --inplace)
    python -m benchmarks.against ../before

Each checkout has a process of its own; both live all the time and take turns. Results are compared before
anything is timed. One thread; run it while nothing else runs.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

ROOT = Path(__file__).parents[1]
STEP, TRAINED = (1, 8, 1, 16), (16, 16, 26, 16)  # (B, H, L, D)


@dataclass(frozen=True)
class Args:
    """Time this checkout against another one."""

    before: Annotated[Path, tyro.conf.Positional]
    """The other checkout, with its kernels built in place."""
    rounds: int = 31
    """Turns of each checkout."""
    seconds: float = 0.05
    """Length of a turn for each row."""


def rows() -> dict[str, Callable[[], Any]]:
    """What is timed: a single step, and a training step, on arrays and on tensors."""
    import torch

    import srwm

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)

    def operands(B: int, H: int, L: int, D: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal((B, H, L, D), dtype=np.float32)
        return x, rng.standard_normal((H, D, 3 * D + 4), dtype=np.float32) / np.float32(D**0.5)

    x, W = operands(*STEP)
    tx, tW = torch.from_numpy(x), torch.from_numpy(W)
    X, V = operands(*TRAINED)
    g = rng.standard_normal(X.shape, dtype=np.float32)
    leaves = [torch.from_numpy(a).requires_grad_() for a in (X, V)]

    def arrays() -> Any:
        (y, _), pullback = srwm.vjp(X, V, num_threads=1)
        return y, *pullback(g)

    def tensors() -> Any:
        y = srwm.forward(*leaves)
        return y, *torch.autograd.grad(y, leaves, torch.from_numpy(g))

    return {
        "step, NumPy": lambda: srwm.forward(x, W, num_threads=1),
        "step, torch": lambda: srwm.forward(tx, tW),
        "forward + backward, NumPy": arrays,
        "forward + backward, torch": tensors,
    }


def serve() -> None:
    """Answer on standard output what standard input asks: results of a row, or the time of one call."""
    calls = rows()
    for line in sys.stdin:
        name, seconds = json.loads(line)
        call = calls[name]
        if seconds is None:
            results = call()
            results = results if isinstance(results, tuple) else (results,)
            answer: Any = [np.asarray(getattr(a, "detach", lambda a=a: a)()).tolist() for a in results]
        else:
            timer = timeit.Timer(call)
            number = max(1, int(seconds / max(1e-7, timer.timeit(3) / 3)))
            answer = timer.timeit(number) / number
        print(json.dumps(answer), flush=True)


class Checkout:
    """A process that runs the rows on the package of one checkout."""

    def __init__(self, root: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(root.resolve()), "PYTHONDONTWRITEBYTECODE": "1"}
        code = f"import runpy; runpy.run_path({str(Path(__file__).resolve())!r})['serve']()"
        command = [sys.executable, "-P", "-c", code]
        self.process = subprocess.Popen(
            command, env=environment, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, name: str, seconds: float | None) -> Any:
        """The answer to one question, see `serve`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, seconds]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def main(args: Args) -> None:
    """Print a row for each call: both medians, and the median of the ratios of neighbouring turns."""
    here, before = Checkout(ROOT), Checkout(args.before)
    for name in rows():
        for a, b in zip(here.ask(name, None), before.ask(name, None), strict=True):
            np.testing.assert_allclose(np.array(a), np.array(b), rtol=2e-4, atol=2e-4, err_msg=name)
        turns = []
        for i in range(args.rounds):
            pair = [(c, c.ask(name, args.seconds)) for c in ((here, before) if i % 2 else (before, here))]
            turns.append(dict(pair))
        mine, theirs = (statistics.median(t[c] for t in turns) for c in (here, before))
        ratio = statistics.median(t[here] / t[before] for t in turns)
        print(f"{name:28s} {1e6 * mine:9.1f} us, before {1e6 * theirs:9.1f} us, ratio {ratio:.3f}")


if __name__ == "__main__":
    main(tyro.cli(Args))
