"""The CUDA backend: kernels that CuPy compiles, launched on addresses in the caller's stream.

A pass is one launch, and one more for each gradient that is a sum. It never waits for the device, and no
data go through the host. The caller allocates all memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from srwm._cy import launch
from srwm._cy.cuda import Backward, Forward, configs_of
from srwm._cy.cuda import saved_of as saved_of
from srwm._layouts import Call, Layout
from srwm._raw_kernels import loader
from srwm.operators.spec import Operator

RUNS_ON_ARRAYS = False
NEEDS_ALIGNMENT = True  # a kernel's strides count whole entries


@cache
def unusable() -> str | None:
    """Why this backend cannot run here."""
    try:
        import cupy
    except ImportError as missing:
        return f"CuPy cannot be imported ({missing}); install srwm[cuda12] or srwm[cuda13]"
    if cupy.cuda.runtime.is_hip:
        return "CuPy is built for ROCm, and these kernels run on CUDA alone; use CPU arrays"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CUDA finds no device ({error})"
    return None if count else "there is no CUDA device"


def declines(device: str) -> str | None:
    """Why this backend does not take arrays of `device` ("cpu", "cuda", "rocm")."""
    return None if device == "cuda" else f"it takes CUDA arrays, these are on the {device} device"


def takes(operator: Operator) -> bool:
    """Whether there are kernels for this operator."""
    return operator.name in launch.OPERATORS


class Device:
    """A driver of `srwm._cy.cuda`: the device with this index."""

    def __init__(self, index: int) -> None:
        import cupy

        self.index, self._cuda = index, cupy.cuda
        # Used by every launch, so looked up only once.
        self._current, self._context = cupy.cuda.runtime.getDevice, cupy.cuda.driver.ctxGetCurrent
        self._launch = cupy.cuda.driver.launchKernel

    def limits(self) -> launch.Limits:
        """The limits of this device."""
        return loader.limits(self.index)

    def kernel(self, config: launch.Config, stream: int) -> int:
        """The handle of a kernel. It stays loaded. RuntimeError if it is not, and `stream` is captured."""
        with self._cuda.Device(self.index):
            handle: int = loader.function(config, self.index, stream).kernel.ptr
        return handle

    def launch(
        self, kernel: int, blocks: int, threads: int, shared_bytes: int, stream: int, extra: int
    ) -> None:
        """Launch a kernel; make this device current if the thread has no context or that of another one."""
        current = self._current()
        if current != self.index or not self._context():
            self._cuda.runtime.setDevice(self.index)
        try:
            self._launch(kernel, blocks, 1, 1, threads, 1, 1, shared_bytes, stream, 0, extra)
        finally:
            if current != self.index:
                self._cuda.runtime.setDevice(current)


def forward_of(call: Call, keep: bool) -> Forward:
    """The forward pass of calls of one kind; ValueError for sizes that the kernels do not support."""
    del keep  # the kernel saves if it gets an address
    return Forward(Device(call.device), call)


def backward_of(call: Call, incoming: Sequence[Layout | None]) -> Backward:
    """The backward pass of calls of one kind, for gradients with these layouts, None for zero."""
    return Backward(Device(call.device), call, incoming)


def warmup(operators: Sequence[Operator], D: int, Do: int, dtype: str) -> None:
    """Compile the kernels of operators for these sizes and this dtype, for CuPy's current device."""
    import cupy

    device = Device(cupy.cuda.Device().id)
    for operator in filter(takes, operators):
        *_, width = operator.output.shape((), {"L": 1, "D": D, "Do": Do})  # D where its matrices are square
        for config in configs_of(operator, D, width, dtype, device.limits()):
            device.kernel(config, cupy.cuda.get_current_stream().ptr)
