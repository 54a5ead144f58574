"""Operands of the calls that are timed: random, the same in every process and at every precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Size = tuple[int, int, int, int]
"""(B, H, L, D): batch, heads, steps, entries per head; Do = D."""


@dataclass(frozen=True)
class Case:
    """What an operator is called with, and the gradient of its output."""

    operands: tuple[np.ndarray, ...]
    """x (B, H, L, D) and W (H, D, 3 D + 4), which all sequences of a head share; or those of another
    operator."""
    grad_y: np.ndarray
    """(B, H, L, D)"""

    def astype(self, dtype: Any) -> Case:
        """The case at another precision."""
        return Case(tuple(a.astype(dtype) for a in self.operands), self.grad_y.astype(dtype))

    def first_head(self) -> Case:
        """The sequences of the first head alone."""
        x, W = self.operands
        return Case((x[:, :1], W[:1]), self.grad_y[:, :1])


def random_case(size: Size, spread: float = 1.0) -> Case:
    """A case of the self-referential weight matrix, in float32; `spread` of x W before any step."""
    B, H, L, D = size
    rng = np.random.default_rng(0)
    x, grad_y = rng.standard_normal((2, B, H, L, D), dtype=np.float32)
    W = rng.standard_normal((H, D, 3 * D + 4), dtype=np.float32) * np.float32(spread / np.sqrt(D))
    return Case((x, W), grad_y)
