"""Calls of the CUDA kernels: all but addresses and the stream is computed once, so that a call is a launch.

The parameters of a kernel follow from the operator's description (`srwm.operators.spec`). The first ones
are addresses: of the operands, of the other arrays that the pass reads and writes, of working memory. The
last is `ForwardSizes` or `BackwardSizes` of the CUDA text: counts, the leading axes of the call, and the
strides of each array; then the settings of the operator, where its states are recomputed. All are 64-bit
words, so one block of words holds them.

A `call` is a `srwm._layouts.Call`. A driver runs the kernels: a device (srwm/_raw_kernels/backend.py), or
the stand-in of the tests. It has three methods:

    limits() -> launch.Limits    what the device allows
    kernel(config, stream) -> kernel
                                 compiled and loaded there; an error if it is not yet and a CUDA graph is
                                 being captured in that stream
    launch(kernel, blocks, threads, shared_bytes, stream, extra)
                                 in that stream, without waiting for it; `extra` is the address of the
                                 argument `extra` of cuLaunchKernel, valid only during this call

`empty(nbytes)` gives the address of new memory on the device, and its owner. Owners need not outlive a
call: their memory is then reused only by later work in the same stream.
"""

from math import prod
from struct import pack
from typing import NamedTuple

import numpy as np
from libc.stdint cimport uint64_t, uintptr_t
from libc.string cimport memcpy

from srwm._cy import launch
from srwm._layouts import itemsize, real_of

cdef enum:
    LEADING = 8  # most leading axes that a kernel takes: arrays.cuh
    MOST_WORDS = 512  # of a block of parameters: CUDA allows 4 KB
    SETTINGS = 6  # replayed.cuh
    # CUDA's numbers for what follows each of them in `extra`.
    BLOCK_FOLLOWS = 1
    SIZE_OF_BLOCK_FOLLOWS = 2

# The gradient of a shared matrix is first summed within chunks of sequences: enough chunks to keep a large
# device busy, but no more than fit into these bytes. The numbers are fixed, so that sums are the same on
# every device.
MOST_CHUNKS = 1024
CHUNKS_BYTES = 1 << 26


class View(NamedTuple):
    """Strides of an array, in entries: along the leading axes of a call, between rows, within a row."""

    lead: tuple
    row: int = 0
    entry: int = 0


def view_of(layout, lead, core):
    """The view of an array with `core` axes after the leading ones; 0 along the axes of its broadcast."""
    if layout is None:
        return View((0,) * len(lead))
    size, missing = itemsize(layout.dtype), len(lead) + core - len(layout.shape)
    strides = [0 if n == 1 else stride // size for n, stride in zip(layout.shape, layout.strides)]
    strides = [0] * missing + strides
    return View(tuple(strides[: len(lead)]), *strides[len(lead):])


cdef _views_of(layouts, operands, lead):
    return [view_of(layout, lead, operand.core) for layout, operand in zip(layouts, operands, strict=True)]


cdef _contiguous(lead, order, size):
    """The view of a contiguous array of `size` entries for each sequence, with leading axes in `order`."""
    along = [0] * len(lead)
    for axis in reversed(order):
        along[axis] = size
        size *= lead[axis]
    return View(tuple(along))


def order_by_sharing(lead, own):
    """The axes of `lead`, first those along which an array of leading axes `own` is not broadcast.

    Also how many sequences share each of its matrices: in this order they are neighbours.
    """
    padded = (1,) * (len(lead) - len(own)) + own
    shared = [axis for axis, n in enumerate(padded) if n == 1]
    separate = [axis for axis, n in enumerate(padded) if n != 1]
    return separate + shared, prod([lead[axis] for axis in shared])


def sizes(op, lead, order, counts, views):
    """A kernel's last parameter, as bytes, for sequences with the axes of `lead` in `order`.

    Neighbouring axes that are contiguous in every array are merged. Raises ValueError if more axes are left
    than a kernel takes.
    """
    merged = []  # (size, strides of all arrays)
    for axis in order:
        size, strides = lead[axis], [view.lead[axis] for view in views]
        if size == 1:
            continue
        if merged:
            outer_size, outer = merged.pop()
            if outer == [size * stride for stride in strides]:
                size *= outer_size
            else:
                merged.append((outer_size, outer))
        merged.append((size, strides))
    if len(merged) > LEADING:
        raise ValueError(
            f"{op}: expected at most {LEADING} leading axes after merging those that follow each other in "
            f"memory, got {len(merged)} of {lead}; reshape the arrays, or make them contiguous"
        )
    unused = [0] * (LEADING - len(merged))
    words = [*counts, len(merged), *[size for size, _ in merged], *unused]
    for i, view in enumerate(views):
        words += [*[strides[i] for _, strides in merged], *unused, view.row, view.entry]
    return pack(f"{len(words)}q", *words)


cdef class Launch:
    """A kernel and its launch: all but the stream and the addresses, which are its first parameters."""

    cdef object driver, config, kernel
    cdef int blocks, threads, shared_bytes
    cdef bytes values  # its last parameter

    def __init__(self, driver, config, items, cached, values):
        self.driver, self.config, self.values = driver, config, values
        self.blocks = launch.grid(config, items, driver.limits().multiprocessors)
        self.threads, self.shared_bytes = config.threads, config.dynamic_bytes + cached

    cdef run(self, tuple addresses, stream):
        cdef uint64_t[MOST_WORDS] block  # on the stack: threads share this object
        cdef uintptr_t[5] extra
        cdef size_t count = len(addresses), rest = len(self.values), i
        cdef size_t size = count * sizeof(uint64_t) + rest
        if self.kernel is None:
            self.kernel = self.driver.kernel(self.config, stream)
        assert size <= sizeof(block), "more parameters than CUDA takes"
        for i in range(count):
            block[i] = addresses[i]
        memcpy(&block[count], <const char *> self.values, rest)
        extra[:] = [BLOCK_FOLLOWS, <uintptr_t> block, SIZE_OF_BLOCK_FOLLOWS, <uintptr_t> &size, 0]
        self.driver.launch(
            self.kernel, self.blocks, self.threads, self.shared_bytes, stream, <uintptr_t> extra
        )


cdef class Pass:
    """The common part of the two passes."""

    cdef Launch launch  # None: there is nothing to compute
    cdef object working_bytes

    cdef bind(self, driver, call, verb, config, items, counts, order, views):
        """Prepare the launch over `items` items of work."""
        operator, L = call.operator, call.sizes["L"]
        initial, state = [call.operands[operator.places(role)[0]] for role in ("initial", "state")]
        # If all sequences begin with one matrix, each block copies it into its shared memory.
        cached = 0
        if state is None and initial is not None:
            if prod(call.lead) > prod(operator.initials[0].lead(initial)) == 1:
                cached = config.cached_bytes
        counts = (*counts, L, operator.segments(L), cached > 0)
        values = sizes(operator.verb(verb), call.lead, order, counts, views)
        if operator.rebuild == "replay":
            numbers = operator.numbers
            values += pack(f"{SETTINGS}d", *numbers, *[0.0] * (SETTINGS - len(numbers)))
        if items > 0:
            self.launch = Launch(driver, config, items, cached, values)
            groups = self.launch.blocks * config.groups
            self.working_bytes = groups * config.working * itemsize(real_of(call.dtype))

    cdef run(self, tuple addresses, stream, empty):
        if self.launch is not None:
            working, owner = empty(self.working_bytes) if self.working_bytes else (0, None)
            self.launch.run((*addresses, working), stream)
            del owner


def outputs_of(call):
    """The entries of an output."""
    *_, Do = call.operator.output.shape((), call.sizes)
    return Do


def saved_of(call):
    """Shape and dtype of the data saved for backward: for each sequence its steps, then its matrices."""
    of = call.sizes
    entries = launch.saved_entries(call.operator.name, of["L"], of["D"], outputs_of(call))
    return (*call.lead, entries), real_of(call.dtype)


cdef class Forward(Pass):
    """The forward pass of one kind of call, on addresses."""

    def __init__(self, driver, call):
        of, lead, sequences = call.sizes, call.lead, prod(call.lead)
        config = launch.forward(
            call.operator.name, of["D"], outputs_of(call), call.dtype, driver.limits(), call.state_dtype
        )
        views = _views_of(call.operands, call.operator.flat, lead)
        self.bind(
            driver, call, "forward", config, sequences * config.tiles, (sequences,), range(len(lead)), views
        )

    def __call__(self, operands, outputs, saved, num_threads=None, stream=0, empty=None):
        """Write the results; an address is 0 if the array is not given or not needed."""
        self.run((*operands, *outputs, saved), stream, empty)


cdef class Gradient:
    """How the gradient of an operand is computed."""

    cdef object view, nbytes  # of the array that the kernel writes
    cdef Launch add_up  # adds up what the kernel wrote; None: the kernel writes the gradient itself
    cdef bint is_required  # whether the kernel writes it even if the caller does not need it

    def __init__(self, driver, call, operand, layout, shared, chunks, are_sums):
        """`shared`: the leading axes of what the sequences of a chunk share."""
        self.is_required, of_chunks = operand.role == "data", operand.role in ("initial", "parameter")
        self.view, self.nbytes = View((0,) * len(call.lead)), 0
        if layout is None:
            return
        own, real = operand.lead(layout), real_of(call.dtype)
        outer, size = prod(own), prod(layout.shape[len(own):])
        order, parts = order_by_sharing(call.lead, own)
        if of_chunks:  # each chunk has a sum
            axes, _ = order_by_sharing(call.lead, shared)
            axes = axes[:len([n for n in shared if n != 1])]
            parts = prod([call.lead[axis] for axis in axes]) // max(1, outer) * chunks
            if call.operator.rebuild == "replay":  # else the number of a chunk says where it is
                axes = [axis for axis in order if axis in axes]
                self.view = _contiguous(call.lead, axes, size * chunks)
        else:
            self.view = _contiguous(call.lead, order, size)
        written = real if of_chunks or are_sums else layout.dtype
        self.nbytes = outer * parts * size * itemsize(written)
        if written != layout.dtype or (parts != 1 and outer * size > 0):
            config = launch.add_partial_sums(layout.dtype)
            items = -(-outer * size // config.threads)
            self.add_up = Launch(driver, config, items, 0, pack("3q", outer, parts, size))


cdef _sequences_of_a_chunk(call, matrices, sharing):
    """How many sequences a chunk has: one thread group adds up their gradients of the initial matrix."""
    entries = prod(call.operator.initials[0].shape((), call.sizes))
    most = max(1, min(MOST_CHUNKS, CHUNKS_BYTES // (entries * itemsize(real_of(call.dtype)))))
    return max(1, -(-sharing // max(1, most // max(1, matrices))))


cdef class Backward(Pass):
    """The backward pass of one kind of call, on addresses.

    `incoming` are the layouts of the gradients of its results, None for a zero gradient.
    """

    cdef list gradients

    def __init__(self, driver, call, incoming):
        operator, lead, of, operands = call.operator, call.lead, call.sizes, call.operands
        # What the sequences of a chunk share. Without any of it, each is a chunk of its own.
        leads = [operator.flat[i].lead(operands[i]) for i in operator.places("initial", "parameter")
                 if operands[i] is not None]
        own = np.broadcast_shapes(*leads) if leads else lead
        order, sharing = order_by_sharing(lead, own)
        # If one gradient is a sum over sequences, the kernel writes all of them in the dtype of sums.
        are_sums = any(
            operands[i] is not None and prod(operator.flat[i].lead(operands[i])) != prod(lead)
            for i in operator.places("data", "state")
        )
        config = launch.backward(
            operator.name, of["D"], outputs_of(call), call.dtype, driver.limits(), are_sums,
            call.state_dtype,
        )
        sequences = _sequences_of_a_chunk(call, prod(own), sharing)
        chunks = -(-sharing // sequences)
        self.gradients = [
            Gradient(driver, call, operator.flat[i], operands[i], own, chunks, are_sums)
            for i in operator.differentiable
        ]
        (*_, saved), _ = saved_of(call)
        views = [
            *_views_of(operands, operator.flat, lead),
            _contiguous(lead, range(len(lead)), saved),
            *_views_of(incoming, operator.results, lead),
            *[(<Gradient> gradient).view for gradient in self.gradients],
        ]
        items = prod(own) * chunks
        counts = items, chunks, sequences, sharing
        self.bind(driver, call, "backward", config, items, counts, order, views)

    def __call__(self, operands, saved, incoming, gradients, num_threads=None, stream=0, empty=None):
        """Write the gradients; an address is 0 if the array is not given or not needed."""
        cdef Gradient gradient
        written, owners = [], []
        for gradient, address in zip(self.gradients, gradients, strict=True):
            if gradient.add_up is not None if address else gradient.is_required:
                address, owner = empty(gradient.nbytes)
                owners.append(owner)
            written.append(address)
        self.run((*operands, saved, *incoming, *written), stream, empty)
        for gradient, partial_sums, address in zip(self.gradients, written, gradients):
            if address and gradient.add_up is not None:
                gradient.add_up.run((partial_sums, address), stream)


def configs_of(operator, D, Do, dtype, limits):
    """Configs of the kernels that calls with these sizes and this dtype need."""
    configs = []
    for state in {dtype, real_of(dtype)}:
        configs.append(launch.forward(operator.name, D, Do, dtype, limits, state))
        for are_sums in (False, True):
            configs.append(launch.backward(operator.name, D, Do, dtype, limits, are_sums, state))
        configs.append(launch.add_partial_sums(state))
    return configs
