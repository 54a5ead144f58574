"""Helpers of the references for arrays of any library: namespace, zeros, precision."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np

# NumPy has the array API standard's name of this function only from 2.0 on.
_NUMPY: Any = np if hasattr(np, "concat") else SimpleNamespace(**vars(np), concat=np.concatenate)


def namespace(a: Any) -> Any:
    """The array namespace of `a`: NumPy, torch or CuPy, else the one that the array API standard gives."""
    if isinstance(a, np.ndarray):
        return _NUMPY
    for library, array_type in (("torch", "Tensor"), ("cupy", "ndarray")):
        module = sys.modules.get(library)
        if module is not None and isinstance(a, getattr(module, array_type)):
            return module
    return a.__array_namespace__()


def zeros(shape: tuple[int, ...], like: Any) -> Any:
    """Zeros of this shape, with the array type, dtype and device of `like`."""
    xp = namespace(like)
    if xp is _NUMPY:
        return np.zeros(shape, like.dtype)
    if xp.__name__ != "cupy":
        return xp.zeros(shape, dtype=like.dtype, device=like.device)
    with like.device:
        return xp.zeros(shape, dtype=like.dtype)


def cast(xp: Any, a: Any, dtype: Any) -> Any:
    """`a` in another dtype of its library."""
    if a.dtype == dtype:
        return a
    if xp.__name__ == "torch":
        return a.to(dtype)
    return a.astype(dtype) if hasattr(a, "astype") else xp.astype(a, dtype)


def widen(xp: Any, a: Any) -> Any:
    """`a` in the precision of the computation: halves are widened to float32."""
    return a if a.dtype in (xp.float32, xp.float64) else cast(xp, a, xp.float32)
