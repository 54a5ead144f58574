"""The CUDA backend: kernels that CuPy compiles, launched on addresses in the caller's stream.

Nothing waits for the device and nothing goes through the host: a pass is one launch, and one more for
each gradient that is a sum. Memory is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

from srwm._cy import launch
from srwm._raw_kernels import loader
from srwm._raw_kernels.passes import Backward, Bound, Forward, plans_of, saved_of
from srwm.operators.spec import Operator, described

__all__ = [
    "NEEDS_ALIGNMENT",
    "RUNS_ON_ARRAYS",
    "backward_of",
    "declines",
    "forward_of",
    "saved_of",
    "takes",
    "unusable",
    "warmup",
]

RUNS_ON_ARRAYS = False
NEEDS_ALIGNMENT = True  # a kernel walks whole entries


@cache
def unusable() -> str | None:
    """Why this backend cannot run here."""
    try:
        import cupy
    except ImportError as missing:
        return f"CuPy cannot be imported ({missing}); install srwm[cuda12]"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CUDA finds no device ({error})"
    return None if count else "there is no CUDA device"


def declines(device: str) -> str | None:
    """Why this backend does not take arrays of `device` ("cpu", "cuda")."""
    return None if device == "cuda" else f"it takes CUDA arrays, these are on the {device}"


def takes(operator: Operator) -> bool:
    """Whether there are kernels for it."""
    return operator.name in launch.OPERATORS


class _Stream(NamedTuple):
    """A stream as CuPy's launch wants it: whatever has such an attribute. Nothing becomes current."""

    ptr: int


class _Device:
    """A platform of `passes`: the device of this index."""

    def __init__(self, index: int) -> None:
        self.index = index

    def _current(self) -> AbstractContextManager[Any]:
        """Makes the device current where another one is."""
        import cupy

        if cupy.cuda.runtime.getDevice() == self.index:
            return nullcontext()
        device: AbstractContextManager[Any] = cupy.cuda.Device(self.index)
        return device

    def limits(self) -> launch.Limits:
        return loader.limits(self.index)

    def kernel(self, plan: launch.Plan) -> Any:
        with self._current():
            return loader.function(plan, self.index)

    def launch(self, bound: Bound, addresses: tuple[int, ...], stream: int) -> None:
        with self._current():
            bound.kernel(
                (bound.blocks,),
                (bound.threads,),
                (*addresses, *bound.values),
                shared_mem=bound.dynamic,
                stream=_Stream(stream),
            )


def forward_of(call: Any, keep: bool) -> Forward:
    """The forward pass of a kind of call; ValueError for sizes that the kernels do not run."""
    del keep  # the kernel looks whether it is given an address
    return Forward(_Device(call.device), call)


def backward_of(call: Any, incoming: Sequence[Any]) -> Backward:
    """The backward pass of a kind of call whose results have gradients of these layouts, None for zero."""
    return Backward(_Device(call.device), call, incoming)


def warmup(D: int, Do: int, dtype: str) -> None:
    """Compile the kernels of every operator for these sizes and this dtype, for CuPy's current device."""
    import cupy

    device = _Device(cupy.cuda.Device().id)
    for operator in filter(takes, described.values()):
        for plan in plans_of(operator, D, Do, dtype, device.limits()):
            device.kernel(plan)
