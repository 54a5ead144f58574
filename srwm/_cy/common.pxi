"""What the kernels of both operators share: vectors, views of arrays, segments of a sequence.

Compiled with them once per instruction set and real type. A segment is C steps; the state at the end
of each of the first `segments` is kept for the backward pass: that is all but a last one that is
short, which is replayed. Entries past the end of a row are padding up to whole vectors, and zero.
"""

from cpython.buffer cimport PyBUF_FULL_RO, PyBuffer_Release, PyObject_GetBuffer
from cython.parallel cimport prange, threadid
from libc.stdint cimport int64_t, uint8_t, uintptr_t
from libc.string cimport memcpy, memset


cdef extern from "sweeps.h" nogil:
    ctypedef float real  # or double: the header knows
    const Py_ssize_t LANES
    const Py_ssize_t VECTOR_BYTES
    void update_and_multiply(real *A, Py_ssize_t rows, Py_ssize_t width, const real *a, const real *b,
                             const real *r, const real *x, real *p, real *z)
    void multiply(const real *A, Py_ssize_t rows, Py_ssize_t width, const real *x, real *z)
    void update(real *A, Py_ssize_t rows, Py_ssize_t width, const real *a, const real *b)
    void update_twice_and_sum(real *G, Py_ssize_t rows, Py_ssize_t width, const real *r,
                              const real *g_Delta, const real *x, const real *g_o, const real *k,
                              const real *u, real *g_u, real *g_k)
    void copy(real *out, const real *a, Py_ssize_t n)
    real dot(const real *a, const real *b, Py_ssize_t width)
    void add_scaled(real *z, real s, const real *b, Py_ssize_t width)
    void scale(real *out, real s, const real *a, Py_ssize_t width)
    void subtract(real *out, const real *a, const real *b, Py_ssize_t width)
    void softmax(real *out, const real *a, const real *padding, Py_ssize_t width)
    void softmax_backward(real *g, const real *q, Py_ssize_t width)
    void sigmoid(real *out, const real *a, Py_ssize_t width)
    const real INFINITY


# One sequence of a strided array: where it starts and how far its last two axes step, in bytes.
cdef struct View:
    char *data
    Py_ssize_t outer, inner


cdef inline Py_ssize_t padded(Py_ssize_t n) noexcept nogil:
    return (n + LANES - 1) // LANES * LANES


# IN: any strided vector of n entries -> OUT: the same, contiguous.
cdef inline void read_vector(real *out, const char *a, Py_ssize_t stride, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    if stride == sizeof(real):
        copy(out, <const real *> a, n)
    else:
        for i in range(n):
            out[i] = (<const real *> (a + i * stride))[0]


# IN: strided (rows, n) -> OUT: padded (rows, n_).
cdef void read_rows(real *out, View a, Py_ssize_t rows, Py_ssize_t n, Py_ssize_t n_) noexcept nogil:
    cdef Py_ssize_t d
    if n_ != n:
        memset(out, 0, rows * n_ * sizeof(real))
    for d in range(rows):
        read_vector(out + d * n_, a.data + d * a.outer, a.inner, n)


# IN: padded (rows, n_) -> OUT: contiguous (rows, n).
cdef void write_rows(real *out, const real *a, Py_ssize_t rows, Py_ssize_t n, Py_ssize_t n_) noexcept nogil:
    cdef Py_ssize_t d
    for d in range(rows):
        copy(out + d * n, a + d * n_, n)


# IN: padded (rows, n_) -> OUT: its transpose, of which `columns` rows are wanted: (columns, rows_).
cdef void transpose(real *out, const real *a, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t n_,
                    Py_ssize_t rows_) noexcept nogil:
    cdef Py_ssize_t d, m
    memset(out, 0, columns * rows_ * sizeof(real))
    for d in range(rows):
        for m in range(columns):
            out[m * rows_ + d] = a[d * n_ + m]


cdef inline bint is_reset(View reset, Py_ssize_t t) noexcept nogil:
    return reset.data != NULL and (<uint8_t *> (reset.data + t * reset.inner))[0] != 0


# Whether step t ends a segment whose last state is kept.
cdef inline bint is_kept_after(
    Py_ssize_t t, Py_ssize_t L, Py_ssize_t C, Py_ssize_t segments
) noexcept nogil:
    return (t + 1 == L or (t + 1) % C == 0) and t // C < segments


# The last step up to t whose state before it is known: the first of a segment, or one with a reset.
cdef inline Py_ssize_t replayed_from(Py_ssize_t t, View reset, Py_ssize_t C) noexcept nogil:
    while t % C != 0 and not is_reset(reset, t):
        t -= 1
    return t


# Buffers of the arrays of one call, released together.
cdef class Buffers:
    cdef Py_buffer held[15]
    cdef int count

    def __cinit__(self):
        self.count = 0

    def __dealloc__(self):
        cdef int i
        for i in range(self.count):
            PyBuffer_Release(&self.held[i])

    cdef Py_buffer *of(self, object array) except NULL:
        PyObject_GetBuffer(array, &self.held[self.count], PyBUF_FULL_RO)
        self.count += 1
        return &self.held[self.count - 1]

    # NULL for None
    cdef Py_buffer *of_optional(self, object array) except? NULL:
        return NULL if array is None else self.of(array)


# Sequence n of an array whose leading axes broadcast to `lead` (n_lead axes).
cdef inline View sequence(const Py_buffer *a, int core, Py_ssize_t n, const Py_ssize_t *lead,
                          int n_lead) noexcept nogil:
    cdef View view
    cdef int axis, own
    view.data, view.outer, view.inner = NULL, 0, 0
    if a == NULL:
        return view
    view.data = <char *> a.buf
    for axis in range(n_lead - 1, -1, -1):
        own = axis - (n_lead - (a.ndim - core))
        if own >= 0 and a.shape[own] != 1:
            view.data += n % lead[axis] * a.strides[own]
        n //= lead[axis]
    view.inner = a.strides[a.ndim - 1]
    if core == 2:
        view.outer = a.strides[a.ndim - 2]
    return view


cdef inline real *start(const Py_buffer *a) noexcept nogil:
    return NULL if a == NULL else <real *> a.buf


# What starts at or after `address` and on a cache line.
cdef inline real *aligned(void *address) noexcept nogil:
    return <real *> ((<uintptr_t> address + 63) // 64 * 64)


# Entries from one thread's scratch to the next: whole cache lines.
cdef inline Py_ssize_t apart(Py_ssize_t entries) noexcept nogil:
    return (entries * <Py_ssize_t> sizeof(real) + 63) // 64 * 64 // <Py_ssize_t> sizeof(real)


def vector_bytes():
    """Bytes of the vectors this module computes with."""
    return VECTOR_BYTES
