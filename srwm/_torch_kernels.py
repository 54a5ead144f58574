"""What runs on a device: a plan's passes on plain tensors. Both roads of the torch front end end here.

Results are torch's own tensors, so that their storages are as any other's. Nothing here looks at gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from srwm import _checks, _plan, _run
from srwm._cy import exchange
from srwm._plan import Plan
from srwm._threads import threads_asked_for
from srwm.operators.spec import Operator

DTYPES = {name: getattr(torch, name) for name in _checks.DTYPES}

Tensors = tuple[Tensor | None, ...]

WITH_AUTOCAST = ("cpu", "cuda")

_HAS_API = exchange.has_api(Tensor)  # torch's from 2.9 on
_DEVICE_TYPES = {"cpu": _plan.CPU, "cuda": _plan.CUDA}


def _described(t: Tensor) -> exchange.Description:
    size = t.element_size()
    strides = tuple(stride * size for stride in t.stride())
    device = (_DEVICE_TYPES.get(t.device.type, -1), t.device.index or 0)
    return t.data_ptr(), _checks.dtype_name(t.dtype), device, tuple(t.shape), strides


class _Tensors:
    """Dense tensors, as srwm/_run.py wants them."""

    @staticmethod
    def read(tensors: Tensors) -> exchange.Reading | None:
        if _HAS_API:
            return exchange.of_exchange(tensors, Tensor)
        return exchange.pack(None if t is None else _described(t) for t in tensors)

    @staticmethod
    def addresses(tensors: Tensors) -> tuple[int, ...]:
        return tuple(0 if t is None else t.data_ptr() for t in tensors)

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: str, like: Tensor) -> Tensor:
        return torch.empty(shape, dtype=DTYPES[dtype], device=like.device)

    @staticmethod
    def stream(like: Tensor) -> int:
        return torch.cuda.current_stream(like.device).cuda_stream if like.is_cuda else 0

    @staticmethod
    def room(like: Tensor) -> Callable[[int], tuple[int, Tensor]]:
        def room(size: int) -> tuple[int, Tensor]:
            memory = torch.empty(size, dtype=torch.uint8, device=like.device)
            return memory.data_ptr(), memory

        return room

    @staticmethod
    def own_precision(like: Tensor) -> AbstractContextManager[Any]:
        return own_precision(like)


_TENSORS = _Tensors()


def _prepared(op: Operator, flat: Tensors, backend: str | None) -> tuple[Plan, _Tensors, Tensors, Any]:
    """The plan of the operands, their library, they as the plan takes them, and where they are."""
    reading = _TENSORS.read(flat)
    plan = None if reading is None else _plan.find((op, backend, reading[0]))
    if plan is None:
        name = op.verb("forward")
        checked = _checks.operands(op, name, flat)
        assert reading is not None, "operands that pass the checks have a key"
        plan = _plan.make(op, name, checked, reading[0], backend)
    assert reading is not None
    if plan.copies:
        contiguous = torch.contiguous_format
        flat = tuple(
            t.clone(memory_format=contiguous) if t is not None and i in plan.copies else t
            for i, t in enumerate(flat)
        )
        return _prepared(op, flat, backend)
    return plan, _TENSORS, flat, reading[1]


def own_precision(like: Tensor) -> AbstractContextManager[Any]:
    """In it the reference computes in the precision of its operands, whatever autocast would make of it."""
    device = like.device.type
    if device in WITH_AUTOCAST and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _threads(num_threads: int | None) -> int:
    return num_threads or threads_asked_for() or torch.get_num_threads()


def forward(
    op: Operator,
    flat: Tensors,
    save: bool,
    return_state: bool,
    backend: str | None,
    num_threads: int | None,
) -> list[Any]:
    """The output, the matrices after the last step or None, and what backward wants or None."""
    return _run.forward(*_prepared(op, flat, backend), save, return_state, _threads(num_threads))


def backward(
    op: Operator,
    flat: Tensors,
    saved: Tensor,
    incoming: Tensors,
    backend: str | None,
    num_threads: int | None,
) -> Tensors:
    """The gradients of the operands that have one; None where they are not given."""
    prepared = _prepared(op, flat, backend)
    plan = prepared[0]
    x, name = flat[0], op.verb("backward")
    assert x is not None
    _check_saved(name, plan, saved, x)
    _checks.gradients(op, name, flat, plan.results, incoming, optional=True)
    for argument, g in zip(op.gradient_names, incoming, strict=True):
        if g is not None:
            _checks.same_device(name, argument, g.device, x.device, of=op.flat[0].name)
    return _run.backward(*prepared, saved, incoming, _threads(num_threads))


def _check_saved(name: str, plan: Plan, saved: Tensor, x: Tensor) -> None:
    """Raise unless `saved` can be what forward saved for backward: kernels trust what is in it."""
    shape, dtype = plan.saved
    if saved.dtype != DTYPES[dtype]:
        raise TypeError(
            f"{name}: saved: expected what forward saved, of dtype {dtype}, got {saved.dtype}; a hook on "
            "saved tensors must give back what it was given"
        )
    is_dense = saved.is_contiguous() and saved.data_ptr() % saved.element_size() == 0
    if tuple(saved.shape) != tuple(shape) or not is_dense or saved.device != x.device:
        raise ValueError(
            f"{name}: saved: expected what forward saved for these operands, contiguous and aligned, of "
            f"shape {tuple(shape)} on {x.device}, got shape {tuple(saved.shape)}, strides {saved.stride()} "
            f"at address {saved.data_ptr():#x} on {saved.device}; pass forward's last result as it is"
        )
