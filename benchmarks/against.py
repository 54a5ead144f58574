"""Time this checkout against another one, say the commit before: ratios of medians.

    git worktree add ../before a231a98
    (cd ../before && python setup.py build_ext --inplace)
    python -m benchmarks.against ../before

They take turns (`benchmarks.checkout`). Results are compared before anything is timed. One thread; run it
while nothing else runs.
"""

from __future__ import annotations

import statistics
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


def main(args: Args) -> None:
    """Print a row for each call: both medians, and the median of the ratios of neighbouring turns."""
    # Here, as `rows` also runs where there is another checkout's benchmarks.
    from benchmarks.checkout import Checkout

    with Checkout(ROOT, Path(__file__)) as here, Checkout(args.before, Path(__file__)) as before:
        for name in rows():
            for a, b in zip(here.ask(name, None), before.ask(name, None), strict=True):
                np.testing.assert_allclose(np.array(a), np.array(b), rtol=2e-4, atol=2e-4, err_msg=name)
            turns = []
            for i in range(args.rounds):
                pair = [
                    (c, c.ask(name, args.seconds)) for c in ((here, before) if i % 2 else (before, here))
                ]
                turns.append(dict(pair))
            mine, theirs = (statistics.median(t[c] for t in turns) for c in (here, before))
            ratio = statistics.median(t[here] / t[before] for t in turns)
            print(f"{name:28s} {1e6 * mine:9.1f} us, before {1e6 * theirs:9.1f} us, ratio {ratio:.3f}")


if __name__ == "__main__":
    main(tyro.cli(Args))
