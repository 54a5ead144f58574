"""The front end of torch tensors: plain ones go straight to their plan, others through the dispatcher.

Both roads run the same kernels (srwm/_torch_kernels.py). Nothing here names an operator.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from srwm import _checks, _dispatch, _torch_kernels
from srwm._cy.ordinary import wants_gradient
from srwm._layouts import Options, together
from srwm._torch_operator import differentiable, torch_operator
from srwm._torch_private import any_autocast, in_forward_mode, is_plain
from srwm.operators.spec import Operator

# By the operator's key, which torch's compiler can look up too.
_functions: dict[str, Any] = {}
_MOST_FUNCTIONS = 1024


def _function_of(op: Operator) -> Any:
    """The autograd Function of plain operands: (*flat, return_state, *options) -> results."""
    run, gradients = partial(_torch_kernels.forward, op, True), partial(_gradients, op)
    apply = differentiable(op, run, gradients, returns_saved=False)
    if len(_functions) >= _MOST_FUNCTIONS:  # of a program that changes a setting at every step
        _functions.clear()
    return _functions.setdefault(op.key, apply)


def _gradients(
    op: Operator, flat: tuple[Any, ...], saved: Tensor, incoming: tuple[Any, ...], *options: Any
) -> tuple[Any, ...]:
    """The gradients of the operands that have one, which can be differentiated in grad mode."""
    if not torch.is_grad_enabled() and is_plain((*flat, saved, *incoming)):
        return _torch_kernels.backward(op, flat, saved, incoming, *options)
    return torch_operator(op).gradients(flat, saved, incoming, *op.values, *options)


def _as_tensors(op: Operator, verb: str, flat: tuple[Any, ...]) -> tuple[Any, ...]:
    """The operands, checked to be tensors or None.

    Under autocast data operands are cast to the dtype of the initial matrices: the precision of what grows
    decides.
    """
    name = op.verb(verb)
    for operand, t in zip(op.flat, flat, strict=True):
        if not isinstance(t, Tensor) and not (t is None and operand.optional):
            _checks.array(name, operand.name, t)
            _checks.same_kind(name, operand.name, t, flat[0], of=op.flat[0].name)
    device = flat[0].device.type
    if device in _torch_kernels.WITH_AUTOCAST and torch.is_autocast_enabled(device):
        matrices = op.places("initial", "parameter")
        dtype = next((flat[i].dtype for i in matrices if flat[i] is not None), flat[0].dtype)
        data = op.places("data")
        flat = tuple(t.to(dtype) if i in data and t is not None else t for i, t in enumerate(flat))
    return flat


def forward(op: Operator, flat: tuple[Any, ...], return_state: bool, options: Options) -> Any:
    """See `srwm._call.forward`; differentiable in every operand but flags, also through the matrices."""
    plain = is_plain(flat) and not any_autocast()
    if not plain:
        flat = _as_tensors(op, "forward", flat)
        plain = is_plain(flat)
    results: Any
    if not plain:
        _checks.dense(op.verb("forward"), op.names, flat)
        operator = torch_operator(op)
        if in_forward_mode(flat):
            results = operator.reference(op, flat)
        else:
            results = operator.forward(*flat, None, return_state, *op.values, *options)[:-1]
    elif torch.is_grad_enabled() and wants_gradient(flat):
        results = (_functions.get(op.key) or _function_of(op))(*flat, return_state, *options)
    else:
        results = _torch_kernels.forward(op, False, flat, return_state, *options)[:-1]
    return (results[0], together(results[1:])) if return_state else results[0]


class _Prepared(NamedTuple):
    """Checked operands; see `srwm._call.Prepared`. All results are detached from any graph."""

    op: Operator
    flat: tuple[Any, ...]
    shapes: tuple[tuple[int, ...], ...]
    options: Options

    @property
    def arrays(self) -> tuple[Any, ...]:
        return self.flat

    def own(self) -> _Prepared:
        return self._replace(flat=tuple(None if t is None else t.clone() for t in self.flat))

    @torch.no_grad()
    def forward(self, return_state: bool) -> tuple[Any, ...]:
        if is_plain(self.flat):
            return tuple(_torch_kernels.forward(self.op, True, self.flat, return_state, *self.options))
        saved = _dispatch.layout_of_saved()
        settings = self.op.values
        return torch_operator(self.op).forward(*self.flat, saved, return_state, *settings, *self.options)

    @torch.no_grad()
    def backward(self, saved: Any, incoming: tuple[Any, ...]) -> tuple[Any, ...]:
        return _gradients(self.op, self.flat, saved, incoming, *self.options)

    def given_back(self, results: tuple[Any, ...]) -> tuple[Any, ...]:
        return results


def prepare(op: Operator, verb: str, flat: tuple[Any, ...], options: Options) -> _Prepared:
    """The operands, checked and detached."""
    flat = _as_tensors(op, verb, flat)
    _checks.dense(op.verb(verb), op.names, flat)
    lead, sizes = _checks.operands(op, op.verb(verb), flat)
    _checks.one_device(op.verb(verb), op.names, _torch_kernels.devices_of(flat))
    kind = _torch_kernels.kind_of(flat[0].device)
    if kind != "meta":
        _dispatch.resolve(op.verb(verb), op, kind, options[0])  # the message names the verb
    shapes = tuple(result.shape(lead, sizes) for result in op.results)
    return _Prepared(op, tuple(None if t is None else t.detach() for t in flat), shapes, options)
