"""The front end of NumPy, CuPy, and every array with DLPack.

Arrays of other libraries are viewed as NumPy's or CuPy's. Results have the type of the operands.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

from srwm import _checks, _dispatch, _dlpack
from srwm._cy import exchange
from srwm._cy.host import Host, dtype_of
from srwm._cy.run import Ready, known
from srwm._layouts import CPU, CUDA, OF_CUDA, Options, Reading, together
from srwm._plan import Plan, find, kind_of, ready
from srwm._threads import default_threads
from srwm.operators.spec import Operator

_name = lru_cache(maxsize=64)(_checks.dtype_name)  # NumPy makes a name anew each time, which is slow


def _copied(array: Any) -> Any:
    return array.copy()  # by a kernel of CuPy's, which the tests' stand-in for CUDA replaces here


class _Cuda:
    """The library of CuPy arrays, see srwm/_cy/run.pyx."""

    @staticmethod
    def read(arrays: tuple[Any, ...]) -> Reading | None:
        cupy = sys.modules.get("cupy")
        if cupy is None or not all(a is None or type(a) is cupy.ndarray for a in arrays):
            return None

        def described(a: Any) -> exchange.Description:
            device = (CUDA, a.device.id)
            return a.data.ptr, _name(a.dtype), device, a.shape, a.strides

        return exchange.pack(None if a is None else described(a) for a in arrays)

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: str, like: Any) -> Any:
        import cupy

        wanted = dtype_of(dtype, like)
        if cupy.cuda.runtime.getDevice() == like.device.id:
            return cupy.empty(shape, wanted)
        with like.device:
            return cupy.empty(shape, wanted)

    @staticmethod
    def empty_like(a: Any) -> Any:
        return _Cuda.empty(a.shape, _name(a.dtype), a)

    @staticmethod
    def addresses(arrays: tuple[Any, ...]) -> tuple[int, ...]:
        return tuple(0 if a is None else a.data.ptr for a in arrays)

    threads = staticmethod(default_threads)  # which CUDA does not ask for

    @staticmethod
    def stream(like: Any) -> int:
        import cupy

        return cupy.cuda.get_current_stream(like.device.id).ptr

    @staticmethod
    def room(like: Any) -> Callable[[int], tuple[int, Any]]:
        def room(size: int) -> tuple[int, Any]:
            memory = _Cuda.empty((size,), "uint8", like)
            return memory.data.ptr, memory

        return room

    @staticmethod
    def copy(array: Any) -> Any:
        import cupy

        size = array.dtype.itemsize
        with array.device:  # CuPy copies to the current one
            if all(at % size == 0 for at in (array.data.ptr, *array.strides)):
                return _copied(array)
            # By bytes: CuPy's kernel would stop at such an address.
            of_bytes = cupy.ndarray((*array.shape, size), "uint8", array.data, (*array.strides, 1))
            return _copied(of_bytes).view(array.dtype).reshape(array.shape)

    own_precision = staticmethod(nullcontext)


_HOST, _CUDA = Host(), _Cuda()
_LIBRARIES = {CPU: _HOST, **dict.fromkeys(OF_CUDA, _CUDA)}


class _Prepared(NamedTuple):
    """Checked operands, as given and as arrays of the library; see `srwm._call.Prepared`."""

    op: Operator
    flat: tuple[Any, ...]
    ready: Ready
    options: Options

    @property
    def arrays(self) -> tuple[Any, ...]:
        return self.ready.arrays

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return self.ready.plan.results

    def own(self) -> _Prepared:
        library, arrays = self.ready.library, self.ready.arrays
        own = tuple(None if a is None else library.copy(a) for a in arrays)
        call = ready(library, self.op, "vjp", own, self.options[0], library.read(own))
        return self._replace(flat=self.flat if self.is_foreign else own, ready=call)

    @property
    def is_foreign(self) -> bool:
        """Whether results must be converted to arrays of another library."""
        return not isinstance(self.flat[0], type(self.ready.arrays[0]))

    def forward(self, return_state: bool, save: bool = True) -> tuple[Any, ...]:
        *results, saved = self.ready.forward(save, return_state, self.options[1])
        return *self.given_back(tuple(results)), saved

    def backward(self, saved: Any, incoming: tuple[Any, ...]) -> tuple[Any, ...]:
        name, arguments = self.op.verb("backward"), self.op.gradient_arguments
        incoming = _views(self.ready.library, name, arguments, incoming)
        return self.given_back(self.ready.backward(saved, incoming, self.options[1], _are_checked))

    def given_back(self, results: tuple[Any, ...]) -> tuple[Any, ...]:
        """Results as arrays of the operands' type."""
        if not self.is_foreign:
            return results
        return tuple(None if a is None else _dlpack.back(a, self.flat[0]) for a in results)


def _are_checked(plan: Plan) -> None:
    """Gradients are checked when they come; saved data never leave the package."""


def _views(library: Any, name: str, names: Any, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arrays of any type, or None, as arrays of the library."""
    view = _dlpack.to_numpy if library is _HOST else _dlpack.to_cupy
    return tuple(None if a is None else view(name, n, a) for n, a in zip(names, arrays, strict=True))


def prepare(op: Operator, verb: str, flat: tuple[Any, ...], options: Options) -> _Prepared:
    """The checked operands with their plan."""
    library: Any = _HOST
    arrays, reading, checked = flat, library.read(flat), None
    if reading is None:
        library, reading = _CUDA, _CUDA.read(flat)
    if reading is None:
        name = op.verb(verb)
        for operand, a in zip(op.flat, flat, strict=True):
            if hasattr(a, "__dlpack__"):  # raises for tracers, which are on no device
                _dlpack.device_type(name, operand.name, a)
        checked = _checks.operands(op, name, flat)  # on the given arrays: messages name their types
        library, arrays = _of_library(op, name, flat, options[0])
        reading = library.read(arrays)
    return _Prepared(op, flat, ready(library, op, verb, arrays, options[0], reading, checked), options)


def _of_library(
    op: Operator, name: str, flat: tuple[Any, ...], backend: str | None
) -> tuple[Any, tuple[Any, ...]]:
    """The library that computes with these arrays, of any type; and the arrays as its arrays."""
    names, first = op.names, flat[0]
    device = _dlpack.device_type(name, names[0], first)
    library: Any = _LIBRARIES.get(device)
    if library is None:
        _dispatch.resolve(name, op, kind_of(device), backend)  # only the reference takes them, by CuPy
        library = _CUDA
    arrays = _views(library, name, names, flat)
    if not isinstance(first, type(arrays[0])):
        sample = library.empty((1,), _checks.dtype_name(arrays[0].dtype), arrays[0])
        _dlpack.check_takes_back(name, names[0], first, sample)
    return library, arrays


def forward(op: Operator, flat: tuple[Any, ...], return_state: bool, options: Options) -> Any:
    """The output, and with `return_state` the matrices after the last step."""
    call = known(find, _HOST, op, flat, options[0]) or known(find, _CUDA, op, flat, options[0])
    if call is None:  # new arrays, or those of another library
        y, *matrices, _ = prepare(op, "forward", flat, options).forward(return_state, False)
    else:
        y, *matrices, _ = call.forward(False, return_state, options[1])
    return (y, together(matrices)) if return_state else y
