"""Every user-facing error of the operator: what was expected, what came, what to do.

A check takes the name of the public operation first, so that its message can name it. All of them
run before any work, on shapes and dtypes alone. Shapes use the letters of `srwm._reference`.
"""

from __future__ import annotations

import operator
from functools import lru_cache
from typing import Any

import numpy as np

DTYPES = ("float16", "bfloat16", "float32", "float64")


@lru_cache(maxsize=64, typed=True)  # other libraries' dtypes may not be comparable
def dtype_name(dtype: Any) -> str:
    """'float32' for NumPy's, torch's and any array library's float32."""
    return str(dtype).rpartition(".")[2]


def is_array(a: Any) -> bool:
    """Whether `a` is an array of any library: shape, dtype and DLPack."""
    return hasattr(a, "__dlpack__") and hasattr(a, "shape") and hasattr(a, "dtype")


def array(op: str, argument: str, a: Any) -> None:
    """Raise TypeError unless `a` is an array, and not one with a mask or rules of its own."""
    if type(a) is np.ndarray:
        return
    if isinstance(a, (np.ma.MaskedArray, np.matrix)):
        raise TypeError(
            f"{op}: {argument}: expected a plain array, got {type(a).__module__}."
            f"{type(a).__qualname__}, whose mask or rules would be lost; fill it, or pass numpy.asarray"
        )
    if not is_array(a):
        raise TypeError(
            f"{op}: {argument}: expected an array (NumPy, CuPy, torch, or anything with __dlpack__), "
            f"got {type(a).__module__}.{type(a).__qualname__}; convert it, e.g. numpy.asarray(..., "
            "dtype=numpy.float32)"
        )


def floating(op: str, argument: str, a: Any) -> None:
    """Raise TypeError unless the dtype of array `a` is one the operator computes with."""
    if dtype_name(a.dtype) not in DTYPES:
        raise TypeError(
            f"{op}: {argument}: expected dtype {', '.join(DTYPES)} (native byte order), got {a.dtype}; "
            "cast it yourself, nothing is cast silently"
        )


def same_kind(op: str, argument: str, a: Any, x: Any, *, of: str = "x", dtype: bool = True) -> None:
    """Raise TypeError unless `a` is of x's array type and (where `dtype`) x's dtype; `of`: x's name."""
    if type(a) is not type(x) and not (isinstance(a, type(x)) or isinstance(x, type(a))):
        raise TypeError(
            f"{op}: {argument}: expected the array type of {of}, {type(x).__module__}."
            f"{type(x).__qualname__}, got {type(a).__module__}.{type(a).__qualname__}; convert one of "
            "the two"
        )
    if dtype and a.dtype != x.dtype:
        raise TypeError(
            f"{op}: {argument}: expected the dtype of {of}, {x.dtype}, got {a.dtype}; cast one of the two, "
            "nothing is cast silently"
        )


def same_device(op: str, argument: str, device: Any, x_device: Any, *, of: str = "x") -> None:
    """Raise ValueError unless both arrays lie on one device; `of`: the name of the first."""
    if device != x_device:
        raise ValueError(
            f"{op}: {argument}: expected on the device of {of}, {x_device}, got {device}; move one of "
            "the two, nothing is moved silently"
        )


def rank(op: str, argument: str, a: Any, least: int, form: str) -> None:
    """Raise ValueError unless `a` has at least `least` axes."""
    if len(a.shape) < least:
        raise ValueError(
            f"{op}: {argument}: expected shape {form}, got {tuple(a.shape)} with {len(a.shape)} axes; "
            "add the missing axes"
        )


def columns(op: str, x: Any, W: Any) -> int:
    """Do of W (..., D, M) for x (..., L, D); ValueError where the two do not fit."""
    D, M = x.shape[-1], W.shape[-1]
    at_least_one(op, "x", x, "D", "(..., L, D)")
    if W.shape[-2] != D:
        raise ValueError(
            f"{op}: W: expected shape (..., D={D}, M) to go with x {tuple(x.shape)}, got "
            f"{tuple(W.shape)}; D is x's last axis and W's last but one"
        )
    return output_size(op, W, D, M)


def output_size(op: str, W: Any, D: int, M: int) -> int:
    """Do of W (..., D, M); ValueError where M leaves no column for y."""
    Do = M - 2 * D - 4
    if Do < 1:
        raise ValueError(
            f"{op}: W: expected M = Do + 2 D + 4 >= {2 * D + 5} columns for D = {D} [y: Do | q: D | k: D | "
            f"beta: 4], got M = {M} in shape {tuple(W.shape)}; build W with srwm.pack"
        )
    return int(Do)


def last_axes(op: str, argument: str, a: Any, sizes: dict[str, Any], x: Any, *, of: str, why: str) -> None:
    """Raise ValueError unless the last axes of `a` have these named sizes; `of`: x's name."""
    if tuple(a.shape[-len(sizes) :]) != tuple(sizes.values()):
        form = ", ".join(f"{name}={n}" for name, n in sizes.items())
        raise ValueError(
            f"{op}: {argument}: expected shape (..., {form}) to go with {of} {tuple(x.shape)}, got "
            f"{tuple(a.shape)}; {why}"
        )


def at_least_one(op: str, argument: str, a: Any, name: str, form: str) -> None:
    """Raise ValueError unless the last axis of `a`, of this name, has an entry."""
    if a.shape[-1] < 1:
        raise ValueError(f"{op}: {argument}: expected shape {form} with {name} >= 1, got {tuple(a.shape)}")


def boolean(op: str, argument: str, a: Any, x: Any, L: int, *, of: str = "x") -> None:
    """Raise unless `a` is a bool array (..., L) of x's array type; `of`: x's name."""
    array(op, argument, a)
    same_kind(op, argument, a, x, of=of, dtype=False)
    if dtype_name(a.dtype) != "bool":
        raise TypeError(f"{op}: {argument}: expected dtype bool, got {a.dtype}; compare, e.g. done != 0")
    if len(a.shape) < 1 or a.shape[-1] != L:
        raise ValueError(
            f"{op}: {argument}: expected shape (..., L={L}), one flag for each step of {of} "
            f"{tuple(x.shape)}, got {tuple(a.shape)}"
        )


def no_broadcast(op: str, x: Any, W: Any, reset: Any) -> ValueError:
    """The error for leading axes that do not broadcast."""
    with_reset = "" if reset is None else f" and of reset {tuple(reset.shape)} but its last"
    return ValueError(
        f"{op}: W: expected leading axes that broadcast with those of x {tuple(x.shape)}, got "
        f"{tuple(W.shape)}; all axes of x and W but the last two{with_reset} must be equal or 1"
    )


def delta_no_broadcast(op: str, argument: str, a: Any, lead: tuple[Any, ...]) -> ValueError:
    """The error for leading axes that do not broadcast with those of the arguments before, `lead`."""
    return ValueError(
        f"{op}: {argument}: expected leading axes that broadcast with those of the arguments before it, "
        f"{tuple(lead)}, got {tuple(a.shape)}; all axes but the last two of q, k, v and S, and but the "
        "last of beta and reset, must be equal or 1"
    )


def shape(op: str, argument: str, a: Any, expected: tuple[int, ...], of: str) -> None:
    """Raise ValueError unless `a` has exactly this shape."""
    if tuple(a.shape) != tuple(expected):
        raise ValueError(
            f"{op}: {argument}: expected the shape of {of}, {tuple(expected)}, got {tuple(a.shape)}"
        )


def thread_count(op: str, argument: str, n: Any) -> int:
    """`n` as an int; ValueError unless it is an integer of any library, at least 1."""
    try:
        count = 0 if isinstance(n, bool) else operator.index(n)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{op}: {argument}: expected an int >= 1, got {n!r}")
    return count


def one_of(op: str, argument: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise ValueError unless `value` is one of those."""
    if value not in allowed:
        raise ValueError(f"{op}: {argument}: expected one of {', '.join(map(str, allowed))}, got {value!r}")
