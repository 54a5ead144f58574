"""Runs the step of an operator over sequences: time, resets, states, broadcast axes, any array namespace.

Nothing is written into an array, so that it runs under every transform of torch. The matrices before every
step are saved for backward, O(L D M) memory; the other backends save fewer and recompute the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from srwm.operators.spec import Operand, Operator
from srwm.reference.arrays import cast, namespace, widen, zeros


def _at(operand: Operand, a: Any, t: int) -> Any:
    """The entry of step t."""
    at = (..., t, *(slice(None),) * (operand.core - 1 - operand.letters.index("L")))
    return a[at]


def _copy(xp: Any, a: Any) -> Any:
    """A copy, for results that are an operand or an incoming gradient: results share no memory."""
    return xp.stack([a])[0]


def sum_to_shape(xp: Any, g: Any, shape: tuple[int, ...]) -> Any:
    """The gradient of an array of `shape`, from g, that of its broadcast: sums over the new axes."""
    if tuple(g.shape) == tuple(shape):
        return g
    added = len(g.shape) - len(shape)
    axes = (
        *range(added),
        *(added + i for i, n in enumerate(shape) if n == 1 != g.shape[added + i]),
    )
    return xp.reshape(xp.sum(g, axis=axes), shape)


class _Operands:
    """The operands of a call by role, in the precision of the computation."""

    def __init__(
        self, op: Operator, flat: Sequence[Any], lead: Sequence[int], sizes: Mapping[str, int]
    ) -> None:
        self.op, self.lead = op, tuple(lead)
        self.xp = xp = namespace(flat[0])
        self.steps = sizes["L"]
        self.data = [(op.flat[i], widen(xp, flat[i])) for i in op.places("data")]
        self.parameters = [widen(xp, flat[i]) for i in op.places("parameter")]
        self.zeros = [zeros(operand.shape(lead, sizes), self.data[0][1]) for operand in op.initials]
        self.initials = [
            self._matrix(flat[i], zero) for i, zero in zip(op.places("initial"), self.zeros, strict=True)
        ]
        self.states = [
            initial if flat[i] is None else self._matrix(flat[i], initial)
            for i, initial in zip(op.places("state"), self.initials, strict=True)
        ]
        self.reset, self.mask = (
            None if place is None else flat[place] for place in (op.place("reset"), op.place("mask"))
        )
        if self.reset is not None and self.mask is not None:  # a reset at padding is none
            self.reset = self.reset & self.mask

    def _matrix(self, a: Any, zero: Any) -> Any:
        return zero if a is None else self.xp.broadcast_to(widen(self.xp, a), zero.shape)

    def arguments(self, t: int, matrices: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments of step t. Padding is zero there: it may be NaN."""
        data = (self.where_real(t, operand, _at(operand, a, t)) for operand, a in self.data)
        return (*data, *self.parameters, *matrices)

    def where_real(self, t: int, operand: Operand, a: Any, elsewhere: Any = None) -> Any:
        """An entry of step t, or a matrix; where that step is padding, `elsewhere` or zero."""
        if self.mask is None:
            return a
        at = (..., t, *(None,) * (operand.core - ("L" in operand.letters)))
        return self.xp.where(self.mask[at], a, self.xp.zeros_like(a) if elsewhere is None else elsewhere)

    def where_reset(self, t: int, there: Sequence[Any], elsewhere: Sequence[Any]) -> list[Any]:
        """Matrices: `there` for the sequences that reset before step t, `elsewhere` for the others."""
        if self.reset is None:
            return list(elsewhere)
        return [
            self.xp.where(self.reset[at], a, b)
            for operand, a, b in zip(self.op.initials, there, elsewhere, strict=True)
            for at in [(..., t, *(None,) * operand.core)]
        ]

    def stacked(self, operand: Operand, steps: Sequence[Any], shape: tuple[int, ...]) -> Any:
        """The entries of all steps as one array of this shape."""
        if not steps:
            return zeros(shape, self.zeros[0])
        axis = operand.letters.index("L") - operand.core
        entry = tuple(n for i, n in enumerate(shape) if i != len(shape) + axis)
        return self.xp.stack([self.xp.broadcast_to(step, entry) for step in steps], axis=axis)


def saved_shape(op: Operator, lead: Sequence[Any], sizes: Mapping[str, Any]) -> tuple[Any, ...]:
    """Shape of the data that forward saves for backward: the matrices before each step."""
    return (*lead, sum(sizes["L"] * prod(operand.shape((), sizes)) for operand in op.initials))


def forward(
    op: Operator, flat: Sequence[Any], lead: Sequence[int], sizes: Mapping[str, int], save: bool
) -> tuple[Any, ...]:
    """The output, the matrices after the last step, and the data saved for backward (None without `save`).

    Parameters
    ----------
    op : Operator
    flat : sequence of arrays or None
        The checked operands, in the order of ``op.flat``.
    lead, sizes
        The broadcast of their leading axes, and the sizes of their letters.
    save : bool
        Whether `backward` will be called.
    """
    operands = _Operands(op, flat, lead, sizes)
    xp, matrices = operands.xp, operands.states
    outputs, before = [], []
    for t in range(operands.steps):
        matrices = operands.where_reset(t, operands.initials, matrices)
        before.append(matrices)
        y_t, *after = op.reference.step(xp, *operands.arguments(t, matrices), **op.by_setting)
        outputs.append(operands.where_real(t, op.output, y_t))
        matrices = [
            operands.where_real(t, *each) for each in zip(op.initials, after, matrices, strict=True)
        ]
    if not operands.steps:
        matrices = [_copy(xp, a) for a in matrices]
    y = operands.stacked(op.output, outputs, op.output.shape(lead, sizes))
    saved = None
    if save:
        flattened = (
            [
                xp.reshape(a, (*operands.lead, prod(operand.shape((), sizes))))
                for operand, steps in zip(op.initials, zip(*before, strict=True), strict=True)
                for a in steps
            ]
            if before
            else []
        )
        no_steps = zeros(saved_shape(op, lead, sizes), operands.zeros[0])
        saved = xp.concat(flattened, axis=-1) if flattened else no_steps
    given = [flat[i] for i in op.places("state")]
    next_states = [
        cast(xp, a, (flat[0] if s is None else s).dtype) for a, s in zip(matrices, given, strict=True)
    ]
    return cast(xp, y, flat[0].dtype), *next_states, saved


def backward(
    op: Operator,
    flat: Sequence[Any],
    lead: Sequence[int],
    sizes: Mapping[str, int],
    saved: Any,
    incoming: Sequence[Any],
) -> tuple[Any, ...]:
    """The gradients of the differentiable operands, of exactly their shapes; None if one is not given.

    `saved` is the last result of `forward`; `incoming` are the gradients of its other results, None for
    zero. The other arguments are those of `forward`.
    """
    operands = _Operands(op, flat, lead, sizes)
    xp, L = operands.xp, operands.steps
    grad_y, *grad_states = incoming
    shape_y = op.output.shape(lead, sizes)
    g_y = (
        zeros(shape_y, operands.zeros[0]) if grad_y is None else xp.broadcast_to(widen(xp, grad_y), shape_y)
    )
    G = [
        zero if g is None else xp.broadcast_to(widen(xp, g), zero.shape)
        for zero, g in zip(operands.zeros, grad_states, strict=True)
    ]
    before = _unflattened(op, operands, saved)
    of_initials = operands.zeros
    of_parameters = [zeros(o.shape(lead, sizes), operands.zeros[0]) for o in op.of_role("parameter")]
    of_data: list[list[Any]] = [[] for _ in operands.data]
    for t in range(L - 1, -1, -1):
        arguments = operands.arguments(t, [a[t] for a in before])
        gradients = op.reference.step_backward(xp, *arguments, _at(op.output, g_y, t), *G, **op.by_setting)
        for steps, (operand, _), g in zip(of_data, operands.data, gradients, strict=False):
            steps.insert(0, operands.where_real(t, operand, g))
        end = len(of_data) + len(of_parameters)
        of_parameters = [
            a + operands.where_real(t, operand, g)
            for a, operand, g in zip(
                of_parameters, op.of_role("parameter"), gradients[len(of_data) : end], strict=True
            )
        ]
        G = [operands.where_real(t, *each) for each in zip(op.initials, gradients[end:], G, strict=True)]
        at_reset = operands.where_reset(t, G, operands.zeros)
        if operands.reset is not None:
            of_initials = [a + g for a, g in zip(of_initials, at_reset, strict=True)]
            G = operands.where_reset(t, operands.zeros, G)

    if not L:
        G = [_copy(xp, g) for g in G]
    results: dict[int, Any] = {}
    for i, (operand, _), steps in zip(op.places("data"), operands.data, of_data, strict=True):
        results[i] = operands.stacked(operand, steps, operand.shape(lead, sizes))
    results |= dict(zip(op.places("parameter"), of_parameters, strict=True))
    for i, j, g, of_initial in zip(op.places("initial"), op.places("state"), G, of_initials, strict=True):
        results[i], results[j] = (of_initial + g, None) if flat[j] is None else (of_initial, g)
    return tuple(
        None
        if flat[i] is None
        else cast(xp, sum_to_shape(xp, results[i], tuple(flat[i].shape)), flat[i].dtype)
        for i in op.differentiable
    )


def _unflattened(op: Operator, operands: _Operands, saved: Any) -> list[list[Any]]:
    """For each initial operand, its matrices before each step, from the data that `forward` saved."""
    matrices, end = [], 0
    for zero, operand in zip(operands.zeros, op.initials, strict=True):
        shape = zero.shape
        entries = prod(shape[len(shape) - operand.core :])
        steps = []
        for _ in range(operands.steps):
            steps.append(operands.xp.reshape(saved[..., end : end + entries], shape))
            end += entries
        matrices.append(steps)
    return matrices
