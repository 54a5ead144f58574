"""The CUDA backend on a CPU: a row for the table of backends that takes addresses of the host.

All that stands in front of CuPy is under test: configuration, the order of parameters, the block that holds
them, the kernels, the sums of gradients. What a call writes is NaN before, which shows whether all of
it was written.
"""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from math import prod
from typing import Any

from srwm._cy import cuda, launch
from srwm._cy.cuda import saved_of
from srwm.operators.delta import DELTA
from srwm.operators.spec import Operator
from srwm.operators.srwm import SRWM
from tests.cuda_host import calls
from tests.cuda_host.platform import Platform, known
from tests.cuda_host.raw_module import CudaHostError, Memory, compiler

__all__ = [
    "NEEDS_ALIGNMENT",
    "RUNS_ON_ARRAYS",
    "backward",
    "backward_of",
    "declines",
    "delta_backward",
    "delta_forward",
    "forward",
    "forward_of",
    "on",
    "running",
    "saved_of",
    "takes",
    "unusable",
]

RUNS_ON_ARRAYS = False
NEEDS_ALIGNMENT = True

STREAM = 7  # the handle of calls of arrays without streams, so that a test can see whether it arrives

_platforms: list[Any] = [Platform()]


@contextmanager
def on(platform: Any) -> Iterator[None]:
    """Run on another platform."""
    _platforms.append(platform)
    try:
        yield
    finally:
        _platforms.pop()


def running(**how: Any) -> AbstractContextManager[None]:
    """Run kernels otherwise: `mode`, `order`, `seed`, and what else a Platform has."""
    return on(Platform(**how))


@cache
def unusable() -> str | None:
    """Why this backend cannot run here."""
    return (
        None
        if shutil.which(compiler())
        else f"there is no C++ compiler {compiler()!r}; install one, or set CXX"
    )


def declines(device: str) -> str | None:
    """Why this backend does not take arrays of `device`."""
    return None if device == "cpu" else f"it takes CPU arrays, these are on the {device} device"


def takes(operator: Operator) -> bool:
    """Whether there are kernels for it."""
    return operator.name in launch.OPERATORS


def _memory(layout: Any, address: int, *, writeable: bool = False) -> Memory | None:
    """The memory of an array; None where there is no array."""
    if layout is None or not address:
        return None
    ends = [(n - 1) * stride for n, stride in zip(layout.shape, layout.strides, strict=True)]
    if min(ends, default=0) < 0 and prod(layout.shape):
        raise CudaHostError("an array with a negative stride cannot be sent")
    if any(at % calls.ITEM_BYTES[layout.dtype] for at in (address, *layout.strides)):
        raise CudaHostError("an array whose entries are not aligned: a device would lose its context")
    nbytes = sum(ends) + calls.ITEM_BYTES[layout.dtype] if prod(layout.shape) else 0
    return Memory(address, nbytes, writeable)


class _OnHost:
    """A pass whose kernels run on the platform of the moment, whatever it was bound on."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make
        make(_platforms[-1])  # which refuses what the kernels do not run

    def _run(self, memory: Sequence[Memory | None], stream: int, empty: Any, *addresses: Any) -> None:
        def known_empty(nbytes: int) -> tuple[int, Any]:
            address, owner = empty(nbytes)
            ctypes.memset(address, 0xFF, nbytes)
            known[address] = Memory(address, nbytes)
            return address, owner

        # Of arrays that begin at one address the longest is what may be read.
        for m in memory:
            if m is not None and m.nbytes >= known.get(m.address, m).nbytes:
                known[m.address] = m
        try:
            for m in memory:
                if m is not None and m.writeable:
                    ctypes.memset(m.address, 0xFF, m.nbytes)
            self._make(_platforms[-1])(*addresses, stream=stream or STREAM, empty=known_empty)
        finally:
            known.clear()


class _Forward(_OnHost):
    def __init__(self, call: Any) -> None:
        super().__init__(lambda platform: cuda.Forward(platform, call))
        self._call = call

    def __call__(
        self,
        operands: Sequence[int],
        outputs: Sequence[int],
        saved: int,
        num_threads: Any = None,
        stream: int = 0,
        empty: Any = None,
    ) -> None:
        call = self._call
        self._run(
            [
                *map(_memory, call.operands, operands),
                *(
                    _memory(layout, address, writeable=True)
                    for layout, address in zip(calls.results_of(call), outputs, strict=True)
                ),
                _memory(calls.contiguous(*saved_of(call)), saved, writeable=True),
            ],
            stream,
            empty,
            *(operands, outputs, saved),
        )


class _Backward(_OnHost):
    def __init__(self, call: Any, incoming: Sequence[Any]) -> None:
        super().__init__(lambda platform: cuda.Backward(platform, call, incoming))
        self._call, self._incoming = call, incoming

    def __call__(
        self,
        operands: Sequence[int],
        saved: int,
        incoming: Sequence[int],
        gradients: Sequence[int],
        num_threads: Any = None,
        stream: int = 0,
        empty: Any = None,
    ) -> None:
        call = self._call
        given = [call.operands[i] for i in call.operator.differentiable]
        written = [layout and calls.contiguous(layout.shape, layout.dtype) for layout in given]
        self._run(
            [
                *map(_memory, call.operands, operands),
                _memory(calls.contiguous(*saved_of(call)), saved),
                *map(_memory, self._incoming, incoming),
                *(
                    _memory(layout, address, writeable=True)
                    for layout, address in zip(written, gradients, strict=True)
                ),
            ],
            stream,
            empty,
            *(operands, saved, incoming, gradients),
        )


def forward_of(call: Any, keep: bool) -> _Forward:
    """As `srwm._raw_kernels.backend.forward_of`."""
    del keep
    return _Forward(call)


def backward_of(call: Any, incoming: Sequence[Any]) -> _Backward:
    """As `srwm._raw_kernels.backend.backward_of`."""
    return _Backward(call, incoming)


# Both passes of an operator on NumPy arrays, for the tests of states.


def _forward_on_arrays(operator: Operator) -> Callable[..., tuple[Any, ...]]:
    def forward(
        *given: Any, keep: bool, state: Any = None, return_state: bool = True, **_: Any
    ) -> tuple[Any, ...]:
        *initial, reset, lead = given
        operands = (*initial, state, reset)
        return calls.forward(operator, operands, lead, forward_of, saved_of, keep, return_state)

    return forward


def _backward_on_arrays(operator: Operator) -> Callable[..., tuple[Any, ...]]:
    def backward(*given: Any, state: Any = None, **_: Any) -> tuple[Any, ...]:
        *initial, reset, lead, saved, grad_y, grad_next = given
        operands = (*initial, state, reset)
        incoming = (grad_y, grad_next)
        gradients = calls.backward(operator, operands, lead, backward_of, saved, incoming)
        return gradients[:-1] if state is None else gradients

    return backward


forward, delta_forward = map(_forward_on_arrays, (SRWM, DELTA))
backward, delta_backward = map(_backward_on_arrays, (SRWM, DELTA))
