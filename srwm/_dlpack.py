"""Views arrays of any library as NumPy's or CuPy's, and back, without a copy: all from_dlpack calls."""

from __future__ import annotations

from typing import Any

import numpy as np

from srwm import _checks, _dispatch


def to_numpy(name: str, argument: str, a: Any) -> np.ndarray:
    """A NumPy view of a CPU array's memory; TypeError if its library cannot export it."""
    if isinstance(a, np.ndarray):
        return np.asarray(a)
    try:
        return np.from_dlpack(a)
    except (AttributeError, BufferError, RuntimeError, TypeError) as refusal:
        raise _refused(name, argument, a, "NumPy", refusal) from refusal


def to_cupy(name: str, argument: str, a: Any) -> Any:
    """A CuPy view of a CUDA array's memory. CuPy's current stream waits for the stream of the array."""
    try:
        import cupy
    except ImportError as missing:
        raise RuntimeError(
            f"{name}: {argument}: expected CuPy, which views arrays of a device, but "
            f"{_dispatch.module('cuda').unusable()}"
        ) from missing
    if isinstance(a, cupy.ndarray):
        return a
    try:
        return cupy.from_dlpack(a)
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as refusal:
        raise _refused(name, argument, a, "CuPy", refusal) from refusal


def device_type(name: str, argument: str, a: Any) -> int:
    """DLPack's device type of the device of `a`."""
    try:
        return int(a.__dlpack_device__()[0])
    except Exception as refusal:  # any type: JAX's tracers raise ConcretizationTypeError
        remedy = "call from outside a function that is being traced"
        raise _refused(name, argument, a, "NumPy or CuPy", refusal, remedy) from refusal


def back(a: Any, like: Any) -> Any:
    """A NumPy or CuPy array as an array of the library of `like`; shares its memory if that library can."""
    if isinstance(like, np.ndarray):  # a subclass
        return a
    return like.__array_namespace__().from_dlpack(a)


def check_takes_back(name: str, argument: str, a: Any, sample: Any) -> None:
    """Raise TypeError unless the library of `a` accepts results, arrays like `sample`, by DLPack."""
    try:
        back(sample, a)
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as refusal:
        raise TypeError(
            f"{name}: {argument}: expected an array whose library takes results back by DLPack "
            f"(__array_namespace__ with from_dlpack), got {_checks.type_name(a)}, which refuses: "
            f"{refusal}; "
            "pass it as a NumPy or CuPy array"
        ) from refusal


def _refused(
    name: str, argument: str, a: Any, library: str, refusal: Exception, remedy: str = "convert or cast it"
) -> TypeError:
    return TypeError(
        f"{name}: {argument}: expected an array that DLPack can share with {library}, got "
        f"{_checks.type_name(a)} of dtype {a.dtype}, which refuses: {str(refusal).splitlines()[0]}; "
        f"{remedy}"
    )
