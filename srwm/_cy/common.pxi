"""What the kernels of both operators share: vectors, views of arrays, segments of a sequence.

Compiled with them once per instruction set, real type and layout (lanes.h): one sequence at a time, or
as many as a vector has lanes side by side, SEQUENCES. A segment is C steps; the state at the end of each
of the first `segments` is kept for the backward pass: that is all but a last one that is short, which is
replayed. Letters with an underscore (D_, M_) count entries as they are laid out inside: of all sequences
at hand, padded with zeros to whole vectors; small letters (d, m) count those vectors.
"""

from cpython.buffer cimport PyBUF_FULL_RO, PyBuffer_Release, PyObject_GetBuffer
from cython.parallel cimport parallel, threadid
from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport memcpy, memset


cdef extern from "sweeps.h" nogil:
    ctypedef float real  # or double: the header knows
    const Py_ssize_t LANES, SEQUENCES, STRIDE
    const Py_ssize_t VECTOR_BYTES
    const real INFINITY
    Py_ssize_t vectors_for(Py_ssize_t n)
    void multiply(const real *A, Py_ssize_t rows, Py_ssize_t width, const real *x, real *z)
    void multiply_twice(real *A, Py_ssize_t rows, Py_ssize_t width, const real *r, const real *x, real *p,
                        real *z)
    void update(real *A, Py_ssize_t rows, Py_ssize_t width, int terms, const real *a, const real *b)
    void update_and_multiply(real *A, Py_ssize_t rows, Py_ssize_t width, int terms, const real *a,
                             const real *b, const real *r, const real *x, real *p, real *z)
    void update_and_multiply_both(real *G, Py_ssize_t rows, Py_ssize_t width, int terms, const real *a,
                                  const real *b, const real *k, const real *u, real *g_u, real *g_k)
    void transpose(real *out, Py_ssize_t out_width, const real *A, Py_ssize_t apart, Py_ssize_t rows,
                   Py_ssize_t width)


cdef extern from "gates.h" nogil:
    void add_missing(real *z, const real *x, const real *k, Py_ssize_t over, const real *u,
                     Py_ssize_t width)
    void subtract(real *out, const real *a, const real *b, Py_ssize_t width)
    void negate(real *out, const real *a, Py_ssize_t width)
    void scale(real *out, const real *s, Py_ssize_t i, const real *a, Py_ssize_t width)
    void finish(real *Delta, real *u, real *z, const real *beta, Py_ssize_t i, int terms, const real *b,
                Py_ssize_t b_apart, const real *missing_Delta, const real *missing_z, const real *coming,
                Py_ssize_t width)
    void scale_backward(real *g_Delta, real *g_beta, Py_ssize_t i, const real *g_u, int terms,
                        const real *b, Py_ssize_t b_apart, const real *missing, const real *beta,
                        const real *Delta, Py_ssize_t width)
    void dot(real *out, Py_ssize_t i, const real *a, const real *b, Py_ssize_t width)
    void softmaxes(real *out, const real *a, const real *padding, Py_ssize_t width)
    void softmax_backward(real *out, const real *g, const real *q, Py_ssize_t width)
    void sigmoid(real *out, const real *a, Py_ssize_t width)
    void sigmoid_backward(real *out, const real *g, const real *beta, Py_ssize_t width)


cdef extern from "growth.h" nogil:
    const int PRODUCT, UPDATES, START, DELTA_GROWTHS
    void add_squares(real *sum, const real *a, Py_ssize_t width)
    bint has_grown(const real *updates, const real *start, Py_ssize_t n, Py_ssize_t steps)
    void measure_step(real *growth, const real *beta, const real *k, Py_ssize_t d, const real *v_bar,
                      const real *Delta, Py_ssize_t o)
    bint has_delta_grown(const real *growth)


cdef extern from "views.h" nogil:
    const int REAL, FLOAT16, BFLOAT16
    # Of one array, the part of each sequence at hand.
    ctypedef struct View:
        char **data
        Py_ssize_t outer, inner
        int kind
    bint is_shared(const View *a)
    bint is_reset(const View *reset, Py_ssize_t t, Py_ssize_t sequence)
    bint any_reset(const View *reset, Py_ssize_t t)
    bint all_reset(const View *reset, Py_ssize_t t)
    void fetch(const void *p, Py_ssize_t nbytes)
    void fetch_row(const View *a, Py_ssize_t at, Py_ssize_t n)
    real read_entry(const char *p, int kind)
    void read_row(real *out, const View *a, Py_ssize_t at, Py_ssize_t n)
    void read_shared_row(real *out, const View *a, Py_ssize_t at, Py_ssize_t n)
    void write_row(const View *a, Py_ssize_t at, const real *columns, Py_ssize_t n)
    void add_row(const View *a, Py_ssize_t at, const real *columns, Py_ssize_t n)
    real *entry_of(real *columns, Py_ssize_t column, Py_ssize_t sequence)
    void copy_where_reset(real *out, const real *a, Py_ssize_t width, const View *reset, Py_ssize_t t)


cdef extern from "team.h" nogil:
    const Py_ssize_t ENTRIES_OF_LINE
    ctypedef struct Team:
        Py_ssize_t size, member
        Py_ssize_t first, last
        Py_ssize_t turn
    int threads_here()
    unsigned long long floating_control()
    void set_floating_control(unsigned long long control)
    Py_ssize_t lines_of(Py_ssize_t entries)
    Py_ssize_t member_start(const Team *team, Py_ssize_t member, Py_ssize_t entries)
    void prepare_teams(real *scratch, Py_ssize_t apart, Py_ssize_t threads)
    bint join_team(Team *team, Py_ssize_t thread, Py_ssize_t threads, Py_ssize_t pieces, Py_ssize_t most,
                   real *scratch, Py_ssize_t apart)
    void meet(Team *team)
    real *shared_row(const Team *team, Py_ssize_t after, Py_ssize_t n)
    real *partial_sums(const Team *team, Py_ssize_t n)
    const real *meet_and_add(Team *team, real *sums, Py_ssize_t n)


cdef enum:
    LATE = 2  # steps whose updates one sweep adds to a matrix: a store costs more than the products with it


# Whether step t ends a segment whose last state is kept.
cdef inline bint is_kept_after(
    Py_ssize_t t, Py_ssize_t L, Py_ssize_t C, Py_ssize_t segments
) noexcept nogil:
    return (t + 1 == L or (t + 1) % C == 0) and t // C < segments


# Whether step t is the last one of its segment.
cdef inline bint ends_segment(Py_ssize_t t, Py_ssize_t L, Py_ssize_t C) noexcept nogil:
    return t + 1 == L or (t + 1) % C == 0


# The last step up to t whose state before it is known: the first of a segment, or one with a reset.
cdef inline Py_ssize_t replayed_from(Py_ssize_t t, const View *reset, Py_ssize_t C) noexcept nogil:
    while t % C != 0 and not all_reset(reset, t):
        t -= 1
    return t


# The columns of a matrix that a member of a thread group has. In memory they lie beside each other, inside
# each block of them begins with a vector.
cdef struct Columns:
    Py_ssize_t rows              # of the matrix
    Py_ssize_t entries           # of one of its rows, as laid out inside
    Py_ssize_t blocks
    Py_ssize_t[4] first, number  # of each block: its first column and how many, in memory
    Py_ssize_t[4] room           # entries inside
    Py_ssize_t growths, growth_first, growth_number  # entries that say whether states grew: of all, its own


# Where forward says of a segment whether its state may have grown (growth.h): the members of a group, who see
# their own columns alone, may say so differently, and groups differ forward and backward. So there is an entry
# for each cache line of columns; of sequences side by side, one for each of them.
cdef inline void set_growths(Columns *c, Py_ssize_t first_, Py_ssize_t all_) noexcept nogil:
    c.growths, c.growth_first, c.growth_number = SEQUENCES, 0, SEQUENCES
    if SEQUENCES == 1:
        c.growths, c.growth_first = lines_of(all_), first_ // ENTRIES_OF_LINE
        c.growth_number = lines_of(c.entries)


cdef inline void save_growth(real *growths, bint has_grown, const Columns *c) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(c.growth_first, c.growth_first + c.growth_number):
        growths[i] = has_grown


cdef inline bint may_have_grown(const real *growths, const Columns *c) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(c.growth_first, c.growth_first + c.growth_number):
        if growths[i] != 0:
            return True
    return False


# Segments of L steps, a short last one too.
cdef inline Py_ssize_t all_segments(Py_ssize_t L, Py_ssize_t C) noexcept nogil:
    return (L + C - 1) // C


# IN: (rows, columns) of each sequence, or none -> OUT: (rows, entries), zeros for none.
cdef void read_matrix(real *A, const View *W, const Columns *c) noexcept nogil:
    cdef Py_ssize_t d, i, at
    cdef bint shared
    if W.data[0] == NULL:
        memset(A, 0, c.rows * c.entries * sizeof(real))
        return
    shared = is_shared(W)
    for d in range(c.rows):
        for i in range(c.blocks):
            at = d * W.outer + c.first[i] * W.inner
            if shared:
                read_shared_row(A, W, at, c.number[i])
            else:
                read_row(A, W, at, c.number[i])
            A += c.room[i]


# As read_matrix, of the sequences alone that begin anew before step t.
cdef void read_reset_matrices(real *A, const View *W, const View *reset, Py_ssize_t t,
                              const Columns *c) noexcept nogil:
    cdef Py_ssize_t i, d, j
    if all_reset(reset, t):
        read_matrix(A, W, c)
        return
    for i in range(SEQUENCES):
        if is_reset(reset, t, i):
            for d in range(c.rows):
                for j in range(c.number[0]):
                    entry_of(A + d * c.entries, j, i)[0] = (
                        0 if W.data[0] == NULL
                        else read_entry(W.data[i] + d * W.outer + j * W.inner, W.kind)
                    )


# What all sequences start with: `state` if there is one, but where a reset comes first; NULL where they differ.
cdef inline const View *start_of(const View *initial, const View *state, const View *reset) noexcept nogil:
    if state.data[0] == NULL or all_reset(reset, 0):
        return initial
    if any_reset(reset, 0):
        return NULL
    return state


# The matrices that sequences start with.
cdef void read_start(real *A, const View *initial, const View *state, const View *reset,
                     const Columns *c) noexcept nogil:
    cdef const View *start = start_of(initial, state, reset)
    if start != NULL:
        read_matrix(A, start, c)
    else:
        read_matrix(A, state, c)
        read_reset_matrices(A, initial, reset, 0, c)


# IN: (rows, entries) -> OUT: (rows, columns) of each sequence, overwritten, or added to.
cdef void write_matrix(const View *W, const real *A, bint added, const Columns *c) noexcept nogil:
    cdef Py_ssize_t d, i, at
    for d in range(c.rows):
        for i in range(c.blocks):
            at = d * W.outer + c.first[i] * W.inner
            if added:
                add_row(W, at, A, c.number[i])
            else:
                write_row(W, at, A, c.number[i])
            A += c.room[i]


# The gradients G (rows, entries) of the sequences that begin before step t are complete: added to those of what
# they began with, and zero. All begin before step 0: with `state` if there is one, but where a reset comes first.
cdef void hand_over(const View *g_initial, const View *g_state, const View *state, real *G,
                    const View *reset, Py_ssize_t t, const Columns *c) noexcept nogil:
    cdef Py_ssize_t i, d, j
    cdef const View *g = g_initial
    cdef real *entry
    if (t > 0 or state.data[0] != NULL) and not all_reset(reset, t):
        g = NULL
        if t == 0 and not any_reset(reset, t):
            g = g_state
    if g != NULL:
        if g.data[0] != NULL:
            write_matrix(g, G, True, c)
        memset(G, 0, c.rows * c.entries * sizeof(real))
        return
    for i in range(SEQUENCES):
        if t > 0 and not is_reset(reset, t, i):
            continue
        g = g_initial if is_reset(reset, t, i) else g_state
        for d in range(c.rows):
            for j in range(c.number[0]):
                entry = entry_of(G + d * c.entries, j, i)
                if g.data[0] != NULL:
                    (<real *> (g.data[i] + d * g.outer + j * g.inner))[0] += entry[0]
                entry[0] = 0


# IN: (rows, columns), rows `step` entries apart -> OUT: likewise, `out_step` apart.
cdef inline void copy_rows(real *out, Py_ssize_t out_step, const real *A, Py_ssize_t step, Py_ssize_t rows,
                           Py_ssize_t columns) noexcept nogil:
    cdef Py_ssize_t d
    if step == columns and out_step == columns:
        rows, columns = 1, rows * columns
    for d in range(rows):
        memcpy(out + d * out_step, A + d * step, columns * sizeof(real))


# A, of the sequences alone that begin anew before step t -> its transpose, rows width entries apart.
cdef void transpose_where_reset(real *out, Py_ssize_t width, real *A, const View *reset, Py_ssize_t t,
                                const Columns *c) noexcept nogil:
    cdef Py_ssize_t i, d, j
    for i in range(SEQUENCES):
        if is_reset(reset, t, i):
            for j in range(c.number[0]):
                for d in range(c.rows):
                    entry_of(out + j * width, d, i)[0] = entry_of(A + d * c.entries, j, i)[0]


# Buffers of the arrays of one call, released together.
cdef class Buffers:
    cdef Py_buffer held[24]
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


# The real type, or a half: float16, and bfloat16 as int16, since Python's buffers have no name for it.
cdef inline int kind_of(const Py_buffer *a) noexcept nogil:
    if a.format != NULL and a.format[0] == b"e":
        return FLOAT16
    if a.format != NULL and a.format[0] == b"h":
        return BFLOAT16
    return REAL


# Of an array whose leading axes broadcast to `lead` (n_lead axes), the sequences at positions p, p + 1,
# ... of `order`, or of themselves where that is NULL.
cdef inline void view_sequences(View *view, const Py_buffer *a, int core, Py_ssize_t p,
                                const int64_t *order, const Py_ssize_t *lead, int n_lead) noexcept nogil:
    cdef Py_ssize_t i, n
    cdef int axis, own
    cdef char *data
    view.data[0], view.outer, view.inner = NULL, 0, 0
    if a == NULL:
        return
    view.kind = kind_of(a)
    view.inner = a.strides[a.ndim - 1]
    if core == 2:
        view.outer = a.strides[a.ndim - 2]
    for i in range(SEQUENCES):
        n = p + i if order == NULL else order[p + i]
        data = <char *> a.buf
        for axis in range(n_lead - 1, -1, -1):
            own = axis - (n_lead - (a.ndim - core))
            if own >= 0 and a.shape[own] != 1:
                data += n % lead[axis] * a.strides[own]
            n //= lead[axis]
        view.data[i] = data


# As view_sequences, of flags for L steps: none for no steps, which nobody may ask for the first of.
cdef inline void view_flags(View *view, const Py_buffer *a, Py_ssize_t L, Py_ssize_t p, const int64_t *order,
                            const Py_ssize_t *lead, int n_lead) noexcept nogil:
    view.data[0] = NULL
    if L > 0:
        view_sequences(view, a, 1, p, order, lead, n_lead)


cdef inline real *start(const Py_buffer *a) noexcept nogil:
    return NULL if a == NULL else <real *> a.buf


# What is kept of the sequences at positions p, p + 1, ...: `used` entries, then zeros, so that equal calls keep
# equal arrays; last, for each sequence, how many are side by side here, since backward must know. NULL for none.
cdef inline real *place_of(const Py_buffer *kept, Py_ssize_t p, Py_ssize_t used) noexcept nogil:
    cdef Py_ssize_t each, i
    cdef real *place
    if kept == NULL:
        return NULL
    each = kept.shape[kept.ndim - 1]
    place = <real *> kept.buf + p * each
    memset(place + used, 0, (SEQUENCES * each - used) * sizeof(real))
    for i in range(1, SEQUENCES + 1):
        place[SEQUENCES * each - i] = SEQUENCES
    return place


cdef inline int64_t *indices(const Py_buffer *a) noexcept nogil:
    return NULL if a == NULL else <int64_t *> a.buf


# What starts at or after `address` and on a cache line.
cdef inline real *aligned(void *address) noexcept nogil:
    return <real *> ((<uintptr_t> address + 63) // 64 * 64)


# Entries from one thread's scratch to the next: whole cache lines.
cdef inline Py_ssize_t apart(Py_ssize_t entries) noexcept nogil:
    return (entries * <Py_ssize_t> sizeof(real) + 63) // 64 * 64 // <Py_ssize_t> sizeof(real)


def vector_bytes():
    """Bytes of the vectors this module computes with."""
    return VECTOR_BYTES


def sequences():
    """Sequences that are computed side by side."""
    return SEQUENCES


# Of the gradients of the states (slots, rows, columns), those to which the sequences at p, p + 1, ... add.
cdef inline void view_slots(View *view, const Py_buffer *a, Py_ssize_t p,
                            const int64_t *slots) noexcept nogil:
    cdef Py_ssize_t i
    view.data[0] = NULL
    if a == NULL:
        return
    view.kind, view.outer, view.inner = REAL, a.strides[1], a.strides[2]
    for i in range(SEQUENCES):
        view.data[i] = <char *> a.buf + slots[p + i] * a.strides[0]
