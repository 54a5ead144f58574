"""One call of an operator: from arrays of any library to a backend's own, and back.

What `srwm.ops` and `srwm.delta_ops` share. The first operand decides the array type, the dtype, the
device and with it the backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from srwm import _checks, _dispatch, _dlpack


class Call(NamedTuple):
    """One checked call: the backend, what it is called with, the way back."""

    backend: Any
    operands: tuple[Any, ...]  # as the backend's arrays, or None
    lead: tuple[int, ...]  # the broadcast of their leading axes
    original: Any  # the first operand that came, where results must become its array type; else None


# Leading shapes of the plain operands that have been checked, by all that the checks look at: an
# agent's step takes microseconds, and so did looking at the same shapes again.
_checked: dict[tuple[Any, ...], tuple[int, ...]] = {}


def leading_shape(check: Callable[..., tuple[int, ...]], op: str, *operands: Any) -> tuple[int, ...]:
    """`check(op, *operands)`, once for each set of shapes and dtypes of NumPy arrays or None."""
    seen: tuple[Any, ...] = (check,)
    for a in operands:
        if type(a) is np.ndarray:
            seen += (a.shape, a.dtype)
        elif a is None:
            seen += (None,)
        else:
            return check(op, *operands)
    lead = _checked.get(seen)
    if lead is None:
        lead = check(op, *operands)
        if len(_checked) < 1024:
            _checked[seen] = lead
    return lead


def _device(op: str, names: tuple[str, ...], arrays: tuple[Any, ...]) -> str:
    """The name of the one device that the arrays, or None, are on."""
    if isinstance(arrays[0], np.ndarray):
        return "cpu"
    device = _dlpack.device_of(arrays[0])
    for name, a in zip(names, arrays, strict=True):
        if a is not None:
            _checks.same_device(op, name, _dlpack.device_of(a), device, of=names[0])
    return device[0]


def _of_backends(op: str, device: str, names: tuple[str, ...], arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arrays as the backends of their device compute with."""
    if isinstance(arrays[0], np.ndarray) or device not in ("cpu", "cuda"):
        return arrays
    convert = _dlpack.to_numpy if device == "cpu" else _dlpack.to_cupy
    return tuple(None if a is None else convert(op, name, a) for name, a in zip(names, arrays, strict=True))


def as_backend_arrays(op: str, names: tuple[str, ...], arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arrays (the first, and others or None) as the backends of their one device compute with."""
    return _of_backends(op, _device(op, names, arrays), names, arrays)


def prepare(
    op: str,
    names: tuple[str, ...],
    operands: tuple[Any, ...],
    lead: tuple[int, ...],
    backend: str | None,
    num_threads: Any,
) -> Call:
    """The call of the checked operands of these names, on the backend that takes them."""
    if num_threads is not None:
        _checks.thread_count(op, "num_threads", num_threads)
    device = _device(op, names, operands)
    module = _dispatch.resolve(op, device, backend)
    arrays = _of_backends(op, device, names, operands)
    return Call(module, arrays, lead, None if arrays[0] is operands[0] else operands[0])


def own_copy(call: Call) -> Call:
    """The call with operands that the caller cannot change afterwards."""
    return call._replace(operands=tuple(None if a is None else a.copy() for a in call.operands))


def give_back(call: Call, *results: Any) -> tuple[Any, ...]:
    """Results as the array type that came; None stays None."""
    if call.original is None:
        return results
    return tuple(None if a is None else _dlpack.from_numpy(a, call.original) for a in results)


def check_gradients(op: str, like: Any, of: str, *wanted: tuple[str, Any, tuple[int, ...], str]) -> None:
    """Raise unless each (argument, array, shape, whose shape it is) has that shape and like's dtype.

    Those after the first may be None. `of` is the name of the operand `like`.
    """
    for i, (argument, a, shape, whose) in enumerate(wanted):
        if i == 0 or a is not None:
            _checks.array(op, argument, a)
            _checks.same_kind(op, argument, a, like, of=of)
            _checks.shape(op, argument, a, shape, whose)
