"""A call at hand: operands of one library, their plan, and its passes on their addresses.

A library is what a front end says of its arrays; `like` is one of them, on the device at hand:

    read(arrays) -> their key and their addresses, for None a mark and 0; or None where it cannot read one
    addresses(arrays) -> the addresses alone
    copy(array) -> a contiguous copy
    empty(shape, dtype, like) -> an array, not initialised; dtype by name
    stream(like) -> the handle of the device's current stream, 0 on the CPU
    room(like) -> a function from bytes to memory there: its address, and what keeps it alive
    own_precision(like) -> a context in which nothing is cast behind the reference's back
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from srwm import _checks, _plan
from srwm._plan import Plan
from srwm.operators.spec import Operator
from srwm.reference import loop


class Ready(NamedTuple):
    """Operands with their plan."""

    plan: Plan
    library: Any
    arrays: tuple[Any, ...]
    addresses: tuple[int, ...]

    def forward(self, save: bool, return_state: bool, num_threads: int | None) -> list[Any]:
        """The output, the matrices after the last step, what backward wants; None for what is unwanted."""
        plan, library, arrays, addresses = self
        call, like = plan.call, arrays[0]
        if plan.runs_on_arrays:
            with library.own_precision(like):
                y, *matrices, saved = loop.forward(call.operator, arrays, call.lead, call.sizes, save)
            return [y, *(a if return_state else None for a in matrices), saved]
        results = [library.empty(plan.results[0], call.dtype, like)]
        for shape in plan.results[1:]:
            results.append(library.empty(shape, call.state_dtype, like) if return_state else None)
        results.append(library.empty(*plan.saved, like) if save else None)
        *places, saved_at = library.addresses(tuple(results))
        plan.forward(save)(
            *(addresses, tuple(places), saved_at),
            num_threads=num_threads,
            stream=library.stream(like),
            empty=library.room(like),
        )
        return results

    def backward(self, saved: Any, incoming: tuple[Any, ...], num_threads: int | None) -> tuple[Any, ...]:
        """The gradients of the operands that have one, from those of the results; None where not given."""
        plan, library, arrays, addresses = self
        call, like = plan.call, arrays[0]
        if plan.runs_on_arrays:
            with library.own_precision(like):
                return loop.backward(call.operator, arrays, call.lead, call.sizes, saved, incoming)
        key, places = library.read(incoming)
        layouts = (call.operands[i] for i in call.operator.differentiable)
        gradients = tuple(None if a is None else library.empty(a.shape, a.dtype, like) for a in layouts)
        saved_at, *gradients_at = library.addresses((saved, *gradients))
        plan.backward(key)(
            *(addresses, saved_at, places, tuple(gradients_at)),
            num_threads=num_threads,
            stream=library.stream(like),
            empty=library.room(like),
        )
        return gradients


def ready(
    library: Any,
    op: Operator,
    verb: str,
    arrays: tuple[Any, ...],
    backend: str | None,
    reading: tuple[bytes, tuple[int, ...]] | None,
    checked: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None,
) -> Ready:
    """The operands with their plan; they are checked where it is new, unless they are already."""
    plan = None if reading is None else _plan.find((op, backend, reading[0]))
    if plan is None:
        name = op.verb(verb)
        checked = checked or _checks.operands(op, name, arrays)
        assert reading is not None, "operands that pass the checks have a key"
        plan = _plan.make(op, name, checked, reading[0], backend)
    assert reading is not None
    if plan.copies:
        arrays = tuple(library.copy(a) if i in plan.copies else a for i, a in enumerate(arrays))
        return ready(library, op, verb, arrays, backend, library.read(arrays))
    return Ready(plan, library, arrays, reading[1])
