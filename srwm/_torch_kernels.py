"""What runs on a device: a plan's passes on plain tensors. Both roads of the torch front end end here.

Results are torch's own tensors, so that their storages are as any other's. Nothing here looks at gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from srwm import _checks, _plan
from srwm._cy import exchange
from srwm._plan import Plan
from srwm.operators.spec import Operator
from srwm.reference import loop

DTYPES = {name: getattr(torch, name) for name in _checks.DTYPES}

_HAS_API = exchange.has_api(Tensor)  # torch's from 2.9 on
_DEVICE_TYPES = {"cpu": _plan.CPU, "cuda": _plan.CUDA}


def read(tensors: tuple[Tensor | None, ...]) -> exchange.Reading | None:
    """The key and the addresses of dense tensors or None; None where one has no dtype of operators."""
    if _HAS_API:
        return exchange.of_exchange(tensors, Tensor)
    return exchange.pack(None if t is None else _described(t) for t in tensors)


def _described(t: Tensor) -> exchange.Description:
    size = t.element_size()
    strides = tuple(stride * size for stride in t.stride())
    device = (_DEVICE_TYPES.get(t.device.type, -1), t.device.index or 0)
    return t.data_ptr(), _checks.dtype_name(t.dtype), device, tuple(t.shape), strides


def _prepared(
    op: Operator, flat: tuple[Tensor | None, ...], backend: str | None
) -> tuple[Plan, tuple[Tensor | None, ...], tuple[int, ...]]:
    """The plan of the operands, they as it takes them, and where they are."""
    reading = read(flat)
    plan = None if reading is None else _plan.find((op, backend, reading[0]))
    if plan is None:
        name = op.verb("forward")
        checked = _checks.operands(op, name, flat)
        assert reading is not None, "operands that pass the checks have a key"
        plan = _plan.make(op, name, checked, reading[0], backend)
    assert reading is not None
    if plan.copies:
        flat = tuple(
            t.clone(memory_format=torch.contiguous_format) if t is not None and i in plan.copies else t
            for i, t in enumerate(flat)
        )
        return _prepared(op, flat, backend)
    return plan, flat, reading[1]


def _stream(x: Tensor) -> int:
    """The handle of the device's current stream; 0 on the CPU."""
    return torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0


def _address(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def forward(
    op: Operator,
    flat: tuple[Tensor | None, ...],
    save: bool,
    return_state: bool,
    backend: str | None,
    num_threads: int | None,
) -> tuple[Tensor | None, ...]:
    """The output, the matrices after the last step or None, and what backward wants or None."""
    plan, flat, addresses = _prepared(op, flat, backend)
    x, call = flat[0], plan.call
    assert x is not None
    if plan.runs_on_arrays:
        with torch.no_grad():
            y, *matrices, saved = loop.forward(op, flat, call.lead, call.sizes, save)
        return y, *(matrix if return_state else None for matrix in matrices), saved
    device = x.device
    y = torch.empty(plan.results[0], dtype=x.dtype, device=device)
    matrices = [
        torch.empty(shape, dtype=DTYPES[call.state_dtype], device=device) if return_state else None
        for shape in plan.results[1:]
    ]
    saved = None
    if save:
        shape, dtype = plan.saved
        saved = torch.empty(shape, dtype=DTYPES[dtype], device=device)
    threads = torch.get_num_threads() if num_threads is None else num_threads
    plan.forward(save)(
        *(addresses, (y.data_ptr(), *map(_address, matrices)), _address(saved)),
        *(threads, _stream(x), _room(device)),
    )
    return y, *matrices, saved


def backward(
    op: Operator,
    flat: tuple[Tensor | None, ...],
    saved: Tensor,
    incoming: tuple[Tensor | None, ...],
    backend: str | None,
    num_threads: int | None,
) -> tuple[Tensor | None, ...]:
    """The gradients of the operands that have one; None where they are not given."""
    plan, flat, addresses = _prepared(op, flat, backend)
    x, call = flat[0], plan.call
    assert x is not None
    _check_saved(op, plan, saved, x)
    name = op.verb("backward")
    _checks.gradients(op, name, flat, plan.results, incoming, optional=True)
    if plan.runs_on_arrays:
        with torch.no_grad():
            return loop.backward(op, flat, call.lead, call.sizes, saved, incoming)
    reading = read(incoming)
    assert reading is not None
    for argument, g in zip(op.gradient_names, incoming, strict=True):
        if g is not None:
            _checks.same_device(name, argument, g.device, x.device, of=op.flat[0].name)
    gradients = []
    for i in op.differentiable:
        t = flat[i]
        gradients.append(None if t is None else torch.empty(t.shape, dtype=t.dtype, device=t.device))
    threads = torch.get_num_threads() if num_threads is None else num_threads
    plan.backward(reading[0])(
        *(addresses, saved.data_ptr(), reading[1], tuple(map(_address, gradients))),
        *(threads, _stream(x), _room(x.device)),
    )
    return tuple(gradients)


def _room(device: torch.device) -> Any:
    def room(size: int) -> tuple[int, Tensor]:
        memory = torch.empty(size, dtype=torch.uint8, device=device)
        return memory.data_ptr(), memory

    return room


def _check_saved(op: Operator, plan: Plan, saved: Tensor, x: Tensor) -> None:
    """Raise unless `saved` can be what forward saved for backward: kernels trust what is in it."""
    shape, dtype = plan.saved
    name = op.verb("backward")
    if saved.dtype != DTYPES[dtype]:
        raise TypeError(
            f"{name}: saved: expected what forward saved, of dtype {dtype}, got {saved.dtype}; a hook on "
            "saved tensors must give back what it was given"
        )
    if tuple(saved.shape) != tuple(shape) or not saved.is_contiguous() or saved.device != x.device:
        raise ValueError(
            f"{name}: saved: expected what forward saved for these operands, contiguous, of shape "
            f"{tuple(shape)} on {x.device}, got shape {tuple(saved.shape)}, strides {saved.stride()} on "
            f"{saved.device}; pass forward's last result as it is"
        )
