"""Arrays of any library under the references: their namespace, zeros, and precision."""

from __future__ import annotations

import sys
from typing import Any


def namespace(a: Any) -> Any:
    """The array namespace of `a`: torch and CuPy for theirs, else what the array API standard says."""
    for library, array_type in (("torch", "Tensor"), ("cupy", "ndarray")):
        module = sys.modules.get(library)
        if module is not None and isinstance(a, getattr(module, array_type)):
            return module
    return a.__array_namespace__()


def zeros(shape: tuple[int, ...], like: Any) -> Any:
    """Zeros of this shape, of the array type, the dtype and the device of `like`."""
    xp = namespace(like)
    if xp.__name__ != "cupy":
        return xp.zeros(shape, dtype=like.dtype, device=like.device)
    with like.device:
        return xp.zeros(shape, dtype=like.dtype)


def cast(xp: Any, a: Any, dtype: Any) -> Any:
    """`a` in another dtype of its library."""
    if a.dtype == dtype:
        return a
    return a.to(dtype) if xp.__name__ == "torch" else xp.astype(a, dtype)


def widen(xp: Any, a: Any) -> Any:
    """`a` in the precision it is computed in: halves are widened to float32."""
    return a if a.dtype in (xp.float32, xp.float64) else cast(xp, a, xp.float32)
