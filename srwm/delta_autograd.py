"""torch operators of the delta rule: `srwm::delta_forward`, `srwm::delta_backward`, as `srwm.autograd`.

Letters and shapes: `srwm._delta_reference`.
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
from srwm.delta_ops import Gradients, check_gradients, check_operands

library.define(
    "delta_forward(Tensor q, Tensor k, Tensor v, Tensor beta, Tensor S, Tensor? reset, bool keep,"
    " bool return_state, str? backend, int? num_threads) -> (Tensor y, Tensor S_next, Tensor kept)"
)
library.define(
    "delta_backward(Tensor q, Tensor k, Tensor v, Tensor beta, Tensor S, Tensor? reset, Tensor kept,"
    " Tensor? grad_y, Tensor? grad_S_next, str? backend, int? num_threads)"
    " -> (Tensor gq, Tensor gk, Tensor gv, Tensor gbeta, Tensor gS)"
)

# Axes of each operand that are its own.
_CORES = (2, 2, 2, 1, 2, 1)


def _check(op: str, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, S: Any, reset: Any) -> tuple[int, ...]:
    for argument, a in (("k", k), ("v", v), ("beta", beta), ("S", S), ("reset", reset)):
        if a is not None:
            _checks.same_device(op, argument, a.device, q.device, of="q")
    return check_operands(op, q, k, v, beta, S, reset)


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    S: Tensor,
    reset: Tensor | None,
    keep: bool,
    return_state: bool,
    backend: str | None,
    num_threads: int | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    op, operands = "srwm.delta_forward", (q, k, v, beta, S, reset)
    plan = plan_of(_check, op, operands, backend)
    n = threads(op, num_threads)
    with on_device_of(q, plan.backend) as own:
        y, S_next, kept = plan.backend.delta_forward(
            *map(own.array, operands), plan.lead, keep=keep, return_state=return_state, num_threads=n
        )
        return own.tensor(y, q.dtype), own.tensor(S_next, q.dtype), own.tensor(kept)


def _forward_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    S: Tensor,
    reset: Tensor | None,
    keep: bool,
    return_state: bool,
    backend: str | None,
    num_threads: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    del num_threads
    lead = _check("srwm.delta_forward", q, k, v, beta, S, reset)
    (L, D), Do = q.shape[-2:], v.shape[-1]
    y, S_next = q.new_empty((*lead, L, Do)), q.new_empty((*lead, D, Do) if return_state else 0)
    if not keep:
        return y, S_next, q.new_empty(0)
    module = _dispatch.resolve("srwm.delta_forward", q.device.type, backend)
    dtype = wide_dtype(q)
    kept_dtype = np.dtype(str(dtype).removeprefix("torch."))
    shape = module.delta_kept_shape(kept_dtype, lead, L, int(D), int(Do))
    return y, S_next, q.new_empty(shape, dtype=dtype)


def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    S: Tensor,
    reset: Tensor | None,
    kept: Tensor,
    grad_y: Tensor | None,
    grad_S_next: Tensor | None,
    backend: str | None,
    num_threads: int | None,
) -> tuple[Tensor, ...]:
    op, operands = "srwm.delta_backward", (q, k, v, beta, S, reset)
    plan = plan_of(_check, op, operands, backend)
    if grad_y is None:
        grad_y = q.new_zeros(()).expand((*plan.lead, q.shape[-2], v.shape[-1]))
    n = threads(op, num_threads)
    with on_device_of(q, plan.backend) as own:
        gradients = plan.backend.delta_backward(
            *map(own.array, operands),
            plan.lead,
            *map(own.array, (kept.contiguous(), grad_y, grad_S_next)),
            num_threads=n,
        )
        return tuple(own.tensor(g, q.dtype) for g in gradients)


def _backward_fake(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, S: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    del rest
    return tuple(t.new_empty(t.shape) for t in (q, k, v, beta, S))


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *operands, keep, return_state, ctx.backend, ctx.num_threads = inputs
    if not keep:
        raise RuntimeError(
            "srwm::delta_forward: a gradient is wanted of a call with keep=False; call srwm.delta_forward, "
            "which sets it, or pass keep=True"
        )
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[2 if return_state else 1 :])
    ctx.save_for_backward(*operands, output[2])


def _gradients(
    ctx: Any, grad_y: Tensor | None, grad_S_next: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad_y is None and grad_S_next is None:
        return (None,) * 10
    operands = (*ctx.saved_tensors, grad_y, grad_S_next)
    gradients = _backward_of(operands)(*operands, ctx.backend, ctx.num_threads)
    return (*gradients, None, None, None, None, None)


def _lead_of(axes: tuple[Any, ...], operands: tuple[Any, ...]) -> int:
    """Leading axes of the operands besides the vmapped one."""
    return max(own_lead(*of) for of in zip(operands, axes, _CORES, strict=False))


def _batched(axes: tuple[Any, ...], operands: tuple[Any, ...], lead: int, size: int) -> list[Tensor | None]:
    """The operands with the vmapped axis (of `size`) in front of exactly `lead` leading axes."""
    return [
        batch_first(t, axis, core, lead, size)
        for t, axis, core in zip(operands, axes, _CORES, strict=False)
    ]


def _forward_vmap(
    info: Any, axes: tuple[Any, ...], *arguments: Any
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    operands, options = arguments[:6], arguments[6:]
    lead = _lead_of(axes, operands)
    batched = _batched(axes, operands, lead, info.batch_size)
    keep, return_state = options[:2]
    return torch.ops.srwm.delta_forward(*batched, *options), (
        0,
        0 if return_state else None,
        0 if keep else None,
    )


def _backward_vmap(
    info: Any, axes: tuple[Any, ...], *arguments: Any
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    operands, (kept, grad_y, grad_S_next, *options) = arguments[:6], arguments[6:]
    if axes[6] is None:
        backward, fixed = torch.ops.srwm.delta_backward, (*operands, kept)
        return one_by_one(backward, fixed, (grad_y, grad_S_next), axes[7:9], options, info.batch_size)
    lead, size = _lead_of(axes, operands), info.batch_size
    batched = [
        batch_first(t, axis, core, lead, size)
        for t, axis, core in zip(operands, axes, _CORES, strict=False)
    ]
    gradients = torch.ops.srwm.delta_backward(
        *batched,
        kept.movedim(axes[6], 0),
        batch_first(grad_y, axes[7], 2, lead, size),
        batch_first(grad_S_next, axes[8], 2, lead, size),
        *options,
    )
    own = [own_lead(*of) for of in zip(operands[:5], axes, _CORES, strict=False)]
    return tuple(g.reshape(size, *g.shape[1 + lead - n :]) for g, n in zip(gradients, own, strict=True)), (
        0,
    ) * 5


register("delta_forward", _forward, _forward_fake, _gradients, _save_for_backward, _forward_vmap)
register(
    "delta_backward",
    _backward,
    _backward_fake,
    no_second_derivative("srwm.delta_backward"),
    None,
    _backward_vmap,
)
_differentiable_forward = differentiable(6, _forward, _gradients)


def _forward_of(operands: tuple[Tensor | None, ...], wants_gradient: bool) -> Any:
    """What to call for srwm::delta_forward of these operands, see `is_plain`."""
    if not is_plain(operands):
        refuse_tangents("srwm.delta_forward", operands)
        return torch.ops.srwm.delta_forward
    return _differentiable_forward if wants_gradient else _forward


def _backward_of(operands: tuple[Tensor | None, ...]) -> Any:
    """As `_forward_of`, for srwm::delta_backward; it is the operator that refuses to be differentiated."""
    if torch.is_grad_enabled() or not is_plain(operands):
        return torch.ops.srwm.delta_backward
    return _backward


def _operands(op: str, q: Tensor, k: Any, v: Any, beta: Any, S: Any, reset: Any) -> tuple[Any, ...]:
    """All operands as tensors of one dtype, a missing S as zeros; raises for what is none."""
    require_tensors(op, q, "q", k=k, v=v, beta=beta, S=S, reset=reset)
    if S is None:
        S = q.new_zeros(()).expand(q.shape[-1], v.shape[-1])
    return (*(same_dtype_under_autocast(t, S) for t in (q, k, v, beta)), S, reset)


def delta_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    S: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    return_state: bool = False,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """`srwm.delta_forward` of tensors: differentiable in all but reset, also through the returned state."""
    operands = _operands("srwm.delta_forward", q, k, v, beta, S, reset)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in operands[:5])
    run = _forward_of(operands, keep)
    y, S_next, _ = run(*operands, keep, return_state, backend, num_threads)
    return (y, S_next) if return_state else y


def delta_vjp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    S: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[tuple[Tensor, Tensor], Callable[..., Gradients]]:
    """`srwm.delta_vjp` of tensors; its results are detached from any graph."""
    op = "srwm.delta_vjp"
    operands = _operands(op, q, k, v, beta, S, reset)
    lead = _check(op, *operands)
    # The pullback must not see what the caller does to the operands afterwards.
    operands = tuple(t if t is None else t.detach().clone() for t in operands)
    y, S_next, kept = _forward_of(operands, False)(*operands, True, True, backend, num_threads)

    def pullback(grad_y: Tensor, grad_S_next: Tensor | None = None) -> Gradients:
        check_gradients(op, operands[0], lead, operands[2], grad_y, grad_S_next)
        all_operands = (*operands, kept, grad_y, grad_S_next)
        with torch.no_grad():
            gq, gk, gv, gbeta, gS = _backward_of(all_operands)(*all_operands, backend, num_threads)
        return gq, gk, gv, gbeta, None if S is None else gS

    return (y, S_next), pullback


def delta_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    S: Tensor | None,
    grad_y: Tensor,
    grad_S_next: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Gradients:
    """`srwm.delta_backward` of tensors; its results are detached from any graph."""
    op = "srwm.delta_backward"
    operands = _operands(op, q, k, v, beta, S, reset)
    lead = _check(op, *operands)
    check_gradients(op, operands[0], lead, operands[2], grad_y, grad_S_next)
    with torch.no_grad():
        _, _, kept = _forward_of(operands, False)(*operands, True, False, backend, num_threads)
        operands = (*operands, kept, grad_y, grad_S_next)
        gq, gk, gv, gbeta, gS = _backward_of(operands)(*operands, backend, num_threads)
    return gq, gk, gv, gbeta, None if S is None else gS
