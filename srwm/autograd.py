"""torch operators around the backends: `srwm::forward` and `srwm::backward`, with their gradients.

`forward`, `vjp` and `backward` here are what `srwm.forward` etc. call for tensors. The operators
underneath are registered with torch.library, so that torch.compile, autograd, vmap and meta tensors
know them; where none of these look on, a call goes past them (`srwm._tensors.is_plain`). Tensors and
arrays share memory both ways. Letters and shapes: `srwm._reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srwm import _checks, _dispatch
from srwm._tensors import (
    batch_first,
    differentiable,
    is_plain,
    library,
    no_second_derivative,
    on_device_of,
    one_by_one,
    own_lead,
    plan_of,
    refuse_tangents,
    register,
    require_tensors,
    same_dtype_under_autocast,
    threads,
    wide_dtype,
)
from srwm.delta_autograd import delta_backward, delta_forward, delta_vjp
from srwm.ops import check_gradients, check_operands

__all__ = ["backward", "delta_backward", "delta_forward", "delta_vjp", "forward", "vjp"]

library.define(
    "forward(Tensor x, Tensor W, Tensor? reset, bool keep, bool return_state, str? backend,"
    " int? num_threads) -> (Tensor y, Tensor W_next, Tensor kept)"
)
library.define(
    "backward(Tensor x, Tensor W, Tensor? reset, Tensor kept, Tensor? grad_y, Tensor? grad_W_next,"
    " str? backend, int? num_threads) -> (Tensor gx, Tensor gW)"
)


def _check(op: str, x: Tensor, W: Tensor, reset: Tensor | None) -> tuple[int, ...]:
    for argument, a in (("W", W), ("reset", reset)):
        if a is not None:
            _checks.same_device(op, argument, a.device, x.device)
    return check_operands(op, x, W, reset)


def _forward(
    x: Tensor,
    W: Tensor,
    reset: Tensor | None,
    keep: bool,
    return_state: bool,
    backend: str | None,
    num_threads: int | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    op = "srwm.forward"
    plan = plan_of(_check, op, (x, W, reset), backend)
    n = threads(op, num_threads)
    with on_device_of(x, plan.backend) as own:
        y, W_next, kept = plan.backend.forward(
            *(own.array(x), own.array(W), own.array(reset), plan.lead),
            keep=keep,
            return_state=return_state,
            num_threads=n,
        )
        return own.tensor(y, x.dtype), own.tensor(W_next, x.dtype), own.tensor(kept)


def _forward_fake(
    x: Tensor,
    W: Tensor,
    reset: Tensor | None,
    keep: bool,
    return_state: bool,
    backend: str | None,
    num_threads: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    del num_threads
    lead = _check("srwm.forward", x, W, reset)
    L, D, M = x.shape[-2], x.shape[-1], W.shape[-1]
    Do = M - 2 * D - 4
    y, W_next = x.new_empty((*lead, L, Do)), x.new_empty((*lead, D, M) if return_state else 0)
    if not keep:
        return y, W_next, x.new_empty(0)
    module = _dispatch.resolve("srwm.forward", x.device.type, backend)
    dtype = wide_dtype(x)
    shape = module.kept_shape(np.dtype(str(dtype).removeprefix("torch.")), lead, L, int(D), int(Do))
    return y, W_next, x.new_empty(shape, dtype=dtype)


def _backward(
    x: Tensor,
    W: Tensor,
    reset: Tensor | None,
    kept: Tensor,
    grad_y: Tensor | None,
    grad_W_next: Tensor | None,
    backend: str | None,
    num_threads: int | None,
) -> tuple[Tensor, Tensor]:
    op = "srwm.backward"
    plan = plan_of(_check, op, (x, W, reset), backend)
    if grad_y is None:
        Do = W.shape[-1] - 2 * x.shape[-1] - 4
        grad_y = x.new_zeros(()).expand((*plan.lead, x.shape[-2], Do))
    n = threads(op, num_threads)
    with on_device_of(x, plan.backend) as own:
        gx, gW = plan.backend.backward(
            *(own.array(x), own.array(W), own.array(reset), plan.lead),
            *(own.array(kept.contiguous()), own.array(grad_y), own.array(grad_W_next)),
            num_threads=n,
        )
        return own.tensor(gx, x.dtype), own.tensor(gW, x.dtype)


def _backward_fake(
    x: Tensor,
    W: Tensor,
    reset: Tensor | None,
    kept: Tensor,
    grad_y: Tensor | None,
    grad_W_next: Tensor | None,
    backend: str | None,
    num_threads: int | None,
) -> tuple[Tensor, Tensor]:
    del reset, kept, grad_y, grad_W_next, backend, num_threads
    return x.new_empty(x.shape), W.new_empty(W.shape)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, W, reset, keep, return_state, ctx.backend, ctx.num_threads = inputs
    if not keep:
        raise RuntimeError(
            "srwm::forward: a gradient is wanted of a call with keep=False; call srwm.forward, which sets "
            "it, or pass keep=True"
        )
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[2 if return_state else 1 :])
    ctx.save_for_backward(x, W, reset, output[2])


def _gradients(
    ctx: Any, grad_y: Tensor | None, grad_W_next: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    x, W, reset, kept = ctx.saved_tensors
    if grad_y is None and grad_W_next is None:
        return (None,) * 7
    operands = (x, W, reset, kept, grad_y, grad_W_next)
    gx, gW = _backward_of(operands)(*operands, ctx.backend, ctx.num_threads)
    return gx, gW, None, None, None, None, None


def _forward_vmap(
    info: Any, axes: tuple[Any, ...], x: Tensor, W: Tensor, reset: Tensor | None, *options: Any
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    lead = max(own_lead(x, axes[0], 2), own_lead(W, axes[1], 2), own_lead(reset, axes[2], 1))
    results = torch.ops.srwm.forward(
        batch_first(x, axes[0], 2, lead, info.batch_size),
        batch_first(W, axes[1], 2, lead, info.batch_size),
        batch_first(reset, axes[2], 1, lead, info.batch_size),
        *options,
    )
    keep, return_state = options[:2]
    return results, (0, 0 if return_state else None, 0 if keep else None)


def _backward_vmap(
    info: Any, axes: tuple[Any, ...], x: Tensor, W: Tensor, reset: Tensor | None, *rest: Any
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    kept, grad_y, grad_W_next, *options = rest
    if axes[3] is None:
        gradients = (grad_y, grad_W_next)
        fixed = (x, W, reset, kept)
        return one_by_one(torch.ops.srwm.backward, fixed, gradients, axes[4:6], options, info.batch_size)
    lead = max(own_lead(x, axes[0], 2), own_lead(W, axes[1], 2), own_lead(reset, axes[2], 1))
    size = info.batch_size
    gx, gW = torch.ops.srwm.backward(
        batch_first(x, axes[0], 2, lead, size),
        batch_first(W, axes[1], 2, lead, size),
        batch_first(reset, axes[2], 1, lead, size),
        kept.movedim(axes[3], 0),
        batch_first(grad_y, axes[4], 2, lead, size),
        batch_first(grad_W_next, axes[5], 2, lead, size),
        *options,
    )
    x_own, W_own = own_lead(x, axes[0], 2), own_lead(W, axes[1], 2)
    gx = gx.reshape(size, *gx.shape[1 + lead - x_own :])
    gW = gW.reshape(size, *gW.shape[1 + lead - W_own :])
    return (gx, gW), (0, 0)


register("forward", _forward, _forward_fake, _gradients, _save_for_backward, _forward_vmap)
register("backward", _backward, _backward_fake, no_second_derivative("srwm.backward"), None, _backward_vmap)
_differentiable_forward = differentiable(3, _forward, _gradients)


def _forward_of(operands: tuple[Tensor | None, ...], wants_gradient: bool) -> Any:
    """What to call for srwm::forward of these operands, see `is_plain`."""
    if not is_plain(operands):
        refuse_tangents("srwm.forward", operands)
        return torch.ops.srwm.forward
    return _differentiable_forward if wants_gradient else _forward


def _backward_of(operands: tuple[Tensor | None, ...]) -> Any:
    """As `_forward_of`, for srwm::backward; it is the operator that refuses to be differentiated."""
    return torch.ops.srwm.backward if torch.is_grad_enabled() or not is_plain(operands) else _backward


def forward(
    x: Tensor,
    W: Tensor,
    *,
    reset: Tensor | None = None,
    return_state: bool = False,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """`srwm.forward` of tensors: differentiable in x and W, also through the returned state."""
    require_tensors("srwm.forward", x, "x", W=W, reset=reset)
    x = same_dtype_under_autocast(x, W)
    keep = torch.is_grad_enabled() and (x.requires_grad or W.requires_grad)
    run = _forward_of((x, W, reset), keep)
    y, W_next, _ = run(x, W, reset, keep, return_state, backend, num_threads)
    return (y, W_next) if return_state else y


def vjp(
    x: Tensor,
    W: Tensor,
    *,
    reset: Tensor | None = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[tuple[Tensor, Tensor], Callable[..., tuple[Tensor, Tensor]]]:
    """`srwm.vjp` of tensors; its results are detached from any graph."""
    op = "srwm.vjp"
    require_tensors(op, x, "x", W=W, reset=reset)
    _check(op, x, W, reset)
    # The pullback must not see what the caller does to x, W and reset afterwards.
    x, W = x.detach().clone(), W.detach().clone()
    reset = None if reset is None else reset.clone()
    run = _forward_of((x, W, reset), False)
    y, W_next, kept = run(x, W, reset, True, True, backend, num_threads)
    y_shape, W_shape = tuple(y.shape), tuple(W_next.shape)

    def pullback(grad_y: Tensor, grad_W_next: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_gradients(op, x, y_shape, W_shape, grad_y, grad_W_next)
        operands = (x, W, reset, kept, grad_y, grad_W_next)
        with torch.no_grad():
            gx, gW = _backward_of(operands)(*operands, backend, num_threads)
        return gx, gW

    return (y, W_next), pullback


def backward(
    x: Tensor,
    W: Tensor,
    grad_y: Tensor,
    grad_W_next: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`srwm.backward` of tensors; its results are detached from any graph."""
    op = "srwm.backward"
    require_tensors(op, x, "x", W=W, reset=reset)
    lead = _check(op, x, W, reset)
    Do = W.shape[-1] - 2 * x.shape[-1] - 4
    check_gradients(op, x, (*lead, x.shape[-2], Do), (*lead, *W.shape[-2:]), grad_y, grad_W_next)
    with torch.no_grad():
        run = _forward_of((x, W, reset), False)
        _, _, kept = run(x, W, reset, True, False, backend, num_threads)
        operands = (x, W, reset, kept, grad_y, grad_W_next)
        gx, gW = _backward_of(operands)(*operands, backend, num_threads)
    return gx, gW
