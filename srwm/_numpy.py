"""The front end of NumPy, CuPy, and every array with DLPack: reads addresses, allocates, runs plans.

Arrays of other libraries are viewed as NumPy's or CuPy's, and results go back as their own type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from srwm import _checks, _dlpack, _plan
from srwm._call import as_arguments, several, together
from srwm._cy import exchange
from srwm._cy.recycled import Recycled
from srwm._plan import Plan
from srwm.operators.spec import Operator
from srwm.reference import loop

# From this size on memory is recycled: smaller blocks come from memory that is in use anyway.
RECYCLED_BYTES = 64 << 10

_DTYPES = {name: np.dtype(name) for name in ("float16", "float32", "float64")}


class _Host:
    """NumPy's arrays."""

    @staticmethod
    def read(arrays: tuple[Any, ...]) -> exchange.Reading | None:
        return exchange.of_numpy(arrays, np.ndarray)

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = prod(shape) * dtype.itemsize
        if size < RECYCLED_BYTES:
            return np.empty(shape, dtype)
        return np.frombuffer(memoryview(Recycled(size)).cast("B"), np.uint8).view(dtype).reshape(shape)

    @staticmethod
    def addresses(arrays: tuple[Any, ...]) -> tuple[int, ...]:
        reading = exchange.of_numpy(arrays, np.ndarray)
        assert reading is not None
        return reading[1]

    @staticmethod
    def stream() -> int:
        return 0

    @staticmethod
    def room(size: int) -> tuple[int, Any]:
        owner = np.empty(size, np.uint8)
        return owner.ctypes.data, owner


class _Cuda:
    """CuPy's arrays, on the device that is current."""

    @staticmethod
    def read(arrays: tuple[Any, ...]) -> exchange.Reading | None:
        return exchange.pack(
            None
            if a is None
            else (a.data.ptr, _checks.dtype_name(a.dtype), (_plan.CUDA, a.device.id), a.shape, a.strides)
            for a in arrays
        )

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: np.dtype) -> Any:
        import cupy

        return cupy.empty(shape, dtype)

    @staticmethod
    def addresses(arrays: tuple[Any, ...]) -> tuple[int, ...]:
        return tuple(0 if a is None else a.data.ptr for a in arrays)

    @staticmethod
    def stream() -> int:
        import cupy

        return cupy.cuda.get_current_stream().ptr

    @staticmethod
    def room(size: int) -> tuple[int, Any]:
        import cupy

        memory = cupy.cuda.alloc(size)
        return memory.ptr, memory


_HOST, _CUDA = _Host(), _Cuda()


class _Prepared(NamedTuple):
    """Checked operands of one library, and where they are."""

    op: Operator
    plan: Plan
    library: Any
    flat: tuple[Any, ...]
    addresses: tuple[int, ...]
    foreign: Any  # the first operand, where results must become its array type; else None
    num_threads: int | None

    def dtype(self, name: str) -> np.dtype:
        """A dtype by name: NumPy has no bfloat16 but that of the operands."""
        return _DTYPES[name] if name in _DTYPES else self.flat[0].dtype

    def give_back(self, results: Sequence[Any]) -> tuple[Any, ...]:
        """Results as the array type that came; None stays None."""
        if self.foreign is None:
            return tuple(results)
        return tuple(None if a is None else _dlpack.back(a, self.foreign) for a in results)


def _prepare(
    op: Operator, verb: str, flat: tuple[Any, ...], backend: str | None, num_threads: Any
) -> _Prepared:
    """The operands, checked, and their plan."""
    if num_threads is not None:
        num_threads = _checks.thread_count(op.verb(verb), "num_threads", num_threads)
    library: Any = _HOST
    reading = exchange.of_numpy(flat, np.ndarray)
    foreign = None
    if reading is None:
        library, flat, foreign = _views(op, verb, flat)
        reading = library.read(flat)
    plan = None if reading is None else _plan.find((op, backend, reading[0]))
    if plan is None:
        plan = _plan.make(op, verb, flat, None if reading is None else reading[0], backend)
    assert reading is not None
    if plan.copies:
        flat = tuple(a.copy() if i in plan.copies else a for i, a in enumerate(flat))
        return _prepare(op, verb, flat, backend, num_threads)._replace(foreign=foreign)
    return _Prepared(op, plan, library, flat, reading[1], foreign, num_threads)


def _views(op: Operator, verb: str, flat: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...], Any]:
    """The library that computes with arrays of any type, they as its arrays, and whose type results get."""
    name = op.verb(verb)
    _checks.operands(op, name, flat)  # on what came: the messages name its types
    first = flat[0]
    if isinstance(first, np.ndarray):
        return _HOST, tuple(None if a is None else np.asarray(a) for a in flat), None
    device = _dlpack.device_type(name, op.flat[0].name, first)
    on_host = device == _plan.CPU
    view = _dlpack.to_numpy if on_host else _dlpack.to_cupy
    views = tuple(
        None if a is None else view(name, operand.name, a) for operand, a in zip(op.flat, flat, strict=True)
    )
    assert views[0] is not None
    if views[0] is first:
        return _CUDA, views, None
    sample = (np if on_host else _cupy()).zeros(1, views[0].dtype)
    _dlpack.check_takes_back(name, op.flat[0].name, first, sample)
    return _HOST if on_host else _CUDA, views, first


def _cupy() -> Any:
    import cupy

    return cupy


def _run_forward(call: _Prepared, save: bool, return_state: bool) -> tuple[tuple[Any, ...], Any]:
    """The results, None for matrices that are not wanted, and what backward wants or None."""
    plan, library = call.plan, call.library
    if plan.runs_on_arrays:
        *results, saved = loop.forward(call.op, call.flat, plan.call.lead, plan.call.sizes, save=save)
        return (results[0], *(a if return_state else None for a in results[1:])), saved
    y = library.empty(plan.results[0], call.dtype(plan.call.dtype))
    results = [y]
    for shape in plan.results[1:]:
        results.append(library.empty(shape, call.dtype(plan.call.state_dtype)) if return_state else None)
    saved = library.empty(plan.saved[0], _DTYPES[plan.saved[1]]) if save else None
    *places, saved_at = library.addresses((*results, saved))
    plan.forward(save)(
        call.addresses, tuple(places), saved_at, call.num_threads, library.stream(), library.room
    )
    return tuple(results), saved


def _run_backward(call: _Prepared, saved: Any, incoming: tuple[Any, ...]) -> tuple[Any, ...]:
    """The gradients of the operands that have one; None where they are not given."""
    plan, library, op = call.plan, call.library, call.op
    if plan.runs_on_arrays:
        lead, sizes = plan.call.lead, plan.call.sizes
        return loop.backward(op, call.flat, lead, sizes, saved, incoming[0], incoming[1:])
    reading = library.read(incoming)
    assert reading is not None
    gradients = tuple(
        None if a is None else library.empty(a.shape, a.dtype)
        for a in (call.flat[i] for i in op.differentiable)
    )
    plan.backward(reading[0])(
        *(call.addresses, library.addresses((saved,))[0], reading[1], library.addresses(gradients)),
        *(call.num_threads, library.stream(), library.room),
    )
    return gradients


def _incoming(call: _Prepared, verb: str, like: tuple[Any, ...], grads: tuple[Any, ...]) -> tuple[Any, ...]:
    """The gradients of the results, checked, as arrays of the library that computes; `like`: operands."""
    op, name = call.op, call.op.verb(verb)
    states = [like[i] for i in op.places("state")]
    dtypes = [(like[0] if state is None else state).dtype for state in states]
    _checks.gradients(op, name, like[0], call.plan.results, dtypes, grads)
    if call.foreign is None:
        return tuple(np.asarray(g) if isinstance(g, np.ndarray) else g for g in grads)
    view = _dlpack.to_numpy if call.library is _HOST else _dlpack.to_cupy
    return tuple(
        None if g is None else view(name, f"grad_{result.name}", g)
        for result, g in zip(op.results, grads, strict=True)
    )


def forward(
    op: Operator, flat: tuple[Any, ...], return_state: bool, backend: str | None, num_threads: int | None
) -> Any:
    """See `srwm._call.forward`."""
    call = _prepare(op, "forward", flat, backend, num_threads)
    results, _ = _run_forward(call, False, return_state)
    if call.foreign is not None:
        results = call.give_back(results)
    return (results[0], together(results[1:])) if return_state else results[0]


def vjp(
    op: Operator, flat: tuple[Any, ...], backend: str | None, num_threads: int | None
) -> tuple[tuple[Any, Any], Callable[..., tuple[Any, ...]]]:
    """See `srwm._call.vjp`."""
    call = _prepare(op, "vjp", flat, backend, num_threads)
    # The pullback must not see what the caller does to the operands afterwards.
    own = tuple(None if a is None else a.copy() for a in call.flat)
    call = _prepare(op, "vjp", own, backend, num_threads)._replace(foreign=call.foreign)
    results, saved = _run_forward(call, True, True)
    like = own if call.foreign is None else flat

    def pullback(grad_y: Any, grad_state: Any = None) -> tuple[Any, ...]:
        grads = (grad_y, *several(op, op.verb("vjp"), grad_state))
        gradients = _run_backward(call, saved, _incoming(call, "vjp", like, grads))
        return as_arguments(op, like, call.give_back(gradients))

    y, *matrices = call.give_back(results)
    return (y, together(tuple(matrices))), pullback


def backward(
    op: Operator,
    flat: tuple[Any, ...],
    grad_y: Any,
    grad_state: Any,
    backend: str | None,
    num_threads: int | None,
) -> tuple[Any, ...]:
    """See `srwm._call.backward`."""
    call = _prepare(op, "backward", flat, backend, num_threads)
    grads = _incoming(call, "backward", flat, (grad_y, *several(op, op.verb("backward"), grad_state)))
    _, saved = _run_forward(call, True, False)
    gradients = _run_backward(call, saved, grads)
    return as_arguments(op, flat, call.give_back(gradients))
