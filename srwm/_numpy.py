"""The front end of NumPy, CuPy, and every array with DLPack: reads addresses, allocates, runs plans.

Arrays of other libraries are viewed as NumPy's or CuPy's, and results go back as their own type.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from srwm import _checks, _dlpack, _plan
from srwm._call import Options, together
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
        def described(a: Any) -> exchange.Description:
            device = (_plan.CUDA, a.device.id)
            return a.data.ptr, _checks.dtype_name(a.dtype), device, a.shape, a.strides

        return exchange.pack(None if a is None else described(a) for a in arrays)

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: np.dtype) -> Any:
        import cupy

        return cupy.empty(shape, dtype)

    @staticmethod
    def stream() -> int:
        import cupy

        return cupy.cuda.get_current_stream().ptr

    @staticmethod
    def room(size: int) -> tuple[int, Any]:
        import cupy

        memory = cupy.cuda.alloc(size)
        return memory.ptr, memory


class _Prepared(NamedTuple):
    """Checked operands of one library, and where they are; see `srwm._call.Prepared`."""

    op: Operator
    plan: Plan
    library: Any
    arrays: tuple[Any, ...]  # the operands as the library's
    addresses: tuple[int, ...]
    flat: tuple[Any, ...]  # the operands as they came
    options: Options

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return self.plan.results

    @property
    def is_foreign(self) -> bool:
        """Whether results must become arrays of another library."""
        return self.arrays is not self.flat

    def own(self) -> _Prepared:
        arrays = tuple(None if a is None else a.copy() for a in self.arrays)
        own = prepare(self.op, "vjp", arrays, self.options)
        return own._replace(flat=self.flat) if self.is_foreign else own

    def _dtype(self, name: str) -> np.dtype:
        return _DTYPES.get(name) or self.arrays[0].dtype  # NumPy has no bfloat16 but that of the operands

    def run(self, save: bool, return_state: bool) -> list[Any]:
        """The results as the library's arrays, then what backward wants; None for what is not wanted."""
        plan, library = self.plan, self.library
        if plan.runs_on_arrays:
            y, *matrices, saved = loop.forward(self.op, self.arrays, plan.call.lead, plan.call.sizes, save)
            return [y, *(a if return_state else None for a in matrices), saved]
        results = [library.empty(plan.results[0], self._dtype(plan.call.dtype))]
        for shape in plan.results[1:]:
            dtype = self._dtype(plan.call.state_dtype)
            results.append(library.empty(shape, dtype) if return_state else None)
        results.append(library.empty(plan.saved[0], _DTYPES[plan.saved[1]]) if save else None)
        *places, saved_at = library.read(tuple(results))[1]
        options = self.options[1], library.stream(), library.room
        plan.forward(save)(self.addresses, tuple(places), saved_at, *options)
        return results

    def forward(self, return_state: bool) -> tuple[Any, ...]:
        *results, saved = self.run(True, return_state)
        return *self._given_back(results), saved

    def backward(self, saved: Any, incoming: tuple[Any, ...]) -> tuple[Any, ...]:
        plan, library, op = self.plan, self.library, self.op
        incoming = _views(library, op.verb("backward"), op.gradient_names, incoming)
        if plan.runs_on_arrays:
            lead, sizes = plan.call.lead, plan.call.sizes
            return self._given_back(loop.backward(op, self.arrays, lead, sizes, saved, incoming))
        key, places = library.read(incoming)
        operands = (self.arrays[i] for i in op.differentiable)
        gradients = tuple(None if a is None else library.empty(a.shape, a.dtype) for a in operands)
        saved_at, *gradients_at = library.read((saved, *gradients))[1]
        options = self.options[1], library.stream(), library.room
        plan.backward(key)(self.addresses, saved_at, places, tuple(gradients_at), *options)
        return self._given_back(gradients)

    def _given_back(self, results: Any) -> tuple[Any, ...]:
        if not self.is_foreign:
            return tuple(results)
        return tuple(None if a is None else _dlpack.back(a, self.flat[0]) for a in results)


def _views(library: Any, name: str, names: Any, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arrays of any type, or None, as the library's."""
    view = _dlpack.to_numpy if library is _HOST else _dlpack.to_cupy
    return tuple(None if a is None else view(name, n, a) for n, a in zip(names, arrays, strict=True))


_HOST, _CUDA = _Host(), _Cuda()


def prepare(op: Operator, verb: str, flat: tuple[Any, ...], options: Options) -> _Prepared:
    """The operands, checked, with their plan."""
    library: Any = _HOST
    arrays, reading, checked = flat, exchange.of_numpy(flat, np.ndarray), None
    if reading is None:
        checked = _checks.operands(op, op.verb(verb), flat)  # on what came: the messages name its types
        library, arrays = _of_library(op, op.verb(verb), flat)
        reading = library.read(arrays)
    plan = _plan.find((op, options[0], reading[0]))
    if plan is None:
        checked = checked or _checks.operands(op, op.verb(verb), arrays)
        plan = _plan.make(op, op.verb(verb), checked, reading[0], options[0])
    if options[1] is not None:
        options = options[0], _checks.thread_count(op.verb(verb), "num_threads", options[1])
    if plan.copies:
        arrays = tuple(a.copy() if i in plan.copies else a for i, a in enumerate(arrays))
        return prepare(op, verb, arrays, options)._replace(flat=flat)
    return _Prepared(op, plan, library, arrays, reading[1], flat, options)


def _of_library(op: Operator, name: str, flat: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """The library that computes with arrays of any type, and they as its arrays."""
    names = [operand.name for operand in op.flat]
    first = flat[0]
    if isinstance(first, np.ndarray):
        return _HOST, _views(_HOST, name, names, flat)
    library: Any = _HOST if _dlpack.device_type(name, names[0], first) == _plan.CPU else _CUDA
    arrays = _views(library, name, names, flat)
    if arrays[0] is first:
        return library, flat
    _dlpack.check_takes_back(name, names[0], first, library.empty((1,), arrays[0].dtype))
    return library, arrays


def forward(op: Operator, flat: tuple[Any, ...], return_state: bool, options: Options) -> Any:
    """The output, and the matrices after the last step where `return_state`."""
    call = prepare(op, "forward", flat, options)
    results = call.run(False, return_state)
    if call.is_foreign:
        results[:-1] = call._given_back(results[:-1])
    return (results[0], together(results[1:-1])) if return_state else results[0]
