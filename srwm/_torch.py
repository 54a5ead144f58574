"""The front end of torch tensors: plain ones go straight to their plan, others through the dispatcher.

Both roads run the same kernels (srwm/_torch_kernels.py). Nothing here names an operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from srwm import _checks, _torch_kernels
from srwm._call import as_arguments, several, together
from srwm._torch_operator import torch_operator
from srwm._torch_private import in_forward_mode, is_plain
from srwm.operators.spec import Operator

_functions: dict[str, Any] = {}  # by the operator's name, which torch's compiler can look up too


_WITH_AUTOCAST = ("cpu", "cuda")


def _function(op: Operator) -> Any:
    """The autograd Function of plain operands: (*flat, return_state, backend, num_threads) -> results."""
    n = len(op.flat)

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> tuple[Tensor | None, ...]:
            flat, return_state, ctx.options = arguments[:n], arguments[n], arguments[n + 1 :]
            *results, saved = _torch_kernels.forward(op, flat, True, return_state, *ctx.options)
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*flat, saved)
            return tuple(results)

        @staticmethod
        def backward(ctx: Any, *incoming: Tensor | None) -> tuple[Any, ...]:
            *flat, saved = ctx.saved_tensors
            result: list[Any] = [None] * (n + 3)
            found: Any
            if all(g is None for g in incoming):
                return tuple(result)
            tensors = (*flat, saved, *incoming)
            if torch.is_grad_enabled() or not is_plain(tensors):
                operator = torch_operator(op)
                given = operator.gradients(tuple(flat), saved, incoming, *ctx.options)
                found = zip(operator.given(tuple(flat)), given, strict=True)
            else:
                gradients = _torch_kernels.backward(op, tuple(flat), saved, incoming, *ctx.options)
                found = zip(op.differentiable, gradients, strict=True)
            for i, g in found:
                result[i] = g
            return tuple(result)

    # Function.apply itself would look once more for functorch's wrappers, at the price of a kernel.
    apply = _functions[op.name] = super(torch.autograd.Function, Differentiable).apply
    return apply


def _tensors(op: Operator, verb: str, flat: tuple[Any, ...]) -> tuple[Any, ...]:
    """The operands, all of them tensors or None; under autocast in the dtype of the initial matrices."""
    x = flat[0]
    for operand, t in zip(op.flat, flat, strict=True):
        if not (t is None and operand.optional) and not isinstance(t, Tensor):
            name = op.verb(verb)
            _checks.array(name, operand.name, t)
            _checks.same_kind(name, operand.name, t, x, of=op.flat[0].name)
    if x.device.type in _WITH_AUTOCAST and torch.is_autocast_enabled(x.device.type):
        return _under_autocast(op, flat)
    return flat


def _under_autocast(op: Operator, flat: tuple[Any, ...]) -> tuple[Any, ...]:
    """Data operands in the dtype of the initial matrices: the precision of what grows decides."""
    initial = next((flat[i] for i in op.places("initial", "parameter") if flat[i] is not None), flat[0])
    data = op.places("data")
    return tuple(t.to(initial.dtype) if i in data and t is not None else t for i, t in enumerate(flat))


def _refuse_layouts(op: Operator, verb: str, flat: tuple[Any, ...]) -> None:
    """Raise TypeError for tensors that are not dense: sparse, nested, quantised."""
    for operand, t in zip(op.flat, flat, strict=True):
        if t is not None and (t.layout is not torch.strided or t.is_nested or t.is_quantized):
            kind = "nested" if t.is_nested else "quantized" if t.is_quantized else str(t.layout)
            raise TypeError(
                f"{op.verb(verb)}: {operand.name}: expected a dense tensor, got a {kind} one; make it "
                "dense first (to_dense, dequantize, torch.nested.to_padded_tensor)"
            )


def _options(op: Operator, verb: str, num_threads: Any) -> int | None:
    return None if num_threads is None else _checks.thread_count(op.verb(verb), "num_threads", num_threads)


def forward(
    op: Operator, flat: tuple[Any, ...], return_state: bool, backend: str | None, num_threads: Any
) -> Any:
    """See `srwm._call.forward`; differentiable in every operand but flags, also through the matrices."""
    flat = _tensors(op, "forward", flat)
    if num_threads is not None:
        num_threads = _options(op, "forward", num_threads)
    results: tuple[Any, ...]
    if not is_plain(flat):
        results = _dispatched(op, flat, return_state, backend, num_threads)
    elif torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in flat):
        results = (_functions.get(op.name) or _function(op))(*flat, return_state, backend, num_threads)
    else:
        results = _torch_kernels.forward(op, flat, False, return_state, backend, num_threads)[:-1]
    return (results[0], together(results[1:])) if return_state else results[0]


def _dispatched(
    op: Operator, flat: tuple[Any, ...], return_state: bool, backend: str | None, num_threads: int | None
) -> tuple[Tensor, ...]:
    """The results through torch's dispatcher, under whatever is active."""
    _refuse_layouts(op, "forward", flat)
    operator = torch_operator(op)
    if in_forward_mode(flat):
        return operator.reference(flat)
    results: tuple[Tensor, ...] = operator.forward(*flat, False, return_state, backend, num_threads)
    return results[:-1]


def vjp(
    op: Operator, flat: tuple[Any, ...], backend: str | None, num_threads: Any
) -> tuple[tuple[Any, Any], Callable[..., tuple[Any, ...]]]:
    """See `srwm._call.vjp`; its results are detached from any graph."""
    flat = _tensors(op, "vjp", flat)
    num_threads = _options(op, "vjp", num_threads)
    lead, sizes = _checks.operands(op, op.verb("vjp"), flat)
    shapes = [result.shape(lead, sizes) for result in op.results]
    # The pullback must not see what the caller does to the operands afterwards.
    own = tuple(None if t is None else t.detach().clone() for t in flat)
    *results, saved = _saving_forward(op, own, True, backend, num_threads)

    def pullback(grad_y: Any, grad_state: Any = None) -> tuple[Any, ...]:
        grads = (grad_y, *several(op, op.verb("vjp"), grad_state))
        _check_gradients(op, "vjp", own, shapes, grads)
        return _pull_back(op, own, saved, grads, backend, num_threads)

    return (results[0], together(tuple(results[1:]))), pullback


def backward(
    op: Operator, flat: tuple[Any, ...], grad_y: Any, grad_state: Any, backend: str | None, num_threads: Any
) -> tuple[Any, ...]:
    """See `srwm._call.backward`; its results are detached from any graph."""
    flat = _tensors(op, "backward", flat)
    num_threads = _options(op, "backward", num_threads)
    lead, sizes = _checks.operands(op, op.verb("backward"), flat)
    grads = (grad_y, *several(op, op.verb("backward"), grad_state))
    shapes = [result.shape(lead, sizes) for result in op.results]
    _check_gradients(op, "backward", flat, shapes, grads)
    own = tuple(None if t is None else t.detach() for t in flat)
    *_, saved = _saving_forward(op, own, False, backend, num_threads)
    return _pull_back(op, own, saved, grads, backend, num_threads)


def _saving_forward(
    op: Operator, flat: tuple[Any, ...], return_state: bool, backend: str | None, num_threads: int | None
) -> tuple[Any, ...]:
    """The results, and what backward wants."""
    with torch.no_grad():
        if is_plain(flat):
            return _torch_kernels.forward(op, flat, True, return_state, backend, num_threads)
        _refuse_layouts(op, "vjp", flat)
        return torch_operator(op).forward(*flat, True, return_state, backend, num_threads)


def _pull_back(
    op: Operator,
    flat: tuple[Any, ...],
    saved: Tensor,
    grads: tuple[Any, ...],
    backend: str | None,
    num_threads: int | None,
) -> tuple[Any, ...]:
    """The gradients of the operands as callers get them."""
    with torch.no_grad():
        if is_plain((*flat, saved, *grads)):
            gradients = _torch_kernels.backward(op, flat, saved, grads, backend, num_threads)
        else:
            gradients = torch_operator(op).backward(*flat, saved, *grads, backend, num_threads)
            gradients = tuple(
                None if flat[i] is None else g for i, g in zip(op.differentiable, gradients, strict=True)
            )
    return as_arguments(op, flat, gradients)


def _check_gradients(
    op: Operator, verb: str, flat: tuple[Any, ...], shapes: list[Any], grads: tuple[Any, ...]
) -> None:
    states = [flat[i] for i in op.places("state")]
    dtypes = [(flat[0] if state is None else state).dtype for state in states]
    _checks.gradients(op, op.verb(verb), flat[0], shapes, dtypes, grads)
