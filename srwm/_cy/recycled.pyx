"""Memory that is used again: fresh pages cost more than what small heads compute in them.

What forward keeps for backward, and results too, are megabytes that live for milliseconds, one after the
other of the same size. Memory given back stays here, idle, up to IDLE_BYTES altogether, and the next that
wants one of its size class takes it. Where there would be more, the memory that has been idle for longest
goes back to the system; `release_idle` gives back all of it.

Every list here is linked through the idle memory itself, so that no step of it takes longer where there
is more, or allocates: an allocation may start Python's garbage collector, which comes back here. The GIL is
the lock. A free-threaded Python turns it on when it imports this module, since nothing here says that it
could do without.
"""

from math import prod

import numpy as np
from cpython.buffer cimport PyBuffer_FillInfo

cdef extern from "pages.h" nogil:
    void *allocate(size_t size)
    void release(void *memory)
    void trim()

# From this size on arrays are recycled: smaller ones come from memory that is in use anyway.
RECYCLED_BYTES = 64 << 10

cdef size_t IDLE_BYTES = 256 << 20  # a thirtieth of a small laptop's memory

cdef enum:
    SMALLEST = 64  # bytes, so that what links idle memory has room in it
    CLASSES = 512  # eight for each doubling of the size, of any size there is


# What idle memory begins with.
cdef struct Idle:
    size_t size
    int size_class
    Idle *older
    Idle *newer
    Idle *above  # of the same class
    Idle *below

cdef Idle *oldest = NULL
cdef Idle *newest = NULL
cdef Idle *top[CLASSES]
cdef size_t idle_total = 0


# The class of a size, and the bytes that all of the class have: at most an eighth, or 63 bytes, more.
cdef int class_of(size_t size, size_t *rounded) noexcept nogil:
    cdef size_t step = SMALLEST
    cdef size_t steps
    cdef int first = 0
    while size > 16 * step:
        step *= 2
        first += 8
    steps = 1 if size == 0 else (size - 1) // step + 1
    rounded[0] = steps * step
    return first + <int> steps


cdef void unlink(Idle *memory) noexcept nogil:
    global oldest, newest, idle_total
    if memory.older == NULL:
        oldest = memory.newer
    else:
        memory.older.newer = memory.newer
    if memory.newer == NULL:
        newest = memory.older
    else:
        memory.newer.older = memory.older
    if memory.above == NULL:
        top[memory.size_class] = memory.below
    else:
        memory.above.below = memory.below
    if memory.below != NULL:
        memory.below.above = memory.above
    idle_total -= memory.size


cdef void release_oldest(size_t most) noexcept nogil:
    cdef Idle *memory
    while idle_total > most:
        memory = oldest
        unlink(memory)
        release(memory)


cdef void give_back(void *address, size_t size, int size_class) noexcept nogil:
    global oldest, newest, idle_total
    cdef Idle *memory = <Idle *> address
    if size > IDLE_BYTES:
        release(address)
        return
    memory.size, memory.size_class = size, size_class
    memory.older, memory.newer = newest, NULL
    if newest == NULL:
        oldest = memory
    else:
        newest.newer = memory
    newest = memory
    memory.above, memory.below = NULL, top[size_class]
    if memory.below != NULL:
        memory.below.above = memory
    top[size_class] = memory
    idle_total += size
    release_oldest(IDLE_BYTES)


# Of the class, what was given back last: its pages are most likely in a cache.
cdef void *take(int size_class) noexcept nogil:
    cdef Idle *memory = top[size_class]
    if memory != NULL:
        unlink(memory)
    return memory


cdef class Recycled:
    """`size` bytes, not initialised, on a cache line; a buffer, which numpy.frombuffer takes."""

    cdef void *address
    cdef Py_ssize_t size
    cdef size_t rounded
    cdef int size_class

    def __cinit__(self, Py_ssize_t size):
        self.size = size
        self.size_class = class_of(size, &self.rounded)
        self.address = take(self.size_class)
        if self.address == NULL:
            self.address = allocate(self.rounded)
        if self.address == NULL:  # perhaps there is room where memory of other sizes is idle
            release_oldest(0)
            self.address = allocate(self.rounded)
        if self.address == NULL:
            raise MemoryError(f"srwm: no memory for {size} bytes of a result or of what backward needs")

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.address, self.size, False, flags)

    def __dealloc__(self):
        if self.address != NULL:
            give_back(self.address, self.rounded, self.size_class)


def empty(tuple shape, dtype):
    """An array of this numpy.dtype, not initialised; a large one on memory that was used before."""
    size = prod(shape) * dtype.itemsize
    if size < RECYCLED_BYTES:
        return np.empty(shape, dtype)
    return np.frombuffer(memoryview(Recycled(size)).cast("B"), np.uint8).view(dtype).reshape(shape)


def room(Py_ssize_t size):
    """Memory of so many bytes: its address, and what keeps it."""
    cdef Recycled memory = Recycled(size)
    return <size_t> memory.address, memory


def idle_bytes():
    """Bytes held here that nobody uses."""
    return idle_total


def release_idle():
    """Give all of them back to the system."""
    release_oldest(0)
    trim()
