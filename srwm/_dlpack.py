"""Arrays of any library to the backends' own and back, without a copy: the only from_dlpack calls."""

from __future__ import annotations

from typing import Any

import numpy as np

# Device types of the DLPack standard.
CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
_NAMES = {CPU: "cpu", CUDA: "cuda", CUDA_HOST: "cuda", CUDA_MANAGED: "cuda"}


def device_of(a: Any) -> tuple[str, int]:
    """("cpu" | "cuda" | "DLPack device type n", index) of an array."""
    kind, index = a.__dlpack_device__()
    return _NAMES.get(int(kind), f"DLPack device type {int(kind)}"), int(index)


def to_numpy(op: str, argument: str, a: Any) -> np.ndarray:
    """A NumPy view of a CPU array's memory; TypeError where its library cannot export it."""
    try:
        return np.from_dlpack(a)
    except (BufferError, RuntimeError, TypeError) as refusal:
        raise TypeError(
            f"{op}: {argument}: expected an array that DLPack can share with NumPy, got "
            f"{type(a).__module__}.{type(a).__qualname__} of dtype {a.dtype}, which refuses: {refusal}"
        ) from refusal


def from_numpy(a: np.ndarray, like: Any) -> Any:
    """`a` as an array of the library of `like`, sharing its memory where that library can."""
    return like.__array_namespace__().from_dlpack(a)
