"""Memory that is reused: page faults in new memory cost more time than small heads compute.

Results and the data saved for backward are megabytes, live for milliseconds, and are followed by others of
the same size. Released memory stays here, idle, up to IDLE_BYTES in total; the next request of its size
class takes it. If there would be more, the memory that has been idle for longest goes back to the system;
`release_idle` gives back all of it.

All lists are linked through the idle memory itself. So every operation takes constant time, and none
allocates: an allocation may start Python's garbage collector, which may release memory to this module. The
GIL is the lock. A free-threaded Python turns the GIL on when it imports this module, because the module
does not declare that it runs without.
"""

from math import prod

import numpy as np
from cpython.buffer cimport PyBuffer_FillInfo

cdef extern from "pages.h" nogil:
    void *allocate(size_t size)
    void release(void *memory)
    void trim()

# Arrays of at least this size are recycled. Smaller ones come from pages that are in use anyway.
RECYCLED_BYTES = 64 << 10

cdef size_t IDLE_BYTES = 256 << 20  # 1/32 of 8 GB

cdef enum:
    SMALLEST = 64  # bytes: large enough for an Idle
    CLASSES = 512  # eight for each doubling of the size, up to any size


# The header at the start of idle memory.
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


# The class of a size. OUT: `rounded`, the size of all memory of the class, at most 1/8 or 63 bytes more.
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


# The memory of the class that was released last: it is most likely still in a cache.
cdef void *take(int size_class) noexcept nogil:
    cdef Idle *memory = top[size_class]
    if memory != NULL:
        unlink(memory)
    return memory


cdef class Recycled:
    """`size` bytes, not initialised, aligned to a cache line; supports the buffer protocol."""

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
        if self.address == NULL:  # idle memory of other sizes may make room
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
    """An array of this numpy.dtype, not initialised; a large one is in recycled memory."""
    size = prod(shape) * dtype.itemsize
    if size < RECYCLED_BYTES:
        return np.empty(shape, dtype)
    return np.frombuffer(memoryview(Recycled(size)).cast("B"), np.uint8).view(dtype).reshape(shape)


def room(Py_ssize_t size):
    """Memory of `size` bytes: its address, and the object that owns it."""
    cdef Recycled memory = Recycled(size)
    return <size_t> memory.address, memory


def idle_bytes():
    """Bytes of idle memory held here."""
    return idle_total


def release_idle():
    """Give all idle memory back to the system."""
    release_oldest(0)
    trim()
