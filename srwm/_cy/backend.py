"""The CPU backend: picks the kernels for this processor, and binds calls of any operator to them.

A call is bound once (`forward_of`, `backward_of`) and run on addresses. All it takes follows from the
operator's description. The operators that have kernels are those of srwm/_cy/kernels.pxi.

Kernels exist for each instruction set, real type and layout. The best set that this processor has is
used; SRWM_INSTRUCTION_SET (baseline, avx2, avx512) asks for one by name. Threads (srwm/_threads.py)
share out the sequences; where there are fewer of those and their heads are large, several threads share the
columns of one, and the last bits of results depend on how many do, though never on timing.

Where there are many small heads, sequences are computed side by side instead, if there are enough of them
for all threads; last bits depend on that too, and there on whether a sequence beside one has a reset or a
state that grows.
"""

from __future__ import annotations

import importlib
import os
import threading
import zlib
from functools import cache, lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from srwm._broadcast import sequences_by_weight, sum_to_shape
from srwm._cy import processor
from srwm._cy.recycled import Recycled
from srwm._layouts import Call, Layout
from srwm._threads import default_threads, threads_allowed, threads_described
from srwm.operators.spec import Operator

RUNS_ON_ARRAYS = False
NEEDS_ALIGNMENT = False

INSTRUCTION_SETS = ("avx512", "avx2", "baseline")  # best first

# Steps from one kept W to the next. Between them W comes back by undoing updates: 32 costs D M / 32
# entries a step beside the 3 D + M + 8 of the trace, and keeps a W that grows as exact as stored ones.
SEGMENT = 32

# A last segment of this many steps or fewer is replayed: that costs less than the memory of one more
# W, of which single steps of many sequences would need most.
REPLAYED = 4

# Sequences are computed side by side, one in each lane of a vector, where their matrices are small, and
# where there are steps enough to pay for bringing these into that layout.
SIDE_BY_SIDE_STEPS = 4

# From this size on what is allocated is recycled: smaller blocks come from memory that is in use anyway.
RECYCLED_BYTES = 64 << 10

# Up to this size a thread's scratch is its own as long as it lives; larger scratch is recycled.
SCRATCH_HELD = 1 << 20

# Below this much work (multiply-adds; 0.2 ms) a second thread costs more than it saves: waking one takes
# milliseconds where the threads have been idle for long.
WORK_PER_THREAD = 1 << 22

# Where sequences are fewer than threads, those that share the columns of one have at least this many
# entries of its state each, so that two begin at D = 147. A step's two products with so many take 2.8 us
# forward in float32 (AVX2, 2.4 GHz), and over twice that backward. Sharing costs a meeting of the threads a
# step, 0.2 us between two, and the softmaxes on every one of them. Two threads of one core gain a third of
# the time at D = 256, hardly any at 128; two cores would gain from fewer entries on, but where other
# programs want the processors too, threads wait for one another at every step, which a small gain is not
# worth.
WORK_PER_MEMBER = 1 << 15

# Chunks of sequences whose gradients of one W are summed before the chunks are. Fixed, so that the
# sums are the same whatever the number of threads.
CHUNKS = 64

_per_thread = threading.local()


_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def unusable() -> str | None:
    """Why this backend cannot run here."""
    try:
        kernels(_FLOAT32, "one")
    except ImportError as missing:
        return f"its extension modules are not built ({missing}); reinstall srwm"
    return None


def declines(device: str) -> str | None:
    """Why this backend does not take arrays of `device` ("cpu", "cuda")."""
    return None if device == "cpu" else f"it takes CPU arrays, these are on the {device}"


def configuration() -> dict[str, str]:
    """What this backend computes with, for `show_config`."""
    asked = " (asked for by SRWM_INSTRUCTION_SET)" if os.environ.get("SRWM_INSTRUCTION_SET") else ""
    return {
        "instruction set": instruction_set() + asked,
        "OpenMP": "yes" if processor.has_openmp() else "no, the kernels were built without",
        "threads": threads_described() if processor.has_openmp() else "1, for want of OpenMP",
    }


@cache
def instruction_set() -> str:
    """The instruction set whose kernels are used."""
    asked = os.environ.get("SRWM_INSTRUCTION_SET")
    if not asked:
        return next(name for name in INSTRUCTION_SETS if processor.has(name))
    if asked not in INSTRUCTION_SETS or not processor.has(asked):
        usable = ", ".join(name for name in INSTRUCTION_SETS if processor.has(name))
        raise ValueError(f"SRWM_INSTRUCTION_SET: expected one of {usable} on this processor, got {asked!r}")
    return asked


@cache
def kernels(real: np.dtype, layout: str) -> Any:
    """The kernel module that computes in `real`, sequences in the layout "one" or "many"."""
    real_type = "f64" if real == _FLOAT64 else "f32"
    return importlib.import_module(f"srwm._cy.{instruction_set()}_{real_type}_{layout}")


def _threads(num_threads: int | None, pieces: int, members: int, work: int) -> int:
    """Threads for pieces of `work` multiply-adds altogether, each piece for at most `members` of them."""
    if pieces * members < 2 or work < 2 * WORK_PER_THREAD or not threads_allowed():
        return 1
    wanted = default_threads() if num_threads is None else num_threads
    return max(1, min(wanted, pieces * members, work // WORK_PER_THREAD))


def _scratch(size: int) -> tuple[int, Any, int]:
    """Working memory of the calling thread, on a cache line: its address, what keeps it, and its size.

    What single steps ask for is kept, since page faults take time; more is recycled, where all threads
    together are bounded.
    """
    if size > SCRATCH_HELD:
        memory = _new((size,), np.dtype(np.uint8))  # on a cache line
        return memory.ctypes.data, memory, size
    held: tuple[int, Any, int] | None = getattr(_per_thread, "scratch", None)
    if held is None or held[2] < size:
        memory = np.empty(size + _LINE, np.uint8)
        held = _per_thread.scratch = (-(-memory.ctypes.data // _LINE) * _LINE, memory, size)
    return held


_LINE = 64
_KINDS = {"float16": 1, "bfloat16": 2}
_MATRICES = ("initial", "state")  # roles of operands whose gradients are added to

# Bytes between neighbours along the last axis but one and the last, along leading axes; the kind of
# entries.
Record = tuple[int, int, tuple[int, ...], int]


def takes(operator: Operator) -> bool:
    """Whether there are kernels for this operator."""
    return bool(kernels(_FLOAT32, "one").is_registered(operator.name))


def _real_of(dtype: str) -> np.dtype:
    """The real type that arrays of a dtype are computed in."""
    return _FLOAT64 if dtype == "float64" else _FLOAT32


def _itemsize(dtype: str) -> int:
    return {"float64": 8, "float32": 4, "bool": 1}.get(dtype, 2)


def _contiguous(shape: tuple[int, ...], dtype: str) -> Layout:
    """The layout of a new array."""
    strides, size = [], _itemsize(dtype)
    for n in reversed(shape):
        strides.append(size)
        size *= max(1, n)
    return Layout(shape, tuple(reversed(strides)), dtype)


def _record(a: Layout | None, core: int, lead: tuple[int, ...]) -> Record | None:
    """What the kernels want to know of an array whose leading axes broadcast to `lead`."""
    if a is None:
        return None
    own = len(a.shape) - core
    along = tuple(0 if n == 1 else step for n, step in zip(a.shape[:own], a.strides[:own], strict=True))
    outer = a.strides[-2] if core == 2 else 0
    return outer, a.strides[-1], (0,) * (len(lead) - own) + along, _KINDS.get(a.dtype, 0)


class Gathering(NamedTuple):
    """How gradients of shared matrices are summed: in slots of chunks, then the slots of each matrix."""

    slots: np.ndarray  # (N,) for each position the slot that its gradient is added to
    n_slots: int
    firsts: np.ndarray | None  # (matrices,) the first slot of each; None where each has one slot
    each: int | None  # slots of each matrix, where they are as many for all of them and not one
    many: np.ndarray  # chunks of the positions computed side by side: where each starts, and the end
    one: np.ndarray  # chunks of the others


@lru_cache(maxsize=16)  # these are as long as there are sequences
def _order(lead: tuple[int, ...], initial_lead: tuple[int, ...]) -> np.ndarray | None:
    """The sequences, those that share a matrix together; None where they are together as they are."""
    if prod(initial_lead) in (1, prod(lead)):
        return None
    return sequences_by_weight(lead, initial_lead).reshape(-1)


def _chunk_starts(first: int, last: int, lanes: int) -> np.ndarray:
    """Where the chunks of positions first ... last - 1 start, and where the last one ends."""
    number = (last - first) // lanes
    size = lanes * max(1, -(-number // CHUNKS))
    return np.append(np.arange(first, last, size, dtype=np.int64), np.int64(last))


@lru_cache(maxsize=16)
def _gathering(
    lead: tuple[int, ...],
    initial_lead: tuple[int, ...],
    own_lead: tuple[int, ...],
    side_by_side: int,
    lanes: int,
) -> Gathering:
    """That of matrices with the leading axes `own_lead`, of sequences in the order of `initial_lead`."""
    N, matrices, order = prod(lead), prod(own_lead), _order(lead, initial_lead)
    many, one = _chunk_starts(0, side_by_side, lanes), _chunk_starts(side_by_side, N, 1)
    starts = np.concatenate([many[:-1], one[:-1]])
    matrix = np.broadcast_to(np.arange(matrices).reshape(own_lead), lead).reshape(-1)
    chunk = np.searchsorted(starts, np.arange(N), side="right")
    of_slot, slots = np.unique(
        (matrix if order is None else matrix[order]) * (len(starts) + 1) + chunk, return_inverse=True
    )
    n_slots = len(of_slot)
    firsts = np.searchsorted(of_slot // (len(starts) + 1), np.arange(matrices))
    each = n_slots // max(1, matrices)
    is_even = each * matrices == n_slots and np.array_equal(firsts, np.arange(matrices) * each)
    return Gathering(
        slots=slots.astype(np.int64, copy=False),
        n_slots=n_slots,
        firsts=None if n_slots == matrices else firsts,
        each=each if is_even and each > 1 else None,
        many=many,
        one=one,
    )


def _summed(g: np.ndarray, gathering: Gathering) -> np.ndarray:
    """The gradient of the matrices from that in the slots, (slots, rows, columns)."""
    if gathering.each is not None:
        return g.reshape(-1, gathering.each, *g.shape[1:]).sum(axis=1)
    return g if gathering.firsts is None else np.add.reduceat(g, gathering.firsts, axis=0)


def segments(L: int) -> int:
    """Segments of L steps whose last matrix is saved: all but a last one of at most REPLAYED steps."""
    return (L + SEGMENT - 1 - REPLAYED) // SEGMENT


def _new(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array, not initialised; large ones on memory that was used before."""
    size = prod(shape) * dtype.itemsize
    if size < RECYCLED_BYTES:
        return np.empty(shape, dtype)
    return np.frombuffer(memoryview(Recycled(size)).cast("B"), np.uint8).view(dtype).reshape(shape)


def _most_bytes(layout: tuple[int, ...], keep: bool) -> int:
    """Bytes of matrices up to which sequences are computed side by side, with backward or without."""
    return layout[6 if keep else 5]


class _Binding:
    """What a call's shapes, strides and dtypes decide, forward and backward.

    Sequences have positions, such that those that share an initial matrix follow one another.
    """

    def __init__(self, call: Call, keep: bool) -> None:
        op, sizes = call.operator, call.sizes
        self.call, self.real = call, _real_of(call.dtype)
        self.initial, self.place = op.initials[0], op.places("initial")[0]
        rows, columns = self.initial.shape((), sizes)
        L, Do = sizes["L"], op.output.shape((), sizes)[-1]
        self.N = prod(call.lead)
        self.entries = rows * columns
        self.work = self.N * L * self.entries  # multiply-adds of a product of every step with the matrix
        self.members = max(1, self.entries // WORK_PER_MEMBER)  # that gain by sharing one sequence
        self.sizes = (rows, Do, L, SEGMENT, segments(L))
        layouts = self._one, self._many = [
            kernels(self.real, layout).layout(op.name, rows, Do) for layout in ("one", "many")
        ]
        self.lanes = kernels(self.real, "many").sequences()
        self.saved = _entries_saved(self._one, L, self.real)
        self.bytes = [max(layout[i] for layout in layouts) * self.real.itemsize for i in (3, 4)]
        self.fits = (
            self.lanes > 1
            and L >= SIDE_BY_SIDE_STEPS
            and self._many[1] * self.lanes * self.real.itemsize <= _most_bytes(self._many, keep)
        )
        self.initial_lead = self.lead_of(self.place)
        self.order = _order(call.lead, self.initial_lead)
        # What is saved lies in this order of the sequences: backward of another call must not read it.
        of_call = op.name, self.sizes, call.lead, None if self.order is None else self.initial_lead
        self.signature = zlib.crc32(repr(of_call).encode()) & 0xFFFF

    def lead_of(self, place: int) -> tuple[int, ...]:
        """The leading axes of an operand, none where it is not given."""
        a = self.call.operands[place]
        return () if a is None else a.shape[: len(a.shape) - self.call.operator.flat[place].core]

    def is_summed(self, place: int) -> bool:
        """Whether the gradient of an operand of steps is a sum over sequences."""
        a, of = self.call.operands[place], self.call.operator.flat[place]
        return a is not None and prod(a.shape) != prod(of.shape(self.call.lead, self.call.sizes))

    def not_saved(self) -> ValueError:
        """What to raise for an array that forward of this call did not save."""
        shape, dtype = saved_of(self.call)
        return ValueError(
            f"{self.call.operator.verb('backward')}: expected what forward saved for backward, {dtype} "
            f"{shape}, got other content; pass what forward of the same operands returned"
        )

    def side_by_side(self, threads: int) -> int:
        """How many of the positions, from the first on, that many threads compute side by side."""
        number = self.N // self.lanes
        return number * self.lanes if self.fits and number >= threads else 0

    def kernels(
        self, results: list[Record | None], incoming: list[Record | None], gradients: list[Record | None]
    ) -> list[Any]:
        """The call of the kernels in both layouts: one at a time, side by side."""
        op, call = self.call.operator, self.call
        operands = [
            _record(a, operand.core, call.lead) for operand, a in zip(op.flat, call.operands, strict=True)
        ]
        gradients = gradients or [None] * len(operands)
        arrays = operands, results, incoming, gradients
        rest = (self.saved, self.order, self.members, self.signature)
        return [
            kernels(self.real, layout).Call(op.name, self.sizes, call.lead, *arrays, *rest)
            for layout in ("one", "many")
        ]

    def of_results(self, layouts: Any) -> list[Record | None]:
        """The records of arrays with the axes of the results."""
        results = self.call.operator.results
        return [_record(a, of.core, self.call.lead) for of, a in zip(results, layouts, strict=True)]


def _entries_saved(one: tuple[int, ...], L: int, real: np.dtype) -> int:
    """Entries saved of a sequence, whole cache lines: there is room for either layout, and to say which."""
    line = _LINE // real.itemsize
    entries = L * one[0] + segments(L) * one[1] + -(-L // SEGMENT) * one[2] + 1
    return -(-entries // line) * line


def saved_of(call: Call) -> tuple[tuple[int, ...], str]:
    """Shape (*lead, K) and dtype of the one array that forward saves for backward.

    What is in it only this backend knows; K depends on sizes and dtype, and on the processor.
    """
    real = _real_of(call.dtype)
    rows = call.operator.initials[0].shape((), call.sizes)[0]
    one = kernels(real, "one").layout(
        call.operator.name, rows, call.operator.output.shape((), call.sizes)[-1]
    )
    return (*call.lead, _entries_saved(one, call.sizes["L"], real)), real.name


class _Forward:
    """A bound forward call."""

    def __init__(self, call: Call, keep: bool) -> None:
        self._bound = bound = _Binding(call, keep)
        dtypes = (call.dtype, *(call.state_dtype,) * len(call.operator.next_states))
        layouts = [
            _contiguous(of.shape(call.lead, call.sizes), dtype)
            for of, dtype in zip(call.operator.results, dtypes, strict=True)
        ]
        self._one, self._many = bound.kernels(bound.of_results(layouts), [], [])

    def __call__(
        self,
        operands: tuple[int, ...],
        outputs: tuple[int, ...],
        saved: int,
        *,
        num_threads: int | None = None,
        stream: int = 0,
        empty: Any = None,
    ) -> None:
        """Fill the outputs, and what backward wants, unless their addresses are 0."""
        bound = self._bound
        threads = _threads(num_threads, bound.N, bound.members, 3 * bound.work)
        many = bound.side_by_side(threads)
        held = _scratch(threads * bound.bytes[0])
        if many > 0:
            self._many.forward(operands, outputs, saved, held[0], 0, many, threads)
        if many < bound.N:
            self._one.forward(operands, outputs, saved, held[0], many, bound.N - many, threads)


class _Gradient(NamedTuple):
    """Where the gradient of an operand is computed, for one layout of a call."""

    place: int  # of the operand
    kind: int  # of its entries
    bytes: int  # to be zeroed, where it is added to in its own place
    buffer: tuple[int, ...] | None  # shape of what is computed instead, in the real type, and summed then
    gathering: Gathering | None  # of a matrix: how
    shape: tuple[int, ...]


class _Walk(NamedTuple):
    """What follows from how many sequences are computed side by side."""

    runs: tuple[tuple[Any, int, int], ...]  # (kernels, address of the starts of chunks, chunks)
    gradients: tuple[_Gradient | None, ...]  # None where the operand is not given
    slots: tuple[int, ...]  # for each operand, addresses
    held: Gathering


class _Backward:
    """A bound backward call."""

    def __init__(self, call: Call, incoming: tuple[Layout | None, ...]) -> None:
        self._bound = bound = _Binding(call, True)
        self._places = call.operator.differentiable
        self._library = kernels(bound.real, "one")
        records: list[Record | None] = [None] * len(call.operator.flat)
        for i in self._places:
            a, operand = call.operands[i], call.operator.flat[i]
            if a is not None and operand.role in _MATRICES:  # slots are its only leading axis
                slots = (1, *operand.shape((), call.sizes))
                record = _record(_contiguous(slots, bound.real.name), operand.core, (1,))
                assert record is not None
                records[i] = (*record[:2], (prod(slots) * bound.real.itemsize,), 0)
            elif a is not None:
                dtype = bound.real.name if bound.is_summed(i) else a.dtype
                whole = _contiguous(operand.shape(call.lead, call.sizes), dtype)
                records[i] = _record(whole, operand.core, call.lead)
        self._one, self._many = bound.kernels([], bound.of_results(incoming), records)
        self._walks: dict[int, _Walk] = {}

    def _walk(self, many: int) -> _Walk:
        """The chunks and gradients where so many positions are computed side by side."""
        bound = self._bound
        lead, initial_lead, operands = bound.call.lead, bound.initial_lead, bound.call.operands
        base = _gathering(lead, initial_lead, initial_lead, many, bound.lanes)
        slots = [0] * len(operands)
        gradients: list[_Gradient | None] = []
        for i in self._places:
            a, operand = operands[i], bound.call.operator.flat[i]
            if a is None:
                gradients.append(None)
                continue
            gathering, nbytes, buffer = None, 0, None
            if operand.role in _MATRICES:
                gathering = _gathering(lead, initial_lead, bound.lead_of(i), many, bound.lanes)
                slots[i] = gathering.slots.ctypes.data
                if gathering.firsts is None and a.dtype == bound.real.name:
                    nbytes = prod(a.shape) * bound.real.itemsize
                else:
                    buffer = (gathering.n_slots, *operand.shape((), bound.call.sizes))
            elif bound.is_summed(i):
                buffer = operand.shape(lead, bound.call.sizes)
            kind = _KINDS.get(a.dtype, 0)
            gradients.append(_Gradient(i, kind, nbytes, buffer, gathering, a.shape))
        runs = [
            (run, starts.ctypes.data, len(starts) - 1)
            for run, starts in ((self._many, base.many), (self._one, base.one))
            if len(starts) > 1
        ]
        return _Walk(tuple(runs), tuple(gradients), tuple(slots), base)

    def __call__(
        self,
        operands: tuple[int, ...],
        saved: int,
        incoming: tuple[int, ...],
        gradients: tuple[int, ...],
        *,
        num_threads: int | None = None,
        stream: int = 0,
        empty: Any = None,
    ) -> None:
        """Fill the gradients, unless their addresses are 0, from what forward saved."""
        bound, library = self._bound, self._library
        many = library.side_by_side(saved, bound.N, bound.saved, bound.lanes, bound.signature)
        walk = self._walks.get(many)
        if walk is None:
            if many < 0:
                raise bound.not_saved()
            walk = self._walks[many] = self._walk(many)
        at = [0] * len(operands)
        sums = []
        for g, address in zip(walk.gradients, gradients, strict=True):
            if g is None or address == 0:
                continue
            at[g.place] = address
            if g.buffer is not None:
                buffer = _new(g.buffer, bound.real)
                if g.gathering is not None:
                    buffer[...] = 0
                at[g.place] = buffer.ctypes.data
                sums.append((g, buffer, address))
            elif g.bytes > 0:
                library.clear(address, g.bytes)
        threads = _threads(num_threads, bound.N, bound.members, 7 * bound.work)
        held, into = _scratch(threads * bound.bytes[1]), tuple(at)
        for run, starts, chunks in walk.runs:
            run.backward(operands, saved, incoming, into, walk.slots, starts, chunks, held[0], threads)
        for g, buffer, address in sums:
            if g.gathering is None:
                total = sum_to_shape(np, buffer, g.shape)
            else:
                total = _summed(buffer, g.gathering) if bound.N > 0 else np.zeros(g.shape, bound.real)
            library.round_to(np.ascontiguousarray(total), address, g.kind)


def forward_of(call: Call, keep: bool) -> _Forward:
    """The forward pass of a call, to be run on addresses, with what backward wants or without."""
    return _Forward(call, keep)


def backward_of(call: Call, incoming: tuple[Layout | None, ...]) -> _Backward:
    """The backward pass of a call, for gradients of its results with these layouts, None for zero."""
    return _Backward(call, incoming)
