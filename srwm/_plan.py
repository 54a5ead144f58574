"""A plan: all that follows from the layouts of a call's operands. Found once, then looked up by their key.

The one cache in front of the kernels. Its key holds shapes, strides, dtypes and devices
(srwm/_cy/exchange.pyx), the operator, and the backend that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from srwm import _checks, _dispatch
from srwm._cy.exchange import unpack
from srwm._layouts import Call, Layout
from srwm.operators.spec import Operator

# DLPack's device types, and the kind of backend that takes arrays there.
CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
_KINDS = {CPU: "cpu", CUDA: "cuda", CUDA_HOST: "cuda", CUDA_MANAGED: "cuda"}


class Plan:
    """A call on a backend: what it returns, and the backend's functions bound to it.

    Attributes
    ----------
    call : Call
    backend : module
    results : tuple of tuples of int
        Shapes of the output and of the matrices after the last step.
    saved : tuple of int, str
        Shape and dtype of what forward saves for backward.
    copies : tuple of int
        The places of operands that the backend takes as aligned contiguous copies only.
    """

    def __init__(self, call: Call, backend: Any, copies: tuple[int, ...] = ()) -> None:
        self.call, self.backend, self.copies = call, backend, copies
        self.results = tuple(result.shape(call.lead, call.sizes) for result in call.operator.results)
        self.saved: tuple[tuple[int, ...], str] = backend.saved_of(call)
        self.runs_on_arrays: bool = backend.RUNS_ON_ARRAYS
        # Bound when first wanted: without a backward pass, with one, and backward by the key of gradients.
        self._forward: list[Any] = [None, None]
        self._backward: dict[bytes, Any] = {}

    def forward(self, save: bool) -> Any:
        """The backend's forward pass of this call; `save`: for a backward pass."""
        bound = self._forward[save]
        if bound is None:
            bound = self._forward[save] = self.backend.forward_of(self.call, save)
        return bound

    def backward(self, key: bytes) -> Any:
        """The backend's backward pass of this call, for gradients of the results with this key."""
        bound = self._backward.get(key)
        if bound is None:
            if len(self._backward) >= _MOST_BACKWARD:
                self._backward.clear()
            arrays = unpack(key)
            if self.backend.NEEDS_ALIGNMENT:
                _check_alignment(self.call.operator, arrays)
            incoming = tuple(None if a is None else Layout(a[2], a[3], a[0]) for a in arrays)
            bound = self._backward[key] = self.backend.backward_of(self.call, incoming)
        return bound


# What is stored is never changed, so threads need no lock. The bounds are for those who meet ever new
# shapes.
_plans: dict[tuple[Operator, str | None, bytes], Plan] = {}
_MOST_PLANS = 1024
_MOST_BACKWARD = 64

find = _plans.get


def forget() -> None:
    """Forget all plans, as after a change of what they are made from."""
    _plans.clear()


def make(
    op: Operator, name: str, checked: tuple[Any, Mapping[str, int]], key: bytes, backend: str | None
) -> Plan:
    """The plan of operands with this key, which is not known yet; it is from now on.

    `checked` is what `srwm._checks.operands` says of them; `name` begins messages. Raises ValueError
    where they are on several devices, RuntimeError where no backend can run.
    """
    lead, sizes = checked
    arrays = unpack(key)
    first = arrays[0]
    assert first is not None
    layouts: list[Layout | None] = []
    for operand, array in zip(op.flat, arrays, strict=True):
        if array is not None:
            _checks.same_device(
                name, operand.name, _device_name(array[1]), _device_name(first[1]), of=op.flat[0].name
            )
        layouts.append(None if array is None else Layout(array[2], array[3], array[0]))
    module = _dispatch.resolve(name, op, _kind(first[1]), backend)
    given = [layouts[i] for i in op.places("state")]
    state_dtype = next((layout.dtype for layout in given if layout is not None), first[0])
    call = Call(op, tuple(layouts), lead, sizes, first[0], state_dtype, first[1][1])
    copies = tuple(
        i
        for i, array in enumerate(arrays)
        if module.NEEDS_ALIGNMENT and array is not None and not _is_aligned(array)
    )
    plan = Plan(call, module, copies)
    if len(_plans) >= _MOST_PLANS:
        _plans.clear()
    _plans[op, backend, key] = plan
    return plan


def _is_aligned(array: tuple[Any, ...]) -> bool:
    """Whether the entries of an array that a key describes lie on whole entries."""
    name, _, _, strides, has_aligned_address = array
    size = {"float64": 8, "float32": 4, "bool": 1}.get(name, 2)
    return has_aligned_address and all(stride % size == 0 for stride in strides)


def _check_alignment(op: Operator, arrays: Sequence[tuple[Any, ...] | None]) -> None:
    """Raise ValueError for gradients of results that do not lie on whole entries."""
    for name, array in zip(op.gradient_names, arrays, strict=True):
        if array is not None and not _is_aligned(array):
            dtype, _, _, strides, has_aligned_address = array
            address = "an aligned address" if has_aligned_address else "a misaligned address"
            raise ValueError(
                f"{op.verb('backward')}: {name}: expected entries that lie on multiples of their size, got "
                f"{dtype} at {address} with strides of {strides} bytes; pass a contiguous copy"
            )


def _kind(device: tuple[int, int]) -> str:
    return _KINDS.get(device[0], f"DLPack device type {device[0]}")


def _device_name(device: tuple[int, int]) -> str:
    kind = _kind(device)
    return kind if kind == "cpu" else f"{kind}:{device[1]}"
