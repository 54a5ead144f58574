"""What runs on a device: a plan's passes on plain tensors. Both roads of the torch front end end here.

Results are torch's own tensors, so that their storages are as any other's. Nothing here looks at gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from srwm import _checks
from srwm._cy import exchange
from srwm._cy.recycled import room
from srwm._cy.run import known
from srwm._layouts import CPU, CUDA, ROCM, Reading
from srwm._plan import Plan, check_memory, find, ready
from srwm._threads import threads_asked_for
from srwm.operators.spec import Operator

DTYPES = {name: getattr(torch, name) for name in _checks.DTYPES}

Tensors = tuple[Tensor | None, ...]

WITH_AUTOCAST = ("cpu", "cuda")

_HAS_API = exchange.has_api(Tensor)  # torch's from 2.11 on
_DEVICE_TYPES = {"cpu": CPU, "cuda": CUDA, "rocm": ROCM}


def kind_of(device: torch.device) -> str:
    """The kind of a device, as `srwm._plan` has it: a build of PyTorch for ROCm calls its own "cuda"."""
    kind = device.type
    return "rocm" if kind == "cuda" and torch.version.hip else kind


def _described(tensors: Tensors) -> Reading | None:
    def described(t: Tensor) -> exchange.Description:
        strides, device = tuple(stride * t.element_size() for stride in t.stride()), t.device
        place = (_DEVICE_TYPES.get(kind_of(device), -1), device.index or 0)
        return t.data_ptr(), _checks.dtype_name(t.dtype), place, tuple(t.shape), strides

    return exchange.pack(None if t is None else described(t) for t in tensors)


def _addresses(tensors: Tensors) -> tuple[int, ...]:
    return tuple(0 if t is None else t.data_ptr() for t in tensors)


class _Tensors:
    """Dense tensors, as srwm/_cy/run.pyx wants them."""

    read = staticmethod(partial(exchange.of_exchange, Tensor) if _HAS_API else _described)
    addresses = staticmethod(partial(exchange.addresses_of_exchange, Tensor) if _HAS_API else _addresses)
    empty_like = staticmethod(torch.empty_like)

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: str, like: Tensor) -> Tensor:
        wanted = DTYPES[dtype]
        return like.new_empty(shape) if wanted is like.dtype else like.new_empty(shape, dtype=wanted)

    @staticmethod
    def threads() -> int:
        return threads_asked_for() or torch.get_num_threads()

    @staticmethod
    def stream(like: Tensor) -> int:
        if not like.is_cuda:
            return 0
        if _HAS_API:
            return exchange.current_stream(Tensor, CUDA, like.device.index)
        return torch.cuda.current_stream(like.device).cuda_stream

    @staticmethod
    def room(like: Tensor) -> Callable[[int], tuple[int, Any]]:
        def on_device(size: int) -> tuple[int, Tensor]:
            memory = torch.empty(size, dtype=torch.uint8, device=like.device)
            return memory.data_ptr(), memory

        return on_device if like.is_cuda else room

    @staticmethod
    def copy(tensor: Tensor) -> Tensor:
        size = tensor.element_size()
        if tensor.data_ptr() % size == 0:
            return tensor.clone(memory_format=torch.contiguous_format)
        # By bytes: torch's kernel on a device would stop at such an address.
        of_bytes = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(
            tensor.untyped_storage(),
            tensor.storage_offset() * size,
            (*tensor.shape, size),
            (*(stride * size for stride in tensor.stride()), 1),
        )
        return of_bytes.clone(memory_format=torch.contiguous_format).view(tensor.dtype)[..., 0]

    @staticmethod
    def own_precision(like: Tensor) -> AbstractContextManager[Any]:
        """In it the reference computes in its operands' precision, whatever autocast would make of it."""
        device = like.device.type
        if device in WITH_AUTOCAST and torch.is_autocast_enabled(device):
            return torch.autocast(device, enabled=False)
        return nullcontext()


_TENSORS = _Tensors()
own_precision = _TENSORS.own_precision


def devices_of(tensors: Tensors) -> list[torch.device | None]:
    """The device of each tensor."""
    return [None if t is None else t.device for t in tensors]


def forward(
    op: Operator,
    save: bool,
    flat: Tensors,
    return_state: bool,
    backend: str | None,
    num_threads: int | None,
) -> list[Any]:
    """The output, the matrices after the last step or None, and what backward wants or None."""
    if num_threads is not None:
        num_threads = _checks.thread_count(op.verb("forward"), "num_threads", num_threads)
    call = known(find, _TENSORS, op, flat, backend)
    call = call or ready(_TENSORS, op, "forward", flat, backend, _TENSORS.read(flat))
    return call.forward(save, return_state, num_threads)


def backward(
    op: Operator,
    flat: Tensors,
    saved: Tensor,
    incoming: Tensors,
    backend: str | None,
    num_threads: int | None,
) -> Tensors:
    """The gradients of the operands that have one; None where they are not given."""

    def check(plan: Plan) -> None:
        name = op.verb("backward")
        _check_saved(name, plan, saved, flat[0])
        _checks.gradients(op, name, flat, plan.results, incoming, optional=True)
        _checks.one_device(name, (op.names[0], *op.gradient_arguments), devices_of((flat[0], *incoming)))
        reading = _TENSORS.read((saved, *incoming))
        if plan.runs_on_arrays and reading is not None:  # others look at what they bind to
            check_memory(name, ("saved", *op.gradient_arguments), tuple(exchange.unpack(reading[0])))

    if num_threads is not None:
        num_threads = _checks.thread_count(op.verb("backward"), "num_threads", num_threads)
    call = known(find, _TENSORS, op, flat, backend)
    call = call or ready(_TENSORS, op, "backward", flat, backend, _TENSORS.read(flat))
    return call.backward(saved, incoming, num_threads, check)


def _check_saved(name: str, plan: Plan, saved: Tensor, x: Any) -> None:
    """Raise unless `saved` can be what forward saved for backward: kernels trust what is in it."""
    shape, dtype = plan.saved
    _checks.array(name, "saved", saved)
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
