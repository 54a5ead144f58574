"""The CUDA backend: CuPy arrays on their own device, in the caller's current stream.

Nothing waits for the device and nothing goes through the host: a pass is one launch, and one more for
each gradient that is a sum. Memory is that of CuPy's current allocator.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from srwm._cy import launch
from srwm._raw_kernels import delta_passes, loader, passes
from srwm._raw_kernels.delta_passes import delta_kept_shape
from srwm._raw_kernels.passes import kept_shape

__all__ = [
    "BFLOAT16_AS_INT16",
    "backward",
    "declines",
    "delta_backward",
    "delta_forward",
    "delta_kept_shape",
    "forward",
    "kept_shape",
    "unusable",
    "warmup",
]

BFLOAT16_AS_INT16 = True  # CuPy has no such type


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


class _Device:
    """A platform of `launching`: the current device, which is the one of this index."""

    def __init__(self, index: int) -> None:
        self.index = index

    def limits(self) -> launch.Limits:
        return loader.limits(self.index)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        import cupy

        return cupy.empty(shape, dtype)

    def launch(self, plan: launch.Plan, blocks: int, args: tuple[Any, ...], dynamic: int) -> None:
        kernel = loader.function(plan, self.index)
        kernel((blocks,), (plan.threads,), args, shared_mem=dynamic)


def forward(
    x: Any,
    W: Any,
    reset: Any,
    lead: tuple[int, ...],
    *,
    keep: bool,
    state: Any = None,
    return_state: bool = True,
    num_threads: int | None = None,
) -> tuple[Any, Any, Any]:
    """y (*lead, L, Do); W_next (*lead, D, M) and what backward wants, where asked for, or None."""
    del num_threads  # the CPU's
    with x.device as device:
        platform = _Device(device.id)
        return passes.forward(platform, x, W, state, reset, lead, keep=keep, return_state=return_state)


def backward(
    x: Any,
    W: Any,
    reset: Any,
    lead: tuple[int, ...],
    kept: Any,
    grad_y: Any,
    grad_W_next: Any,
    *,
    state: Any = None,
    num_threads: int | None = None,
) -> tuple[Any, ...]:
    """gx, gW and, where there is a state, gstate: of exactly their shapes."""
    del num_threads
    with x.device as device:
        operands = (x, W, state, reset, lead, kept, grad_y, grad_W_next)
        gx, gW, gstate = passes.backward(_Device(device.id), *operands)
        return (gx, gW) if state is None else (gx, gW, gstate)


def delta_forward(
    q: Any,
    k: Any,
    v: Any,
    beta: Any,
    S: Any,
    reset: Any,
    lead: tuple[int, ...],
    *,
    keep: bool,
    state: Any = None,
    return_state: bool = True,
    num_threads: int | None = None,
) -> tuple[Any, Any, Any]:
    """y (*lead, L, Do); S_next (*lead, D, Do) and what backward wants, where asked for, or None."""
    del num_threads
    with q.device as device:
        operands = (q, k, v, beta, S, state, reset, lead)
        return delta_passes.delta_forward(
            _Device(device.id), *operands, keep=keep, return_state=return_state
        )


def delta_backward(
    q: Any,
    k: Any,
    v: Any,
    beta: Any,
    S: Any,
    reset: Any,
    lead: tuple[int, ...],
    kept: Any,
    grad_y: Any,
    grad_S_next: Any,
    *,
    state: Any = None,
    num_threads: int | None = None,
) -> tuple[Any, ...]:
    """gq, gk, gv, gbeta, gS (or None) and, where there is a state, gstate: of exactly their shapes."""
    del num_threads
    with q.device as device:
        operands = (q, k, v, beta, S, state, reset, lead, kept, grad_y, grad_S_next)
        gradients = delta_passes.delta_backward(_Device(device.id), *operands)
        return gradients[:5] if state is None else gradients


def warmup(D: int, Do: int, storage: str) -> None:
    """Compile the kernels of these sizes and this dtype for the current device."""
    import cupy

    index = cupy.cuda.Device().id
    limits = loader.limits(index)
    plans = [
        launch.forward(D, Do, storage, limits),
        launch.backward(D, Do, storage, limits),
        launch.delta_forward(D, Do, storage, limits),
        launch.delta_backward(D, Do, storage, limits),
        launch.sum_pieces(storage),
    ]
    for plan in plans:
        loader.function(plan, index)
