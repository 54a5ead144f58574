"""Memory that is used again: fresh pages cost more than what small heads compute in them.

What forward keeps for backward, and results too, are megabytes that live for milliseconds, one after the
other of the same size. Memory given back stays here, up to IDLE_BYTES altogether, and the next that fits
takes it.
"""

from cpython.buffer cimport PyBuffer_FillInfo

cdef extern from "pages.h" nogil:
    void *allocate(size_t size)
    void release(void *memory)

cdef Py_ssize_t IDLE_BYTES = 1 << 30  # what a training step on long sequences holds at its height

cdef list idle = []  # what nobody uses at the moment, the oldest first


# Allocated once, released when nobody wants it any more.
cdef class _Memory:
    cdef void *address
    cdef readonly Py_ssize_t size

    def __cinit__(self, Py_ssize_t size):
        self.size = size
        self.address = allocate(size)
        if self.address == NULL:
            raise MemoryError(f"srwm: no memory for {size} bytes of a result or of what backward needs")

    def __dealloc__(self):
        release(self.address)


cdef class Recycled:
    """`size` bytes, not initialised, on a cache line; a buffer, which numpy.frombuffer takes."""

    cdef _Memory memory
    cdef Py_ssize_t size

    def __cinit__(self, Py_ssize_t size):
        cdef Py_ssize_t i
        self.size = size
        for i in range(len(idle)):
            # Not much more than is wanted, or a small array would hold what a large one wants.
            if size <= (<_Memory> idle[i]).size <= size + size // 8:
                self.memory = idle.pop(i)
                return
        self.memory = _Memory(size)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.memory.address, self.size, False, flags)

    def __dealloc__(self):
        cdef Py_ssize_t total = 0
        if self.memory is None or self.memory.size > IDLE_BYTES:
            return
        idle.append(self.memory)
        for memory in idle:
            total += (<_Memory> memory).size
        while total > IDLE_BYTES:
            total -= (<_Memory> idle.pop(0)).size


def idle_bytes():
    """Bytes held here that nobody uses."""
    return sum(memory.size for memory in idle)
