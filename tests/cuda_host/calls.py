"""Calls of a backend that works on addresses, from NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from srwm._cy.exchange import TYPES
from srwm._layouts import Call, Layout, contiguous
from srwm.operators.spec import Operator

ITEM_BYTES = {name: bits // 8 for name, (_, bits) in TYPES.items()}


def arrays_of_forward(operator: Operator) -> tuple[str, ...]:
    """The arrays of a forward kernel of which its last argument has a view, in the order of both."""
    return tuple(identifier(operand.name) for operand in operator.flat)


def identifier(name: str) -> str:
    """The name of an operand in a kernel: that of the second state is state_1."""
    return name.replace("[", "_").replace("]", "")


def results_of_forward(operator: Operator) -> tuple[str, ...]:
    """What a forward kernel writes; an output with the name of an operand is called otherwise."""
    names = arrays_of_forward(operator)
    return tuple("outputs" if r.name in names else r.name for r in operator.results)


def arrays_of_backward(operator: Operator) -> tuple[str, ...]:
    """The same of a backward kernel."""
    gradients = (f"g{identifier(operator.flat[i].name)}" for i in operator.differentiable)
    return (*arrays_of_forward(operator), "saved", *operator.gradient_names, *gradients)


def name_of(dtype: Any) -> str:
    """As backends name it. Today's front ends bring bfloat16 as int16."""
    return "bfloat16" if dtype.name == "int16" else str(dtype.name)


def layout_of(a: Any) -> Layout | None:
    """Of an array or None."""
    return None if a is None else Layout(a.shape, a.strides, name_of(a.dtype))


def call_of(operator: Operator, operands: Sequence[Any], lead: tuple[int, ...]) -> Call:
    """Of operands in the operator's flat order."""
    sizes: dict[str, int] = {}
    for operand, a in zip(operator.flat, operands, strict=True):
        if a is not None:
            sizes |= dict(zip(operand.letters, a.shape[a.ndim - operand.core :], strict=True))
    for derived in operator.derived:
        sizes[derived.letter] = derived.of(sizes)
    dtypes = name_of(operands[0].dtype), name_of(operator.state_dtype(operands))
    return Call(operator, tuple(map(layout_of, operands)), tuple(lead), sizes, *dtypes, 0)


def results_of(call: Call) -> tuple[Layout, ...]:
    """The layouts of the output and of the matrices after the last step."""
    output, *states = call.operator.results
    sizes = dict(call.sizes)
    return (
        contiguous(output.shape(call.lead, sizes), call.dtype),
        *(contiguous(state.shape(call.lead, sizes), call.state_dtype) for state in states),
    )


def address_of(a: Any) -> int:
    """Of an array; 0 for None."""
    return 0 if a is None else int(a.ctypes.data)


def empty(nbytes: int) -> tuple[int, Any]:
    """Working memory."""
    memory = np.empty(max(1, nbytes), np.uint8)
    return address_of(memory), memory


def _new(layout: Layout, like: Any) -> np.ndarray:
    dtype = {"bfloat16": np.dtype(ml_dtypes.bfloat16)}.get(layout.dtype) or np.dtype(layout.dtype)
    a = np.empty(layout.shape, dtype)
    return a.view(np.int16) if like.dtype.name == "int16" and layout.dtype == "bfloat16" else a


def aligned(arrays: Sequence[Any]) -> list[Any]:
    """The arrays, or copies of those whose entries are not a whole number of entries apart."""

    def is_aligned(a: Any) -> bool:
        return not any(stride % a.itemsize for stride in a.strides)

    return [a if a is None or is_aligned(a) else a.copy() for a in arrays]


def forward(
    operator: Operator,
    operands: Sequence[Any],
    lead: tuple[int, ...],
    forward_of: Any,
    saved_of: Any,
    keep: bool,
    return_state: bool,
) -> tuple[Any, ...]:
    """The output, the matrices after the last step, or None, and what is saved for backward, or None."""
    operands = aligned(operands)
    call = call_of(operator, operands, lead)
    run = forward_of(call, keep)
    y, *states = (_new(layout, operands[0]) for layout in results_of(call))
    states = states if return_state else [None] * len(states)
    saved = np.empty(*saved_of(call)) if keep else None
    outputs = tuple(map(address_of, (y, *states)))
    run(tuple(map(address_of, operands)), outputs, address_of(saved), empty=empty)
    return y, *states, saved


def backward(
    operator: Operator,
    operands: Sequence[Any],
    lead: tuple[int, ...],
    backward_of: Any,
    saved: Any,
    incoming: Sequence[Any],
    wanted: Sequence[bool] | None = None,
) -> tuple[Any, ...]:
    """The gradients of the operands that have one; None where they are not given or not wanted."""
    operands, incoming = aligned(operands), aligned(incoming)
    call = call_of(operator, operands, lead)
    run = backward_of(call, tuple(map(layout_of, incoming)))
    given = [operands[i] for i in operator.differentiable]
    gradients = [
        None
        if a is None or (wanted is not None and not wanted[i])
        else _new(contiguous(a.shape, name_of(a.dtype)), a)
        for i, a in enumerate(given)
    ]
    run(
        tuple(map(address_of, operands)),
        address_of(saved),
        tuple(map(address_of, incoming)),
        tuple(map(address_of, gradients)),
        empty=empty,
    )
    return tuple(gradients)
