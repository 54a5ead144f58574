"""The layout of arrays in memory, and a call without addresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from srwm.operators.spec import Operator

# DLPack's device types.
CPU, CUDA, ROCM = 1, 2, 10
OF_CUDA = (CUDA, 3, 13)  # memory of a device, of the host, of both

Reading = tuple[bytes, tuple[int, ...]]  # of arrays: key and addresses (exchange.pyx)
Options = tuple[str | None, int | None]  # of a call: backend, num_threads


def together(matrices: Sequence[Any]) -> Any:
    """How states are returned: a single matrix as it is, several as a tuple."""
    return matrices[0] if len(matrices) == 1 else tuple(matrices)


class Layout(NamedTuple):
    """An array without its address."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in bytes
    dtype: str
    device: tuple[int, int] = (CPU, 0)  # DLPack's type, and index
    is_aligned: bool = True  # whether its address and its strides are multiples of an entry's bytes
    has_memory: bool = True  # false where there are entries and no address: a freed storage


def itemsize(dtype: str) -> int:
    """Bytes of an entry."""
    return {"float64": 8, "float32": 4, "bool": 1}.get(dtype, 2)


def real_of(dtype: str) -> str:
    """The dtype of the computation for arrays of this dtype, of sums and of the data saved for backward."""
    return "float64" if dtype == "float64" else "float32"


def contiguous(shape: tuple[int, ...], dtype: str) -> Layout:
    """The layout of a new array."""
    strides, size = [], itemsize(dtype)
    for n in reversed(shape):
        strides.append(size)
        size *= max(1, n)
    return Layout(shape, tuple(reversed(strides)), dtype)


class Call(NamedTuple):
    """A call of an operator, without addresses and options."""

    operator: Operator
    operands: tuple[Layout | None, ...]  # in the order of ``operator.flat``; None if not given
    lead: tuple[int, ...]  # the broadcast of their leading axes
    sizes: Mapping[str, int]  # of the letters of their axes
    dtype: str  # of the data operands and of the output
    state_dtype: str  # of the matrices after the last step, and of their gradients
    device: int  # its index

    @property
    def result_dtypes(self) -> tuple[str, ...]:
        """The dtypes of ``operator.results``."""
        return (self.dtype, *(self.state_dtype for _ in self.operator.states))
