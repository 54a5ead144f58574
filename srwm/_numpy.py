"""The front end of NumPy, CuPy, and every array with DLPack.

Arrays of other libraries are viewed as NumPy's or CuPy's, and results go back as their own type.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from math import prod
from typing import Any, NamedTuple

import numpy as np

from srwm import _checks, _dlpack, _plan, _run
from srwm._cy import exchange
from srwm._cy.recycled import Recycled
from srwm._layouts import Options, together
from srwm._plan import Plan
from srwm.operators.spec import Operator

# From this size on memory is recycled: smaller blocks come from memory that is in use anyway.
RECYCLED_BYTES = 64 << 10

_DTYPES = {name: np.dtype(name) for name in ("float16", "float32", "float64")}


def _dtype(name: str, like: Any) -> np.dtype:
    """A dtype by name: of bfloat16, which NumPy lacks, that of an operand."""
    return _DTYPES.get(name) or like.dtype


class _Host:
    """NumPy's arrays, as srwm/_run.py wants them."""

    @staticmethod
    def read(arrays: tuple[Any, ...]) -> exchange.Reading | None:
        return exchange.of_numpy(arrays, np.ndarray)

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: str, like: Any) -> np.ndarray:
        kind = _dtype(dtype, like)
        size = prod(shape) * kind.itemsize
        if size < RECYCLED_BYTES:
            return np.empty(shape, kind)
        return np.frombuffer(memoryview(Recycled(size)).cast("B"), np.uint8).view(kind).reshape(shape)

    @staticmethod
    def addresses(arrays: tuple[Any, ...]) -> tuple[int, ...]:
        return exchange.addresses_of_numpy(arrays)

    @staticmethod
    def stream(like: Any) -> int:
        return 0

    @staticmethod
    def room(like: Any) -> Callable[[int], tuple[int, Any]]:
        return _room

    own_precision = staticmethod(nullcontext)


def _room(size: int) -> tuple[int, np.ndarray]:
    memory = np.empty(size, np.uint8)
    return memory.ctypes.data, memory


class _Cuda:
    """CuPy's arrays, as srwm/_run.py wants them."""

    @staticmethod
    def read(arrays: tuple[Any, ...]) -> exchange.Reading | None:
        def described(a: Any) -> exchange.Description:
            device = (_plan.CUDA, a.device.id)
            return a.data.ptr, _checks.dtype_name(a.dtype), device, a.shape, a.strides

        return exchange.pack(None if a is None else described(a) for a in arrays)

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: str, like: Any) -> Any:
        import cupy

        with like.device:
            return cupy.empty(shape, _dtype(dtype, like))

    @staticmethod
    def addresses(arrays: tuple[Any, ...]) -> tuple[int, ...]:
        return tuple(0 if a is None else a.data.ptr for a in arrays)

    @staticmethod
    def stream(like: Any) -> int:
        import cupy

        with like.device:
            return cupy.cuda.get_current_stream().ptr

    @staticmethod
    def room(like: Any) -> Callable[[int], tuple[int, Any]]:
        def room(size: int) -> tuple[int, Any]:
            memory = _Cuda.empty((size,), "uint8", like)
            return memory.data.ptr, memory

        return room

    own_precision = staticmethod(nullcontext)


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

    def run(self, save: bool, return_state: bool) -> list[Any]:
        """The results as the library's arrays, and what backward wants."""
        place = self.plan, self.library, self.arrays, self.addresses
        return _run.forward(*place, save, return_state, self.options[1])

    def forward(self, return_state: bool) -> tuple[Any, ...]:
        *results, saved = self.run(True, return_state)
        return *self.given_back(results), saved

    def backward(self, saved: Any, incoming: tuple[Any, ...]) -> tuple[Any, ...]:
        incoming = _views(self.library, self.op.verb("backward"), self.op.gradient_names, incoming)
        place = self.plan, self.library, self.arrays, self.addresses
        return self.given_back(_run.backward(*place, saved, incoming, self.options[1]))

    def given_back(self, results: Any) -> tuple[Any, ...]:
        """Results as the array type that came."""
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
        for operand, a in zip(op.flat, flat, strict=True):
            if hasattr(a, "__dlpack__"):  # of a tracer, too, which is on no device
                _dlpack.device_type(op.verb(verb), operand.name, a)
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
    _dlpack.check_takes_back(
        name, names[0], first, library.empty((1,), _checks.dtype_name(arrays[0].dtype), arrays[0])
    )
    return library, arrays


def forward(op: Operator, flat: tuple[Any, ...], return_state: bool, options: Options) -> Any:
    """The output, and the matrices after the last step where `return_state`."""
    reading = exchange.of_numpy(flat, np.ndarray)
    plan = None if reading is None else _plan.find((op, options[0], reading[0]))
    if reading is None or plan is None:
        call = prepare(op, "forward", flat, options)
        results = call.run(False, return_state)
        if call.is_foreign:
            results[:-1] = call.given_back(results[:-1])
    else:  # the same in a hurry, for arrays like ones that were met before
        num_threads = options[1]
        if num_threads is not None:
            num_threads = _checks.thread_count(op.verb("forward"), "num_threads", num_threads)
        results = _run.forward(plan, _HOST, flat, reading[1], False, return_state, num_threads)
    return (results[0], together(results[1:-1])) if return_state else results[0]
