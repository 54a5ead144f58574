"""CPU tensors that the torch front end takes for tensors of a device.

All of our Python in front of the driver runs on them: what is read of a tensor, the choice of the backend,
plans, streams, room for results, launches. Replaced are how a tensor is read, which gives its device, the
current stream, and working memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch

from srwm import _checks, _dispatch, _plan, _torch_kernels
from srwm._cy import exchange
from srwm._layouts import CUDA
from srwm._raw_kernels import backend as cuda
from tests.cuda_host import backend
from tests.cuda_host.platform import Platform


@dataclass
class Seen:
    """What a device was asked for.

    Attributes
    ----------
    stream : int
        The handle of the current stream, for calls from now on.
    launched : list of (kernel, stream)
        In their order.
    device : int
        The index of the device that tensors are on.
    devices : dict
        By the address of a tensor the index of its device, where that is another one.
    """

    stream: int = 11
    launched: list[tuple[str, int]] = field(default_factory=list)
    device: int = 0
    devices: dict[int, int] = field(default_factory=dict)


class Recording(Platform):
    """A driver that notes what it launches."""

    seen: Seen

    def launch(self, kernel: Any, blocks: int, threads: int, shared: int, stream: int, extra: int) -> None:
        """Run a kernel."""
        self.seen.launched.append((kernel.name, stream))
        super().launch(kernel, blocks, threads, shared, stream, extra)


@contextmanager
def taken_for_cuda() -> Iterator[Seen]:
    """Within, CPU tensors are on CUDA devices, for srwm; torch computes with them as ever."""
    seen = Seen()

    def described(t: torch.Tensor) -> exchange.Description:
        strides = tuple(t.element_size() * stride for stride in t.stride())
        device = (CUDA, seen.devices.get(t.data_ptr(), seen.device))
        return t.data_ptr(), _checks.dtype_name(t.dtype), device, tuple(t.shape), strides

    def read(tensors: tuple[Any, ...]) -> Any:
        return exchange.pack(None if t is None else described(t) for t in tensors)

    def room(like: torch.Tensor) -> Any:
        def of_device(size: int) -> tuple[int, Any]:
            memory = torch.empty(size, dtype=torch.uint8)
            return memory.data_ptr(), memory

        return of_device

    library = {"read": read, "room": room, "stream": lambda like: seen.stream}
    with mock.patch.multiple(
        _torch_kernels._Tensors, **{name: staticmethod(f) for name, f in library.items()}
    ):
        _forget()
        try:
            yield seen
        finally:
            _forget()


@contextmanager
def on_cuda() -> Iterator[Seen]:
    """The same, with a stand-in for the device too."""
    driver = Recording()
    bound = {
        "unusable": lambda: None,
        "forward_of": backend.forward_of,
        "backward_of": backend.backward_of,
    }
    with mock.patch.multiple(cuda, **bound), backend.on(driver), taken_for_cuda() as driver.seen:
        yield driver.seen


def _forget() -> None:
    _dispatch._resolve.cache_clear()
    _plan.forget()
