"""CuPy without a device: its arrays lie in the memory of the host, srwm's kernels run on the CPU.

CuPy is the real one, down to its calls of CUDA (cuda_api.pyx). srwm's loader, device and launches are the
real ones, too; only the compiler is another. Tests marked `gpu` that take CuPy arrays run so, in a process
of their own:

    SRWM_TEST_CUDA=host python -m pytest -m gpu tests/test_cupy.py

Kernels of CuPy's own cannot run. srwm uses one, for copies, and here it gets another.
"""

from __future__ import annotations

import ctypes
import threading
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from tests.cuda_host import cuda_api
from tests.cuda_host.platform import parameters_of
from tests.cuda_host.raw_module import CudaHostError, Kernel, RawModule, cache_folder


class Launched(NamedTuple):
    """A launch as the driver saw it."""

    kernel: str
    device: int
    stream: int


class Cuda:
    """What tests ask and set; `cuda` is the one that is installed, or None.

    Attributes
    ----------
    api : module
        cuda_api.pyx: `capturing`, the handles of streams that are being captured; `with_context`, whether
        threads have one; `getDevice` and `setDevice`.
    launched : list of Launched
        In their order.
    """

    def __init__(self, api: Any) -> None:
        self.api = api
        self.launched: list[Launched] = []
        self._kernels: list[Kernel] = []
        self._lock = threading.Lock()  # kernels on the host run one at a time
        api.on_launch = self._run

    def module(self, *, code: str, options: tuple[str, ...]) -> Any:
        """Stands for cupy.RawModule."""
        return SimpleNamespace(
            get_function=lambda name: self._function(RawModule(code=code, options=options), name)
        )

    def _function(self, module: RawModule, name: str) -> Any:
        self._kernels.append(module.get_function(name))
        handle = SimpleNamespace(ptr=len(self._kernels))
        return SimpleNamespace(kernel=handle, max_dynamic_shared_size_bytes=0)

    def _run(self, handle: int, blocks: int, threads: int, shared: int, stream: int, extra: int) -> None:
        if not 1 <= handle <= len(self._kernels):
            raise CudaHostError(
                "expected one of srwm's kernels, got one that CuPy compiled; it cannot run here"
            )
        if not self.api.with_context:
            raise CudaHostError("a launch of a thread without a context")
        kernel = self._kernels[handle - 1]
        block, args = parameters_of(extra), []
        for size in kernel.sizes:
            args.append(block[:size])
            block = block[size:]
        with self._lock:
            kernel((blocks,), (threads,), tuple(args), shared_mem=shared)
        self.launched.append(Launched(kernel.name, self.api.getDevice(), stream))


def on_host(a: Any) -> np.ndarray:
    """The memory of a CuPy array as an array of NumPy, whatever its strides."""
    low = a.data.ptr + sum(min(0, (n - 1) * stride) for n, stride in zip(a.shape, a.strides, strict=True))
    high = a.data.ptr + sum(max(0, (n - 1) * stride) for n, stride in zip(a.shape, a.strides, strict=True))
    size = high - low + a.dtype.itemsize if a.size else 0
    memory = (ctypes.c_char * size).from_address(low)
    return np.ndarray(a.shape, a.dtype, memory, a.data.ptr - low if a.size else 0, a.strides)


def _copy(a: Any) -> Any:
    """What CuPy's ndarray.copy returns, whose kernel cannot run here."""
    import cupy

    if a.device.id != cupy.cuda.runtime.getDevice():
        raise CudaHostError("a copy to another device")
    if any(at % a.dtype.itemsize for at in (a.data.ptr, *a.strides)):
        raise CudaHostError("a copy of entries that are not aligned: a device would stop at them")
    copy = cupy.empty(a.shape, a.dtype)
    on_host(copy)[...] = on_host(a)
    return copy


def install() -> Cuda:
    """Put CUDA on the host under CuPy, for the rest of the process."""
    global cuda
    cuda = Cuda(cuda_api.install(cache_folder()))
    import cupy

    from srwm import _numpy

    cupy.cuda.set_allocator(None)  # without CuPy's pool, so that all memory is NaN before it is written
    cupy.RawModule = cuda.module
    _numpy._copied = _copy
    return cuda


cuda: Cuda | None = None
