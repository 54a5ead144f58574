"""A plan: all that follows from the layouts of a call's operands. It is made once, then found by their key.

This is the only cache in front of the kernels. Its key holds shapes, strides, dtypes and devices
(srwm/_cy/exchange.pyx), the operator, and the backend that the caller names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from srwm import _checks, _dispatch
from srwm._cy.exchange import unpack
from srwm._cy.run import Ready
from srwm._layouts import CPU, OF_CUDA, ROCM, Call, Layout, Reading, contiguous
from srwm.operators.spec import Operator

# DLPack's device type -> the kind of the device, by which a backend takes its arrays or declines them.
_KINDS = {CPU: "cpu", ROCM: "rocm", 11: "rocm", **dict.fromkeys(OF_CUDA, "cuda")}
_KINDS |= {4: "opencl", 7: "vulkan", 8: "metal", 9: "vpi", 14: "oneapi", 15: "webgpu", 16: "hexagon"}


class Plan:
    """A call on a backend: the shapes of its results, and the backend's functions bound to it.

    Attributes
    ----------
    call : Call
    results : tuple of tuples of int
        Shapes of the output and of the matrices after the last step.
    saved : tuple of int, str
        Shape and dtype of what forward saves for backward.
    gradients : tuple of (tuple of int, str)
        Shapes and dtypes of the gradients of the operands; None for operands that are not given.
    output_like : int, or None
        The place of an operand that has the layout of the output, contiguous: libraries make such arrays
        faster than others.
    gradients_like : tuple of int or None
        The same for the gradients.
    runs_on_arrays : bool
        Whether the reference runs, on arrays: then there are no functions to bind.
    copies : tuple of int
        The places of operands that the backend takes only as aligned contiguous copies.
    """

    def __init__(self, call: Call, backend: Any) -> None:
        self.call, self._backend = call, backend
        self.results = tuple(result.shape(call.lead, call.sizes) for result in call.operator.results)
        self.saved: tuple[tuple[int, ...], str] = backend.saved_of(call)
        given = [call.operands[i] for i in call.operator.differentiable]
        self.gradients = tuple(None if a is None else (a.shape, a.dtype) for a in given)
        layouts = [a and (a.shape, a.strides, a.dtype) for a in call.operands]
        self.output_like = _place_of(layouts, self.results[0], call.dtype)
        self.gradients_like = tuple(
            None if of is None else _place_of(layouts, *of) for of in self.gradients
        )
        self.runs_on_arrays: bool = backend.RUNS_ON_ARRAYS
        self.copies = tuple(
            i
            for i, a in enumerate(call.operands)
            if backend.NEEDS_ALIGNMENT and a is not None and not a.is_aligned
        )
        # Bound at the first use: forward without and with a backward pass; backward by the key of
        # gradients.
        self._forward: list[Any] = [None, None]
        self._backward: dict[bytes, Any] = {}

    def forward(self, save: bool) -> Any:
        """The backend's forward pass of this call; `save`: a backward pass may follow."""
        bound = self._forward[save]
        if bound is None:
            bound = self._forward[save] = self._backend.forward_of(self.call, save)
        return bound

    def backward(self, key: bytes | None, check: Callable[[Plan], None]) -> Any:
        """The backend's backward pass, for saved data and gradients of the results with this key.

        None if the backend takes only copies of these. `check` is called for a key that is new, and raises
        if they do not fit.
        """
        bound = None if key is None else self._backward.get(key)
        if bound is None:
            check(self)
            assert key is not None, "arrays that pass the checks have a key"
            if len(self._backward) >= _MOST_BACKWARD:
                self._backward.clear()
            op, arrays = self.call.operator, tuple(unpack(key))
            name, first = op.verb("backward"), self.call.operands[0]
            check_memory(name, ("saved", *op.gradient_arguments), arrays)
            devices = [a and _device_name(*a.device) for a in (first, *arrays[1:])]
            _checks.one_device(name, (op.names[0], *op.gradient_arguments), devices)
            if self._backend.NEEDS_ALIGNMENT and not all(a is None or a.is_aligned for a in arrays):
                return None
            bound = self._backward[key] = self._backend.backward_of(self.call, arrays[1:])
        return bound


def _place_of(layouts: Sequence[Any], shape: tuple[int, ...], dtype: str) -> int | None:
    """The first place of this shape, dtype, and the strides of a new array."""
    wanted = contiguous(shape, dtype)[:3]
    return layouts.index(wanted) if wanted in layouts else None


# Stored plans never change, so threads need no lock. The limits are for programs whose shapes always
# change.
_plans: dict[tuple[Operator, str | None, bytes], Plan] = {}
_MOST_PLANS = 1024
_MOST_SEQUENCES = 1 << 22  # of all plans together: on the CPU each takes about 25 bytes
_MOST_BACKWARD = 64

find = _plans.get


def forget() -> None:
    """Forget all plans, for example after a change of the backends that they use."""
    _plans.clear()


def ready(
    library: Any,
    op: Operator,
    verb: str,
    arrays: tuple[Any, ...],
    backend: str | None,
    reading: Reading | None,
    checked: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None,
) -> Ready:
    """The operands with their plan. If it is new, they are checked, unless `checked` is given.

    `library` is their library (srwm/_cy/run.pyx), `reading` the result of its `read`. Raises ValueError if
    they are on several devices, RuntimeError if no backend can run.
    """
    plan = None if reading is None else find((op, backend, reading[0]))
    if plan is None:
        name = op.verb(verb)
        checked = checked or _checks.operands(op, name, arrays)
        assert reading is not None, "operands that pass the checks have a key"
        plan = make(op, name, checked, reading[0], backend)
    assert reading is not None
    if plan.copies:
        arrays = tuple(library.copy(a) if i in plan.copies else a for i, a in enumerate(arrays))
        return ready(library, op, verb, arrays, backend, library.read(arrays))
    return Ready(plan, library, arrays, reading[1])


def make(
    op: Operator, name: str, checked: tuple[Any, Mapping[str, int]], key: bytes, backend: str | None
) -> Plan:
    """Make and store the plan of operands with this key.

    `checked` is the result of `srwm._checks.operands` for them; messages begin with `name`.
    """
    (lead, sizes), layouts = checked, tuple(unpack(key))
    first = layouts[0]
    assert first is not None
    devices = [None if a is None else _device_name(*a.device) for a in layouts]
    _checks.one_device(name, op.names, devices)
    check_memory(name, op.names, layouts)
    module = _dispatch.resolve(name, op, kind_of(first.device[0]), backend)
    call = Call(op, layouts, lead, sizes, first.dtype, op.state_dtype(layouts), first.device[1])
    # A list, which is made at once: other threads may add plans.
    sequences = sum(prod(known.call.lead) for known in list(_plans.values()))
    if len(_plans) >= _MOST_PLANS or sequences > _MOST_SEQUENCES:
        _plans.clear()
    plan = _plans[op, backend, key] = Plan(call, module)
    return plan


def kind_of(device_type: int) -> str:
    """The kind of a device ("cpu", "cuda", "rocm"), from its type by DLPack."""
    return _KINDS.get(device_type, f"DLPack type {device_type}")


def _device_name(device_type: int, index: int) -> str:
    kind = kind_of(device_type)
    return kind if kind == "cpu" else f"{kind}:{index}"


def check_memory(name: str, arguments: Sequence[str], layouts: Sequence[Layout | None]) -> None:
    """Raise ValueError for an array whose storage was freed."""
    for argument, a in zip(arguments, layouts, strict=True):
        if a is not None and not a.has_memory:
            raise ValueError(
                f"{name}: {argument}: expected memory, got {a}, whose storage was freed; pass a copy that "
                "was made before"
            )
