"""One call of an operator: from arrays of any library to a backend's own, and back.

What `srwm.ops` and `srwm.delta_ops` share. The first operand decides the array type, the dtype, the
device and with it the backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from srwm import _checks, _dispatch, _dlpack


class Plan(NamedTuple):
    """How checked operands are computed with: what follows from all but their entries."""

    backend: Any
    lead: tuple[int, ...]  # the broadcast of the operands' leading axes
    original: Any = None  # the first operand, where results must become its array type; else None


# Plans of plain operands by all that the checks and the table of backends look at: an agent's step
# takes microseconds, and so did looking at the same shapes again. What is stored is never changed, so
# threads need no lock; the bound is for those who meet ever new shapes.
_plans: dict[tuple[Any, ...], Plan] = {}
_MOST_PLANS = 1024

# The plan of operands that were met before, by their key: it begins with their check and the name of
# the backend asked for, and says for each of them what the check looks at.
known_plan = _plans.get


def new_plan(key: tuple[Any, ...], backend: Any, lead: tuple[int, ...]) -> Plan:
    """The plan of checked operands, stored under their key."""
    if len(_plans) >= _MOST_PLANS:
        _plans.clear()
    plan = _plans[key] = Plan(backend, lead)
    return plan


def _key(
    check: Callable[..., tuple[int, ...]], backend: str | None, operands: tuple[Any, ...]
) -> tuple[Any, ...] | None:
    """The key of NumPy arrays or None; None where there are other operands."""
    key: tuple[Any, ...] = (check, backend)
    for a in operands:
        if a is None:
            key += (None,)
        elif type(a) is np.ndarray:
            key += (a.shape, a.dtype)
        else:
            return None
    return key


def prepare(
    check: Callable[..., tuple[int, ...]],
    op: str,
    names: tuple[str, ...],
    operands: tuple[Any, ...],
    backend: str | None,
    num_threads: Any,
) -> tuple[Plan, tuple[Any, ...]]:
    """The plan of operands of these names, and they as arrays of its backend; raises as `check` does."""
    key = _key(check, backend, operands)
    plan = None if key is None else known_plan(key)
    lead = check(op, *operands) if plan is None else plan.lead
    if num_threads is not None:
        _checks.thread_count(op, "num_threads", num_threads)
    if plan is not None:
        return plan, operands
    device = _device(op, names, operands)
    module = _dispatch.resolve(op, device, backend)
    if key is not None:
        return new_plan(key, module, lead), operands
    arrays = _of_backends(op, device, names, operands)
    return Plan(module, lead, None if arrays[0] is operands[0] else operands[0]), arrays


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


def own_copy(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """The operands as arrays that the caller cannot change afterwards."""
    return tuple(None if a is None else a.copy() for a in operands)


def give_back(plan: Plan, *results: Any) -> tuple[Any, ...]:
    """Results as the array type that came; None stays None."""
    if plan.original is None:
        return results
    return tuple(None if a is None else _dlpack.from_numpy(a, plan.original) for a in results)


def check_gradients(op: str, like: Any, of: str, *wanted: tuple[str, Any, tuple[int, ...], str]) -> None:
    """Raise unless each (argument, array, shape, whose shape it is) has that shape and like's dtype.

    Those after the first may be None. `of` is the name of the operand `like`.
    """
    for i, (argument, a, shape, whose) in enumerate(wanted):
        if i == 0 or a is not None:
            _checks.array(op, argument, a)
            _checks.same_kind(op, argument, a, like, of=of)
            _checks.shape(op, argument, a, shape, whose)
