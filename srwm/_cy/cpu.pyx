# cython: boundscheck=True, wraparound=True, cdivision=False
"""Calls bound to the CPU kernels: what follows from layouts is computed once; a run only takes addresses.

The kernels use the description of the operator. A call is bound for both layouts (lanes.h): sequences one
at a time, or many side by side, one in each lane of a vector. Sequences are numbered by positions; those
with the same initial matrix are neighbours. The caller allocates all memory.
"""

from functools import lru_cache
from math import prod
from typing import NamedTuple
from zlib import crc32

import numpy as np

from srwm._layouts import contiguous, itemsize, real_of
from srwm._threads import threads_allowed

# Sequences are computed side by side if their matrices are small, and if there are at least this many
# steps: it takes time to transpose the matrices into that layout.
SIDE_BY_SIDE_STEPS = 4

# Below this much work (in multiply-adds; 0.2 ms) a second thread costs more than it saves: it takes
# milliseconds to wake a thread that has been idle for long.
WORK_PER_THREAD = 1 << 22

# With fewer sequences than threads, several threads share one sequence if each gets at least this many
# entries of its matrix: two threads from D = 148 on (Do = D). The two products of a step with so many
# entries take 2.8 us forward in float32 (AVX2, 2.4 GHz), and over twice that backward. Sharing costs one
# meeting of the threads a step, 0.2 us for two, and each thread computes the softmaxes. Two threads of one
# core save a third of the time at D = 256, and hardly any at 128. Two cores would gain with fewer entries,
# too. But if other programs use the processors as well, the threads wait for each other at every step,
# which a small gain is not worth.
WORK_PER_MEMBER = 1 << 15

# Largest number of chunks of sequences. The gradient of a shared W is first summed within each chunk, then
# over the chunks. The number is fixed, so that the sums do not depend on the number of threads.
CHUNKS = 64

cdef enum:
    LINE = 64  # bytes of a cache line

cdef dict KINDS = {"float16": 1, "bfloat16": 2}  # dtype -> kind of entries in the kernels; 0 for others


def entries_saved(kernels, call):
    """Entries saved for a sequence: whole cache lines, enough for both layouts and the mark at the end.

    The length may be a symbol of torch's compiler.
    """
    L, line, op = call.sizes["L"], LINE // itemsize(real_of(call.dtype)), call.operator
    of = layout_of(kernels(real_of(call.dtype), "one"), call)
    kept = op.segments(L) * of.kept + -(-L // op.segment) * of.growth
    return -(-(L * of.step + kept + 1) // line) * line


class KernelLayout(NamedTuple):
    """What kernels in one layout need of memory, for a matrix (D, ...) and outputs (Do)."""

    step: int  # entries saved of a sequence for each step
    kept: int  # for the matrix of a segment, and what else there is
    growth: int  # for whether that has grown
    matrix: int  # entries of a matrix
    forward_scratch: int  # entries of a thread's working memory
    backward_scratch: int
    most_forward: int  # bytes of matrices up to which sequences gain by being side by side
    most_backward: int  # with a backward pass
    shares: bool  # whether several threads may compute a sequence


cdef layout_of(module, call):
    """That of the kernels of a module for a call."""
    op = call.operator
    rows = op.initials[0].shape((), call.sizes)[0]
    return KernelLayout(*module.layout(op.name, rows, op.output.shape((), call.sizes)[-1], op.segment))


def most_bytes(layout, bint save):
    """Largest size in bytes of the matrices of sequences side by side; `save`: with a backward pass."""
    return layout.most_backward if save else layout.most_forward


cdef tuple record(a, of, tuple lead):
    """An array as the kernels take it: outer stride, inner stride, strides along `lead`, kind of entries.

    Strides are in bytes; the outer and inner ones are those of the last two axes. The leading axes of the
    array broadcast to `lead`.
    """
    if a is None:
        return None
    own = of.lead(a)
    along = [0 if n == 1 else step for n, step in zip(own, a.strides)]
    outer = a.strides[-2] if of.core == 2 else 0
    return outer, a.strides[-1], (*(0,) * (len(lead) - len(own)), *along), KINDS.get(a.dtype, 0)


cdef list records(operands, layouts, tuple lead):
    return [record(a, of, lead) for of, a in zip(operands, layouts, strict=True)]


def by_entry(tuple lead, tuple own):
    """Which sequences of `lead` share each array of the axes `own`: int64 (arrays, sequences of each)."""
    padded = (1,) * (len(lead) - len(own)) + own
    axes = sorted(range(len(lead)), key=lambda axis: padded[axis] == 1)
    index = np.arange(prod(lead), dtype=np.int64).reshape(lead).transpose(axes)
    return index.reshape(prod(own), prod(n for n, m in zip(lead, padded) if m == 1))


@lru_cache(maxsize=16)  # an entry has the length of the number of sequences
def order_of(tuple lead, tuple initial_lead):
    """An order of the sequences in which those that share a matrix are neighbours; None: they are."""
    together = prod(initial_lead) in (1, prod(lead))
    return None if together else by_entry(lead, initial_lead).reshape(-1)


class Gathering(NamedTuple):
    """How gradients of shared matrices are summed: each chunk adds to slots, then slots are added up."""

    slots: np.ndarray  # for each position the slot to which its gradient is added
    starts: np.ndarray  # the first slot of each matrix, then the end of the last one
    many: np.ndarray  # where the chunks of positions computed side by side start, then the end
    one: np.ndarray  # the same for the other positions


@lru_cache(maxsize=16)
def gathering_of(tuple lead, tuple initial_lead, tuple own, Py_ssize_t side_by_side, Py_ssize_t lanes):
    """The Gathering of matrices with leading axes `own`, for sequences in the order of `initial_lead`."""
    N, order = prod(lead), order_of(lead, initial_lead)
    many, one = chunks(0, side_by_side, lanes), chunks(side_by_side, N, 1)
    number = len(many) + len(one)
    matrix = np.broadcast_to(np.arange(prod(own)).reshape(own), lead).reshape(-1)
    chunk = np.searchsorted(np.concatenate([many[:-1], one[:-1]]), np.arange(N), side="right")
    of_slot, slots = np.unique(
        (matrix if order is None else matrix[order]) * number + chunk, return_inverse=True
    )
    starts = np.searchsorted(of_slot // number, np.arange(prod(own) + 1))
    return Gathering(slots.astype(np.int64, copy=False), starts.astype(np.int64, copy=False), many, one)


def forget():
    """Forget the arrays that are as long as there are sequences, but for those of plans."""
    order_of.cache_clear()
    gathering_of.cache_clear()


cdef chunks(Py_ssize_t first, Py_ssize_t last, Py_ssize_t lanes):
    """Where the chunks of positions first ... last - 1 start, then where the last one ends."""
    size = lanes * max(1, -(-((last - first) // lanes) // CHUNKS))
    return np.append(np.arange(first, last, size, dtype=np.int64), np.int64(last))


cdef class Bound:
    """The common part of the two passes of a call."""

    cdef readonly object call, one, many, order
    cdef tuple initial_lead
    cdef str real
    cdef readonly Py_ssize_t N, lanes, saved
    cdef Py_ssize_t work, members, signature, scratch
    cdef bint fits

    def __init__(self, kernels, call, bint save, bint backward, list results, list incoming,
                 list gradients):
        cdef Py_ssize_t bytes_each
        op, sizes, lead = call.operator, call.sizes, call.lead
        initial, L = op.initials[0], sizes["L"]
        self.call, self.real, self.N = call, real_of(call.dtype), prod(lead)
        entries = prod(initial.shape((), sizes))
        self.work = self.N * L * entries  # multiply-adds of one product with the matrix in every step
        self.initial_lead = self.lead_of(op.places("initial")[0])
        self.order = order_of(lead, self.initial_lead)
        self.saved = entries_saved(kernels, call)
        modules = [kernels(self.real, layout) for layout in ("one", "many")]
        one, many = (layout_of(module, call) for module in modules)
        # Most threads that share one sequence.
        self.members = max(1, entries // WORK_PER_MEMBER) if one.shares else 1
        Do = op.output.shape((), sizes)[-1]
        of_kernels = initial.shape((), sizes)[0], Do, L, op.segment, op.segments(L)
        # The saved data are of these operands, in this order of sequences: backward of another call must
        # not read them.
        given = [a is not None for a in call.operands]
        of_call = op.key, of_kernels, lead, None if self.order is None else self.initial_lead, given
        self.signature = crc32(repr(of_call).encode()) & 0xFFFF
        bytes_each, self.lanes = itemsize(self.real), modules[1].sequences()
        scratch = [of.backward_scratch if backward else of.forward_scratch for of in (one, many)]
        self.scratch = bytes_each * max(scratch)  # of a thread
        self.fits = (
            self.lanes > 1
            and L >= SIDE_BY_SIDE_STEPS
            and many.matrix * self.lanes * bytes_each <= most_bytes(many, save)
        )
        arrays = records(op.flat, call.operands, lead), results, incoming, gradients
        rest = self.saved, self.order, self.members, self.signature
        arguments = op.name, of_kernels, op.numbers, lead, *arrays, *rest
        self.one, self.many = [module.BoundKernels(*arguments) for module in modules]

    cdef tuple lead_of(self, int place):
        """The leading axes of an operand, none if it is not given."""
        a = self.call.operands[place]
        return () if a is None else self.call.operator.flat[place].lead(a)

    cdef int threads(self, num_threads, Py_ssize_t products) except -1:
        """The number of threads for a pass with `products` products with the matrix in every step."""
        cdef Py_ssize_t most = self.N * self.members, work = products * self.work, least = WORK_PER_THREAD
        if work < 2 * least or most < 2 or not threads_allowed():
            return 1
        wanted = num_threads() if callable(num_threads) else num_threads
        return max(1, min(wanted, most, work // least))

    cpdef Py_ssize_t side_by_side(self, Py_ssize_t threads):
        """How many positions, from the first on, `threads` threads compute side by side."""
        cdef Py_ssize_t number = self.N // self.lanes
        return number * self.lanes if self.fits and number >= threads else 0


cdef class Forward(Bound):
    """The forward pass of a call; `save`: a backward pass may follow."""

    def __init__(self, kernels, call, bint save):
        op = call.operator
        shapes = [of.shape(call.lead, call.sizes) for of in op.results]
        results = [contiguous(shape, dtype) for shape, dtype in zip(shapes, call.result_dtypes)]
        super().__init__(kernels, call, save, False, records(op.results, results, call.lead), [], [])

    def __call__(self, tuple operands, tuple outputs, saved, num_threads, stream, empty):
        """Write the outputs and the data saved for backward, unless their addresses are 0."""
        cdef int threads = self.threads(num_threads, 3)
        cdef Py_ssize_t many = self.side_by_side(threads)
        scratch, _owner = empty(threads * self.scratch)
        if many > 0:
            self.many.forward(operands, outputs, saved, scratch, 0, many, threads)
        if many < self.N:
            self.one.forward(operands, outputs, saved, scratch, many, self.N - many, threads)


class Gradient(NamedTuple):
    """Where the gradient of an operand is computed, for one layout of a call."""

    place: int  # of the operand
    zeroed: int  # bytes to zero first, because sequences add to them: of the gradient or of the parts
    parts: int | None  # bytes of partial sums that are computed first; None: directly the gradient
    index: np.ndarray | None  # the parts of each sum, one sum after the other; None: 0, 1, 2, ...
    starts: np.ndarray  # where the parts of each sum begin, then the end
    entries: int  # of a sum
    kind: int  # of the entries of the gradient


class Walk(NamedTuple):
    """All that depends on how many sequences are computed side by side."""

    runs: tuple  # (kernels, address of the starts of chunks, chunks)
    gradients: tuple  # of the differentiable operands; None for one that is not given
    slots: tuple  # for each operand, the address of its slots or 0
    owner: object


cdef class Backward(Bound):
    """The backward pass of a call, for gradients of its results with these layouts."""

    cdef object library
    cdef dict walks

    def __init__(self, kernels, call, incoming):
        op, lead, real = call.operator, call.lead, real_of(call.dtype)
        gradients = [None] * len(op.flat)
        for i in op.differentiable:
            a, of = call.operands[i], op.flat[i]
            if a is not None and of.role == "data":
                dtype = real if is_summed(call, i) else a.dtype
                gradients[i] = record(contiguous(of.shape(lead, call.sizes), dtype), of, lead)
            elif a is not None:  # the only leading axis is that of the slots
                slot = contiguous(of.shape((1,), call.sizes), real)
                gradients[i] = (*record(slot, of, ())[:2], slot.strides[:1], 0)
        incoming = records(op.results, incoming, lead)
        super().__init__(kernels, call, True, True, [], incoming, gradients)
        self.library, self.walks = kernels(real, "one"), {}

    def __call__(self, tuple operands, saved, tuple incoming, tuple gradients, num_threads, stream, empty):
        """Write the gradients, unless their addresses are 0, from the data that forward saved."""
        cdef int threads = self.threads(num_threads, 7)
        cdef list at = [0] * len(operands), sums = []
        library = self.library
        walk = self.walk(library.side_by_side(saved, self.N, self.saved, self.lanes, self.signature))
        for g, address in zip(walk.gradients, gradients, strict=True):
            if g is not None and address != 0:
                at[g.place] = address
                if g.parts is not None:
                    at[g.place], owner = empty(g.parts)
                    sums.append((g, at[g.place], address, owner))
                library.clear(at[g.place], g.zeroed)
        scratch, _owner = empty(threads * self.scratch)
        into = tuple(at)
        for run, starts, number in walk.runs:
            run.backward(operands, saved, incoming, into, walk.slots, starts, number, scratch, threads)
        for g, parts, address, _ in sums:
            library.add_up(parts, g.index, g.starts, g.entries, address, g.kind)

    cdef walk(self, Py_ssize_t many):
        """The chunks and gradients if `many` positions are computed side by side."""
        walk = self.walks.get(many)
        if walk is not None:
            return walk
        call = self.call
        if many < 0:
            raise ValueError(
                f"{call.operator.verb('backward')}: saved: expected what forward saved for backward, "
                f"{self.real} {(*call.lead, self.saved)}, got other content; pass what forward of the same "
                "operands returned"
            )
        base = gathering_of(call.lead, self.initial_lead, self.initial_lead, many, self.lanes)
        slots, gradients, held = [0] * len(call.operands), [], [base]
        for i in call.operator.differentiable:
            if call.operands[i] is None:
                gradients.append(None)
            elif call.operator.flat[i].role == "data":
                gradients.append(self.of_steps(i))
            else:
                gathering = gathering_of(call.lead, self.initial_lead, self.lead_of(i), many, self.lanes)
                slots[i] = gathering.slots.ctypes.data
                gradients.append(self.of_matrix(i, gathering.starts))
                held.append(gathering)
        runs = [
            (kernels, starts.ctypes.data, len(starts) - 1)
            for kernels, starts in ((self.many, base.many), (self.one, base.one))
            if len(starts) > 1
        ]
        walk = self.walks[many] = Walk(tuple(runs), tuple(gradients), tuple(slots), held)
        return walk

    cdef of_steps(self, int i):
        """The Gradient of an operand with entries for each step."""
        call, a, of = self.call, self.call.operands[i], self.call.operator.flat[i]
        parts = index = None
        starts, entries = np.zeros(1, np.int64), prod(of.shape((), call.sizes))
        if is_summed(call, i):
            index = by_entry(call.lead, self.lead_of(i))
            starts = np.arange(len(index) + 1, dtype=np.int64) * index.shape[1]
            index, parts = index.reshape(-1), self.N * entries * itemsize(self.real)
        return Gradient(i, 0, parts, index, starts, entries, KINDS.get(a.dtype, 0))

    cdef of_matrix(self, int i, starts):
        """The Gradient of a matrix: each sequence adds to a slot."""
        dtype, of = self.call.operands[i].dtype, self.call.operator.flat[i]
        entries = prod(of.shape((), self.call.sizes))
        slots = entries * itemsize(self.real) * starts[-1]
        parts = None if dtype == self.real and starts[-1] == len(starts) - 1 else slots
        return Gradient(i, slots, parts, None, starts, entries, KINDS.get(dtype, 0))


cdef bint is_summed(call, int i):
    """Whether the gradient of an operand with entries for each step is a sum over sequences."""
    return prod(call.operator.flat[i].lead(call.operands[i])) != prod(call.lead)
