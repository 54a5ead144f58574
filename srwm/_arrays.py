"""What the readable references are written with: an array's namespace, precision, rows and columns."""

from __future__ import annotations

import sys
from typing import Any


def namespace(a: Any) -> Any:
    """The array namespace of `a`: torch for a tensor, else what the array API standard says."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(a, torch.Tensor):
        return torch
    return a.__array_namespace__()


def compute(xp: Any, a: Any) -> Any:
    """`a` in the precision it is computed in: halves are widened to float32."""
    return a if a.dtype in (xp.float32, xp.float64) else xp.astype(a, xp.float32)


def row(v: Any) -> Any:
    """(..., n) -> (..., 1, n)."""
    return v[..., None, :]


def column(v: Any) -> Any:
    """(..., n) -> (..., n, 1)."""
    return v[..., :, None]
