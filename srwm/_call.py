"""A call of an operator: to the front end of its array type.

A front end is a module with the three functions below, for arrays of its library. Torch tensors have one,
all other arrays share one. It is imported when the first array of its type comes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from srwm import _checks
from srwm.operators.spec import Operator

# By the name of the package of an array type.
FRONT_ENDS = {"torch": "srwm._torch"}
OTHERS = "srwm._numpy"

_of_type: dict[type, Any] = {}


def _front_end(kind: type) -> Any:
    """The front end of an array type, which is stored under it."""
    packages = (base.__module__.partition(".")[0] for base in kind.__mro__)
    path = next((FRONT_ENDS[package] for package in packages if package in FRONT_ENDS), OTHERS)
    front_end = _of_type[kind] = importlib.import_module(path)
    return front_end


def forward(
    op: Operator,
    flat: tuple[Any, ...],
    return_state: bool,
    backend: str | None,
    num_threads: int | None,
) -> Any:
    """The output, and the matrices after the last step where `return_state`.

    `flat` are the operands in the order of ``op.flat``, None where not given. Several matrices come as a
    tuple.
    """
    kind = type(flat[0])
    front_end = _of_type.get(kind) or _front_end(kind)
    return front_end.forward(op, flat, return_state, backend, num_threads)


def vjp(
    op: Operator, flat: tuple[Any, ...], backend: str | None, num_threads: int | None
) -> tuple[tuple[Any, Any], Callable[..., tuple[Any, ...]]]:
    """The output and the matrices, and the function from their gradients to those of the operands."""
    kind = type(flat[0])
    front_end = _of_type.get(kind) or _front_end(kind)
    return front_end.vjp(op, flat, backend, num_threads)


def backward(
    op: Operator,
    flat: tuple[Any, ...],
    grad_y: Any,
    grad_state: Any,
    backend: str | None,
    num_threads: int | None,
) -> tuple[Any, ...]:
    """The gradients of the operands, from those of the results; a state's only where one is given."""
    kind = type(flat[0])
    front_end = _of_type.get(kind) or _front_end(kind)
    return front_end.backward(op, flat, grad_y, grad_state, backend, num_threads)


def several(op: Operator, name: str, grad_state: Any) -> tuple[Any, ...]:
    """The gradients of the matrices, one each, from one, or a tuple, or None for all."""
    n = len(op.states)
    if grad_state is None:
        return (None,) * n
    if n == 1:
        return (grad_state,)
    if not isinstance(grad_state, tuple) or len(grad_state) != n:
        names = ", ".join(result.name for result in op.next_states)
        raise TypeError(
            f"{name}: grad_state: expected a tuple of {n}, the gradients of {names}, got "
            f"{_checks.type_name(grad_state)}; None stands for zero"
        )
    return grad_state


def together(matrices: tuple[Any, ...]) -> Any:
    """One matrix as it is, several as a tuple: how states are returned."""
    return matrices[0] if len(matrices) == 1 else matrices


def as_arguments(op: Operator, flat: tuple[Any, ...], gradients: tuple[Any, ...]) -> tuple[Any, ...]:
    """The gradients of the operands as callers get them: those of states only where they were given."""
    return tuple(
        g
        for i, g in zip(op.differentiable, gradients, strict=True)
        if op.flat[i].role != "state" or flat[i] is not None
    )
