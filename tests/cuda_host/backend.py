"""The CUDA backend on a CPU: a row for the table of backends that takes NumPy arrays.

All of `srwm._raw_kernels` is under test but the few lines that call CuPy: configuration, allocation,
argument order, the kernels, the sums of gradients.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

from srwm._raw_kernels import delta_passes, passes
from srwm._raw_kernels.delta_passes import delta_kept_shape
from srwm._raw_kernels.passes import kept_shape
from tests.cuda_host.platform import Platform
from tests.cuda_host.raw_module import compiler

__all__ = [
    "BFLOAT16_AS_INT16",
    "backward",
    "declines",
    "delta_backward",
    "delta_forward",
    "delta_kept_shape",
    "forward",
    "kept_shape",
    "on",
    "running",
    "unusable",
]

BFLOAT16_AS_INT16 = True

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
    return None if device == "cpu" else f"it takes CPU arrays, these are on the {device}"


def forward(
    x: Any, W: Any, reset: Any, lead: tuple[int, ...], *, keep: bool, return_state: bool = True, **_: Any
) -> tuple[Any, Any, Any]:
    """As `srwm._raw_kernels.backend.forward`."""
    return passes.forward(_platforms[-1], x, W, reset, lead, keep=keep, return_state=return_state)


def backward(*operands: Any, **_: Any) -> tuple[Any, Any]:
    """As `srwm._raw_kernels.backend.backward`."""
    return passes.backward(_platforms[-1], *operands)


def delta_forward(
    *operands: Any, keep: bool, return_state: bool = True, num_threads: int | None = None
) -> tuple[Any, Any, Any]:
    """As `srwm._raw_kernels.backend.delta_forward`."""
    del num_threads
    return delta_passes.delta_forward(_platforms[-1], *operands, keep=keep, return_state=return_state)


def delta_backward(*operands: Any, **_: Any) -> tuple[Any, ...]:
    """As `srwm._raw_kernels.backend.delta_backward`."""
    return delta_passes.delta_backward(_platforms[-1], *operands)


RUNS_ON_ARRAYS = False
NEEDS_ALIGNMENT = True


def takes(op):
    return False
