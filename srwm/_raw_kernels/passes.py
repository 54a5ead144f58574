"""The passes of every operator on a GPU. All but the addresses is settled once, so that a call is a launch.

What a kernel takes follows from the operator's description (`srwm.operators.spec`): first the addresses of
its operands, then of what the pass reads and writes beside them; its last argument says how each array lies
in memory.

A `call` has the attributes operator; operands, layouts in the operator's flat order, or None; lead; sizes,
a mapping from letters; dtype; state_dtype; device. A layout has a shape, strides in bytes and the name of a
dtype. A platform is what the kernels run on, a device of CuPy's or the tests' stand-in for one:

    limits() -> launch.Limits                what the device allows
    kernel(plan) -> kernel                   compiled and loaded there
    launch(bound, addresses, stream)         in that stream, without waiting for it

An `empty(nbytes)` gives the address of fresh memory on the device, and what owns it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from srwm._cy import launch
from srwm._raw_kernels.views import (
    ITEM_BYTES,
    Strides,
    contiguous_along,
    is_aligned,
    order_by_sharing,
    sizes,
    sizes_dtype,
    strides_of,
)
from srwm.operators.spec import Operand, Operator

# The numbers that begin a kernel's last argument, of a forward kernel and of a backward one.
FORWARD_COUNTS = ("sequences", "steps", "segments", "cached")
BACKWARD_COUNTS = (
    *("chunks", "chunks_of_a_matrix", "sequences_of_a_chunk", "sharing"),
    *("steps", "segments", "cached"),
)

# Chunks of sequences in which the gradient of a shared matrix is summed: enough to keep a large device
# busy, but no more than these bytes hold. They are fixed, so that sums are the same on every device.
MOST_CHUNKS = 1024
CHUNKS_BYTES = 1 << 26

Empty = Callable[[int], tuple[int, Any]]


class Bound(NamedTuple):
    """A kernel and how it is launched: all but the stream and the addresses, which come first."""

    kernel: Any
    blocks: int
    threads: int
    dynamic: int  # bytes of shared memory beside those that the kernel declares
    values: tuple[Any, ...]  # its arguments behind the addresses


def real_of(dtype: str) -> str:
    """The dtype of the sums of arrays of a dtype, and of what is saved for backward."""
    return "float64" if dtype == "float64" else "float32"


def gradient_names(operator: Operator) -> tuple[str, ...]:
    """The names of the operands' gradients, in their order."""
    return tuple(f"g{operator.flat[i].name}" for i in operator.differentiable)


def arrays_of_forward(operator: Operator) -> tuple[str, ...]:
    """The arrays of a forward kernel of which its last argument has a view, in the order of both."""
    return tuple(operand.name for operand in operator.flat)


def arrays_of_backward(operator: Operator) -> tuple[str, ...]:
    """The same of a backward kernel."""
    incoming = (f"grad_{result.name}" for result in operator.results)
    return (*arrays_of_forward(operator), "saved", *incoming, *gradient_names(operator))


def saved_of(call: Any) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of what forward saves for backward: of each sequence its steps, then matrices."""
    of = dict(call.sizes)
    entries = launch.saved_entries(call.operator.name, of["L"], of["D"], of["Do"])
    return (*call.lead, entries), real_of(call.dtype)


class _Pass:
    """What both directions have in common."""

    def __init__(self, platform: Any, call: Any, verb: str, incoming: Sequence[Any] = ()) -> None:
        operator = call.operator
        self._op = operator.verb(verb)
        self.platform = platform
        self._flat = operator.flat
        self._names = [*arrays_of_forward(operator), *(f"grad_{r.name}" for r in operator.results)]
        layouts = [*call.operands, *incoming]
        self._masks = [0 if layout is None else ITEM_BYTES[layout.dtype] - 1 for layout in layouts]
        for name, layout in zip(self._names, layouts, strict=False):
            if layout is not None and not is_aligned(layout):
                raise ValueError(
                    f"{self._op}: {name}: expected strides of whole entries, multiples of "
                    f"{ITEM_BYTES[layout.dtype]} bytes, got {layout.strides}; pass a contiguous copy"
                )
        self._views = [
            strides_of(layout, call.lead, operand.core)
            for layout, operand in zip(call.operands, operator.flat, strict=True)
        ]
        (self._initial,) = operator.places("initial")  # the kernels that there are have one matrix
        (self._state,) = operator.places("state")

    def _cached(self, plan: launch.Plan, call: Any) -> int:
        """Shared memory for the one matrix with which all sequences begin, so that blocks read it once."""
        initial = call.operands[self._initial]
        if call.operands[self._state] is not None or initial is None:
            return 0
        of_all = prod(call.lead) > prod(initial.shape[: -self._flat[self._initial].core]) == 1
        return plan.cached_bytes if of_all else 0

    def _check(self, addresses: Sequence[int]) -> None:
        """Raise ValueError for an array whose entries are not aligned: a device would lose its context."""
        for i, (address, mask) in enumerate(zip(addresses, self._masks, strict=False)):
            if address & mask:
                raise ValueError(
                    f"{self._op}: {self._names[i]}: expected an address that is a multiple of "
                    f"{mask + 1} bytes, the size of an entry, got {address:#x}; pass a copy"
                )

    def _bound(self, plan: launch.Plan, items: int, cached: int, numbers: np.ndarray) -> Bound | None:
        """One launch over so many items of work; None where there are none."""
        if items == 0:
            return None
        blocks = launch.grid(plan, items, self.platform.limits().multiprocessors)
        dynamic = plan.dynamic_bytes + cached
        return Bound(self.platform.kernel(plan), blocks, plan.threads, dynamic, (numbers,))


def _working_bytes(bound: Bound | None, plan: launch.Plan, dtype: str) -> int:
    """Working memory of all thread groups of a launch."""
    return 0 if bound is None else bound.blocks * plan.groups * plan.working * ITEM_BYTES[real_of(dtype)]


class Forward(_Pass):
    """The forward pass of one kind of call, on addresses."""

    def __init__(self, platform: Any, call: Any) -> None:
        super().__init__(platform, call, "forward")
        operator, of = call.operator, dict(call.sizes)
        plan = launch.forward(
            operator.name, of["D"], of["Do"], call.dtype, platform.limits(), call.state_dtype
        )
        sequences, cached = prod(call.lead), self._cached(plan, call)
        numbers = sizes(
            self._op,
            sizes_dtype(FORWARD_COUNTS, arrays_of_forward(operator)),
            call.lead,
            range(len(call.lead)),
            (sequences, of["L"], launch.segments(of["L"]), cached > 0),
            self._views,
        )
        self._launch = self._bound(plan, sequences * plan.tiles, cached, numbers)
        self._working_bytes = _working_bytes(self._launch, plan, call.dtype)

    def __call__(
        self,
        operands: Sequence[int],
        outputs: Sequence[int],
        saved: int,
        *,
        num_threads: int | None = None,
        stream: int,
        empty: Empty,
    ) -> None:
        """Write the results; 0 is the address of what is not given or not wanted."""
        del num_threads  # the CPU's
        self._check(operands)
        if self._launch is None:
            return
        working, owner = empty(self._working_bytes) if self._working_bytes else (0, None)
        self.platform.launch(self._launch, (*operands, *outputs, saved, working), stream)
        del owner  # whose memory may go to what comes later in the same stream


class _Gradient(NamedTuple):
    """How the gradient of an operand comes about."""

    along: tuple[int, ...]  # strides along the leading axes of what the kernel writes of it
    nbytes: int  # of that
    sum: Bound | None  # adds up what the kernel wrote; None: the kernel writes the gradient itself
    may_be_null: bool  # whether the kernel takes none where it is not wanted


class Backward(_Pass):
    """The backward pass of one kind of call, on addresses."""

    def __init__(self, platform: Any, call: Any, incoming: Sequence[Any]) -> None:
        super().__init__(platform, call, "backward", incoming)
        operator, of = call.operator, dict(call.sizes)
        initial, lead = call.operands[self._initial], call.lead
        core = self._flat[self._initial].core
        own = lead if initial is None else initial.shape[: len(initial.shape) - core]
        order, sharing = order_by_sharing(lead, own)
        self._wide = any(
            prod(layout.shape[: len(layout.shape) - operand.core]) != prod(lead)
            for operand, layout in zip(operator.flat, call.operands, strict=True)
            if operand.role in ("data", "state") and layout is not None
        )
        plan = launch.backward(
            operator.name, of["D"], of["Do"], call.dtype, platform.limits(), self._wide, call.state_dtype
        )
        run = self._sequences_of_a_chunk(call, prod(own), sharing)
        chunks = -(-sharing // run)
        self._gradients = [
            self._gradient(call, operator.flat[i], call.operands[i], chunks)
            for i in operator.differentiable
        ]
        cached = self._cached(plan, call)
        saved, _ = saved_of(call)
        views = [
            *self._views,
            Strides(contiguous_along(lead, range(len(lead)), saved[-1])),
            *(
                strides_of(layout, lead, result.core)
                for layout, result in zip(incoming, operator.results, strict=True)
            ),
            *(Strides(gradient.along) for gradient in self._gradients),
        ]
        of_all = prod(own) * chunks
        numbers = sizes(
            self._op,
            sizes_dtype(BACKWARD_COUNTS, arrays_of_backward(operator)),
            lead,
            order,
            (of_all, chunks, run, sharing, of["L"], launch.segments(of["L"]), cached > 0),
            views,
        )
        self._launch = self._bound(plan, of_all, cached, numbers)
        self._working_bytes = _working_bytes(self._launch, plan, call.dtype)

    def _sequences_of_a_chunk(self, call: Any, matrices: int, sharing: int) -> int:
        """Sequences whose gradients of the initial matrix one thread group adds up, in their order."""
        size = prod(self._flat[self._initial].shape((), dict(call.sizes)))
        most = max(1, min(MOST_CHUNKS, CHUNKS_BYTES // (size * ITEM_BYTES[real_of(call.dtype)])))
        return max(1, -(-sharing // max(1, most // max(1, matrices))))

    def _gradient(self, call: Any, operand: Operand, layout: Any, chunks: int) -> _Gradient:
        """Of one operand: from each sequence, or, of the initial matrix, from each chunk of them."""
        lead, of_initial = call.lead, operand.role == "initial"
        may_be_null = operand.role != "data"
        if layout is None:
            return _Gradient((0,) * len(lead), 0, None, may_be_null)
        cut = len(layout.shape) - operand.core
        own, size = prod(layout.shape[:cut]), prod(layout.shape[cut:])
        order, sharing = order_by_sharing(lead, layout.shape[:cut])
        along = (0,) * len(lead) if of_initial else contiguous_along(lead, order, size)
        parts = chunks if of_initial else sharing
        real = real_of(call.dtype)
        written = real if of_initial or self._wide else layout.dtype
        direct = written == layout.dtype and (parts == 1 or own * size == 0)
        plan = launch.add_partial_sums(layout.dtype)
        blocks = launch.grid(plan, -(-own * size // plan.threads), self.platform.limits().multiprocessors)
        add_up = None
        if not direct:
            add_up = Bound(self.platform.kernel(plan), blocks, plan.threads, 0, (own, parts, size))
        return _Gradient(along, own * parts * size * ITEM_BYTES[written], add_up, may_be_null)

    def __call__(
        self,
        operands: Sequence[int],
        saved: int,
        incoming: Sequence[int],
        gradients: Sequence[int],
        *,
        num_threads: int | None = None,
        stream: int,
        empty: Empty,
    ) -> None:
        """Write the gradients; 0 is the address of what is not given or not wanted."""
        del num_threads  # the CPU's
        self._check((*operands, *incoming))
        working, owner = empty(self._working_bytes) if self._working_bytes else (0, None)
        owners, written = [owner], list(gradients)
        for i, (gradient, address) in enumerate(zip(self._gradients, gradients, strict=True)):
            if gradient.sum is not None if address else not gradient.may_be_null:
                written[i], owner = empty(gradient.nbytes)
                owners.append(owner)
        if self._launch is not None:
            addresses = (*operands, saved, *incoming, *written, working)
            self.platform.launch(self._launch, addresses, stream)
        for gradient, parts, address in zip(self._gradients, written, gradients, strict=True):
            if address and gradient.sum is not None:
                self.platform.launch(gradient.sum, (parts, address), stream)
        del owners  # whose memory may go to what comes later in the same stream


def plans_of(
    operator: Operator, D: int, Do: int, dtype: str, limits: launch.Limits
) -> Iterator[launch.Plan]:
    """Plans of the kernels that calls of these sizes and this dtype need."""
    for state in sorted({dtype, real_of(dtype)}):
        yield launch.forward(operator.name, D, Do, dtype, limits, state)
        yield launch.backward(operator.name, D, Do, dtype, limits, state=state)
    yield launch.add_partial_sums(dtype)
