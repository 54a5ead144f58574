"""An operator as torch's dispatcher knows it: schema, kernels, fake shapes, gradients, vmap.

All of it follows from the description.

Tensors that are compiled, traced, transformed or wrapped come this way. The autograd kernel is our own,
and goes on below autograd, so that every transform and mode sees operators that it knows. Second
derivatives and forward mode run through the reference in torch operations.

What does not do instead: the Function of torch.library.register_autograd has no setup_context, which
torch.func needs. A Function in front of operators without autograd runs its forward alone under compiled
torch.func, and gives zeros. Without grad mode while going on below autograd, second derivatives are
zeros; without the mode of forward derivatives, compiled hessians are. Forward mode is decided in two
places: before the dispatcher, where the reference can run under nested transforms, and in the autograd
kernel, where compiled calls arrive, for which there is an error. Default values in a schema are dropped
by the dispatcher where arguments equal them, so there are none.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from srwm import _checks, _dispatch, _torch_kernels
from srwm._dispatch import layout_of_saved
from srwm._layouts import Call
from srwm._torch_kernels import devices_of, own_precision
from srwm._torch_private import (
    Function,
    autograd_kernel_is_known,
    below_autograd,
    has_tangent,
    outer_level,
    single_level_autograd,
)
from srwm.operators.spec import Operator, described
from srwm.reference import loop

LIBRARY = torch.library.Library("srwm", "DEF")

_TYPES = {float: "float", int: "int", str: "str"}  # of settings in a schema


class TorchOperator:
    """The two operators of torch.library for one operator: `forward` and `backward`.

    Their arguments: the operands in the order of ``op.flat``. Then of `forward` (save, return_state, the
    settings, backend, num_threads) -> output, matrices, what backward wants; what is not wanted is empty.
    `save` is None, or the name of what is saved (`srwm._dispatch.layout_of_saved`): compilers keep what
    they compiled by the arguments, and the size of what is saved is in it. Of `backward` (what forward
    saved, the gradients of the results or None, the settings, backend, num_threads) -> the gradients of the
    operands that have one, in the order of ``op.flat``; empty where one is not given. A list of those that
    are given would do, but for torch's older vmap, that of `is_grads_batched`: it calls an operator once
    for each entry, and knows how only where each result is a tensor.
    """

    def __init__(self, op: Operator) -> None:
        self.op, self.n = op, len(op.flat)
        names = f"{op.prefix}forward", f"{op.prefix}backward"
        operands = ", ".join(
            f"Tensor{'?' if operand.optional else ''} {_identifier(operand.name)}" for operand in op.flat
        )
        results = ", ".join(f"Tensor {result.name}" for result in op.results)
        gradients = ", ".join(f"Tensor? {name}" for name in op.gradient_names)
        settings = (f"{_TYPES[type(s.default)]} {s.name}, " for s in op.settings)
        options = f"{''.join(settings)}str? backend, int? num_threads"
        LIBRARY.define(
            f"{names[0]}({operands}, str? save, bool return_state, {options}) -> ({results}, Tensor saved)"
        )
        returned = ", ".join(f"Tensor grad_{_identifier(op.flat[i].name)}" for i in op.differentiable)
        LIBRARY.define(f"{names[1]}({operands}, Tensor saved, {gradients}, {options}) -> ({returned})")
        self.forward, self.backward = (getattr(torch.ops.srwm, name).default for name in names)
        self._differentiable = differentiable(op, self._forward_below, self.gradients, returns_saved=True)
        self._twice_differentiable = _twice_differentiable(self)
        for verb, name in zip(("forward", "backward"), names, strict=True):
            kernel, fake, autograd, vmap = (
                getattr(self, f"_{verb}_{what}") for what in ("kernel", "fake", "autograd", "vmap")
            )
            for key in ("CPU", "CUDA"):
                LIBRARY.impl(name, kernel, key)
            LIBRARY.impl(name, autograd, "Autograd")
            torch.library.register_fake(f"srwm::{name}", fake, lib=LIBRARY)
            torch.library.register_vmap(f"srwm::{name}", vmap, lib=LIBRARY)

    def _with(self, flat: tuple[Any, ...], free: tuple[Tensor, ...]) -> tuple[Any, ...]:
        """The operands, those that are given and have a gradient replaced by `free`."""
        new = iter(free)
        differentiable = self.op.differentiable
        return tuple(next(new) if t is not None and i in differentiable else t for i, t in enumerate(flat))

    def _given(self, flat: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """The operands that are given and have a gradient."""
        return tuple(flat[i] for i in self.op.differentiable if flat[i] is not None)

    def _split(
        self, arguments: tuple[Any, ...], others: int
    ) -> tuple[Operator, tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
        """The operator with its settings, its operands, the `others` after these, and the last options."""
        flat, rest = arguments[: self.n], arguments[self.n :]
        return self.op.at(rest[others:-2]), flat, rest[:others], rest[-2:]

    # On a device, and without one

    def _forward_kernel(self, *arguments: Any) -> tuple[Tensor, ...]:
        op, flat, (save, return_state), options = self._split(arguments, 2)
        results = _torch_kernels.forward(op, save is not None, flat, return_state, *options)
        return tuple(flat[0].new_empty(0) if t is None else t for t in results)

    def _forward_fake(self, *arguments: Any) -> tuple[Tensor, ...]:
        op, flat, (save, return_state), (backend, _) = self._split(arguments, 2)
        x = flat[0]
        name = op.verb("forward")
        lead, sizes = _checks.operands(op, name, flat)
        _checks.one_device(name, op.names, devices_of(flat))
        y, dtype = x.new_empty(op.output.shape(lead, sizes)), op.state_dtype(flat)
        shapes = (result.shape(lead, sizes) if return_state else 0 for result in op.next_states)
        matrices = [x.new_empty(shape, dtype=dtype) for shape in shapes]
        if save is None or x.device.type == "meta":
            return y, *matrices, x.new_empty(0)
        dtypes = _checks.dtype_name(x.dtype), _checks.dtype_name(dtype)
        call = Call(op, (None,) * self.n, lead, sizes, *dtypes, 0)
        module = _dispatch.resolve(name, op, _torch_kernels.kind_of(x.device), backend)
        shape, saved = module.saved_of(call)
        return y, *matrices, x.new_empty(shape, dtype=_torch_kernels.DTYPES[saved])

    def _backward_kernel(self, *arguments: Any) -> tuple[Tensor, ...]:
        op, flat, (saved, *incoming), options = self._split(arguments, 1 + len(self.op.results))
        gradients = _torch_kernels.backward(op, flat, saved, tuple(incoming), *options)
        return tuple(flat[0].new_empty(0) if g is None else g for g in gradients)

    def _backward_fake(self, *arguments: Any) -> tuple[Tensor, ...]:
        op = self.op
        names = (*op.names, "saved", *op.gradient_arguments)
        _checks.one_device(op.verb("backward"), names, devices_of(arguments[: len(names)]))
        return tuple(
            arguments[0].new_empty(0)
            if arguments[i] is None
            else torch.empty_like(arguments[i], memory_format=torch.contiguous_format)
            for i in self.op.differentiable
        )

    # Gradients

    def _forward_autograd(self, *arguments: Any) -> tuple[Tensor, ...]:
        differentiable = (*arguments[: self.n], *arguments[self.n + 1 :])  # which always saves
        return self._autograd(self.forward, arguments, self._differentiable, differentiable)

    def _backward_autograd(self, *arguments: Any) -> tuple[Tensor, ...]:
        return self._autograd(self.backward, arguments, self._twice_differentiable, arguments)

    def _autograd(
        self, operator: Any, arguments: tuple[Any, ...], function: Any, of_function: tuple[Any, ...]
    ) -> Any:
        """An operator where no gradient is wanted, and its autograd Function where one is."""
        if not autograd_kernel_is_known:
            raise NotImplementedError(
                f"{self.op.verb('forward')}: expected a version of torch that srwm knows from inside, got "
                f"{torch.__version__}, where it runs on plain tensors alone; call it eagerly, outside of "
                "transforms, or use a version of torch within the range that srwm names"
            )
        if has_tangent(arguments):  # forward mode comes this far when compiled, and would give zeros
            raise NotImplementedError(
                f"{self.op.verb('forward')}: expected no forward-mode derivative (jvp, jacfwd, hessian, "
                "dual tensors) where the call is compiled; call it eagerly, or use reverse mode"
            )
        tensors = (t for t in arguments if isinstance(t, Tensor))
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):  # as seen at this level
            with single_level_autograd():
                return function(*of_function)
        with below_autograd():
            return operator(*arguments)

    @outer_level()
    def _forward_below(self, flat: tuple[Any, ...], *options: Any) -> Any:
        return self.forward(*flat, layout_of_saved(), *options)

    def gradients(
        self, flat: tuple[Any, ...], saved: Tensor, incoming: tuple[Any, ...], *options: Any
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the operands that have one, None where not given, in any mode."""
        _checks.dense(self.op.verb("backward"), self.op.gradient_arguments, incoming)
        if has_tangent((*flat, saved, *incoming)):
            return self.reference_gradients(self.op.at(options[:-2]), flat, incoming)
        found = self.backward(*flat, saved, *incoming, *options)
        places = self.op.differentiable
        return tuple(None if flat[i] is None else g for i, g in zip(places, found, strict=True))

    def reference_gradients(
        self, op: Operator, flat: tuple[Any, ...], incoming: tuple[Any, ...]
    ) -> tuple[Tensor | None, ...]:
        """The same through the reference in torch operations, which can be differentiated again."""
        with own_precision(flat[0]):
            values, pull = torch.func.vjp(
                lambda *free: self.reference(op, self._with(flat, free)), *self._given(flat)
            )[:2]
            grads = zip(values, incoming, strict=True)
            found = iter(pull(tuple(torch.zeros_like(y) if g is None else g for y, g in grads)))
        return tuple(None if flat[i] is None else next(found) for i in self.op.differentiable)

    @staticmethod
    def reference(op: Operator, flat: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """The results by torch operations alone."""
        lead, sizes = _checks.operands(op, op.verb("forward"), flat)
        with own_precision(flat[0]):
            *results, _ = loop.forward(op, flat, lead, sizes, False)
        return tuple(results)

    # vmap: the mapped axis becomes the first leading one; the operator broadcasts the rest

    def _leads(self, flat: tuple[Any, ...], dims: tuple[Any, ...]) -> list[int]:
        """How many leading axes each operand has besides the mapped one."""
        return [
            0 if t is None else t.ndim - (dim is not None) - operand.core
            for operand, t, dim in zip(self.op.flat, flat, dims, strict=False)
        ]

    def _forward_vmap(self, info: Any, dims: tuple[Any, ...], *arguments: Any) -> Any:
        flat, options = arguments[: self.n], arguments[self.n :]
        own = self._leads(flat, dims)
        # Expanded as backward has them: what is saved lies in an order that follows from the leading axes.
        size = info.batch_size if options[0] else None
        mapped = [_mapped(t, dim, n, max(own), size) for t, dim, n in zip(flat, dims, own, strict=False)]
        results = self.forward(*mapped, *options)
        save, return_state = options[:2]
        matrices = (0 if return_state else None for _ in self.op.states)
        return results, (0, *matrices, None if save is None else 0)

    def _backward_vmap(self, info: Any, dims: tuple[Any, ...], *arguments: Any) -> Any:
        n, size, after = self.n, info.batch_size, self.n + 1 + len(self.op.results)
        flat, (saved, *incoming), options = arguments[:n], arguments[n:after], arguments[after:]
        own = self._leads(flat, dims)
        mapped = [_mapped(t, dim, m, max(own), size) for t, dim, m in zip(flat, dims, own, strict=False)]
        grads = [_mapped(g, dim, 0, 0, size) for g, dim in zip(incoming, dims[n + 1 : after], strict=True)]
        if dims[n] is None:  # the rows of a Jacobian: what forward saved belongs to its sequences together
            saved = self.forward(*mapped, layout_of_saved(), False, *options)[-1]
        else:
            saved = saved.movedim(dims[n], 0).contiguous()
        gradients = self.backward(*mapped, saved, *grads, *options)
        shaped = tuple(
            g if flat[i] is None else g.reshape(size, *g.shape[1 + max(own) - own[i] :])
            for g, i in zip(gradients, self.op.differentiable, strict=True)
        )
        return shaped, tuple(None if flat[i] is None else 0 for i in self.op.differentiable)


def differentiable(op: Operator, run: Any, gradients: Any, *, returns_saved: bool) -> Any:
    """The autograd Function of forward: (*flat, return_state, *options) -> results.

    The options are (backend, num_threads), perhaps with the settings before them: as `run` and `gradients`
    want them. `run` takes (flat, return_state, *options) and gives what backward wants as well, last; that
    is a result where it is not to be left out. `gradients` takes (flat, saved, incoming, *options).
    """
    n, states = len(op.flat), len(op.states)

    class Differentiable(Function):  # type: ignore[misc]  # its base is private: mypy sees Any
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> tuple[Tensor | None, ...]:
            flat, (return_state, *options) = arguments[:n], arguments[n:]
            results, ctx.options = run(flat, return_state, *options), options
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*flat, results[-1])
            if not returns_saved:
                return tuple(results[:-1])
            ctx.mark_non_differentiable(*results[1 + states if return_state else 1 :])
            return tuple(results)

        @staticmethod
        def backward(ctx: Any, *incoming: Tensor | None) -> tuple[Any, ...]:
            *flat, saved = ctx.saved_tensors
            incoming = incoming[: 1 + states]
            result: list[Any] = [None] * (n + 1 + len(ctx.options))
            if any(g is not None for g in incoming):
                found = gradients(tuple(flat), saved, incoming, *ctx.options)
                for i, g in zip(op.differentiable, found, strict=True):
                    result[i] = g
            return tuple(result)

    return Differentiable.apply


def _twice_differentiable(operator: TorchOperator) -> Any:
    """The autograd Function of backward: the arguments of the operator -> gradients."""
    n = operator.n

    class Backward(Function):  # type: ignore[misc]  # as above
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
            with outer_level():
                gradients = operator.backward(*arguments)
            ctx.op, flat, (_, *incoming), _ = operator._split(arguments, 1 + len(operator.op.results))
            ctx.save_for_backward(*flat, *incoming)
            return gradients

        @staticmethod
        def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
            op, flat, incoming = ctx.op, ctx.saved_tensors[:n], ctx.saved_tensors[n:]
            given = operator._given(flat)
            wanted = tuple(g for g in incoming if g is not None)

            def gradients(*free: Tensor) -> tuple[Tensor, ...]:
                new = iter(free[len(given) :])
                grads = tuple(None if g is None else next(new) for g in incoming)
                found = operator.reference_gradients(op, operator._with(flat, free[: len(given)]), grads)
                return tuple(g for g in found if g is not None)

            with own_precision(flat[0]):
                pull = torch.func.vjp(gradients, *given, *wanted)[1]
                of_given = (g for g, i in zip(outer, op.differentiable, strict=True) if flat[i] is not None)
                found = iter(pull(tuple(of_given)))
            places = op.differentiable
            of_flat = [next(found) if t is not None and i in places else None for i, t in enumerate(flat)]
            of_incoming = (None if g is None else next(found) for g in incoming)
            return (*of_flat, None, *of_incoming, *(None for _ in op.settings), None, None)

    return Backward.apply


def _identifier(name: str) -> str:
    """The name of an operand in a schema: that of the second state is state_1."""
    return name.replace("[", "_").replace("]", "")


def _mapped(t: Tensor | None, dim: int | None, own: int, lead: int, size: int | None) -> Tensor | None:
    """`t` with the mapped axis (where `size`, expanded) before exactly `lead` others; `own` are its."""
    if t is None:
        return None
    t = t.unsqueeze(0) if dim is None else t.movedim(dim, 0)
    t = t.expand(size, *t.shape[1:]) if dim is None and size else t
    return t.reshape(t.shape[0], *(1,) * (lead - own), *t.shape[1:])


_operators: dict[str, TorchOperator] = {}
_registering = threading.Lock()  # torch refuses a name that another thread has just registered


def _registered(name: str) -> str:
    """The name of an operator, whose torch operators are registered now, with those of all others.

    All at once: the compiler reads the table once for a graph, and an operator that the same graph calls
    later would not be in what it read.
    """
    with _registering:
        for other in list(described.values()):
            if other.name not in _operators:
                _operators[other.name] = TorchOperator(other)
    return name


# As torch.compiler.assume_constant_result: the compiler calls it, and does not trace it.
_registered._dynamo_marked_constant = True  # type: ignore[attr-defined]


def torch_operator(op: Operator) -> TorchOperator:
    """The torch operators of `op`, registered when first asked for."""
    return _operators[_registered(op.name)]
