"""Shared by the kernels of all operators: sizes, reading and writing matrices, segments, recomputation.

It is compiled with them once for each instruction set, real type and layout (lanes.h). SEQUENCES is the
number of sequences computed together: 1, or side by side as many as a vector has lanes.

A segment is C steps. Forward saves the matrix at the end of each of the first `segments` segments; a short
last segment has none. D_ and M_ are padded sizes: entries of all sequences computed together, padded with
zeros to whole vectors. d and m count these vectors.

Updates of a matrix are deferred: a store takes longer than the products that share its load. A sweep adds
DEFERRED updates at once. In between, products with the matrix are corrected for them.
"""

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
    void add_correction(real *z, const real *x, const real *k, Py_ssize_t over, const real *u,
                        Py_ssize_t width)
    void subtract(real *out, const real *a, const real *b, Py_ssize_t width)
    void negate(real *out, const real *a, Py_ssize_t width)
    void scale(real *out, const real *s, Py_ssize_t i, const real *a, Py_ssize_t width)
    void finish(real *Delta, real *u, real *z, const real *beta, Py_ssize_t i, int terms, const real *b,
                Py_ssize_t b_apart, const real *of_Delta, const real *of_z, const real *coming,
                Py_ssize_t width)
    void scale_backward(real *g_Delta, real *g_beta, Py_ssize_t i, const real *g_u, int terms,
                        const real *b, Py_ssize_t b_apart, const real *corrections, const real *beta,
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
                      const real *Delta, const real *u, Py_ssize_t o)
    bint has_delta_grown(const real *growth)


cdef extern from "views.h" nogil:
    const int REAL, FLOAT16, BFLOAT16
    # The part of one array for each of the sequences computed together.
    ctypedef struct View:
        char **data
        Py_ssize_t outer, inner
        int kind
        const View *mask
    bint is_shared(const View *a)
    bint is_reset(const View *reset, Py_ssize_t t, Py_ssize_t sequence)
    bint any_reset(const View *reset, Py_ssize_t t)
    bint all_reset(const View *reset, Py_ssize_t t)
    void fetch(const void *p, Py_ssize_t nbytes)
    void fetch_row(const View *a, Py_ssize_t at, Py_ssize_t n)
    real read_entry(const char *p, int kind)
    void write_entry(char *p, int kind, real a)
    void read_row(real *out, const View *a, Py_ssize_t at, Py_ssize_t n)
    void read_shared_row(real *out, const View *a, Py_ssize_t at, Py_ssize_t n)
    void write_row(const View *a, Py_ssize_t at, const real *columns, Py_ssize_t n)
    ctypedef struct Rows:
        real *at
        Py_ssize_t apart
    ctypedef struct Series:
        pass
    Series series_of(const View *view, Py_ssize_t n, real *room)
    Rows rows_of(const Series *a, Py_ssize_t t, Py_ssize_t sign)
    Rows read_rows(const Series *a, Py_ssize_t t, Py_ssize_t sign, int steps)
    void write_rows(const Series *a, Py_ssize_t t, Py_ssize_t sign, int steps)
    void add_row(const View *a, Py_ssize_t at, const real *columns, Py_ssize_t n)
    real *entry_of(real *columns, Py_ssize_t column, Py_ssize_t sequence)
    void copy_where_reset(real *out, const real *a, Py_ssize_t width, const View *reset, Py_ssize_t t)


cdef extern from "steps.h" nogil:
    const int STEPS_AT_ONCE
    void write_and_read(real *A, Py_ssize_t rows, Py_ssize_t width, int steps, Rows k, Rows u, real of_u,
                        Rows q, Rows y, real of_y)
    void advance(real *out, const real *A, Py_ssize_t rows, Py_ssize_t width, const real *alpha,
                 const real *k, const real *u, const real *q, real *y)
    void along_rows(const real *A, Py_ssize_t rows, Py_ssize_t width, int n, const real *b, real *out,
                    Py_ssize_t apart)
    void gather(real *G, Py_ssize_t rows, Py_ssize_t width, int terms, const real *a, const real *b,
                const real *k, const real *u, real *g_u, real *g_k)
    void gather_retained(real *G, Py_ssize_t rows, Py_ssize_t width, const real *alpha, const real *a,
                         const real *b, const real *k, const real *u, real *g_u, real *g_k, const real *W,
                         real *g_alpha)
    void add_terms(real *G, Py_ssize_t rows, Py_ssize_t width, int terms, const real *alpha, const real *a,
                   const real *b)
    void add_scaled(real *out, const real *s, Py_ssize_t i, const real *a, Py_ssize_t width)
    void add(real *out, const real *a, Py_ssize_t width)
    void multiply_by(real *out, real s, const real *a, Py_ssize_t width)
    void divide(real *out, real *per, const real *a, const real *n, real eps, Py_ssize_t width)
    void softmax(real *out, const real *a, const real *padding, real eps, Py_ssize_t width)
    void tanhs(real *out, const real *a, Py_ssize_t width)
    void tanh_backward(real *out, const real *g, const real *r, Py_ssize_t width)
    void rates_of(real *rate, real *slope, const real *a, real s, bint is_softplus)
    void unit(real *k, real *per, real *along, const real *a, real eps, Py_ssize_t width)
    void unit_backward(real *out, const real *g, const real *k, const real *per, const real *along,
                       Py_ssize_t width)
    bint is_padding(const View *mask, Py_ssize_t t, Py_ssize_t sequence)
    void put_where_padding(real *out, const real *a, Py_ssize_t width, const View *mask, Py_ssize_t t)
    void fill_where_padding(real *out, real a, Py_ssize_t width, const View *mask, Py_ssize_t t)
    void read_real_row(real *columns, const View *a, Py_ssize_t at, Py_ssize_t n, const View *mask,
                       Py_ssize_t t)
    void read_real_entry(real *entry, const View *a, Py_ssize_t at, const View *mask, Py_ssize_t t)
    void write_entries(const View *a, Py_ssize_t at, const real *entry)


cdef extern from "group.h" nogil:
    const Py_ssize_t ENTRIES_OF_LINE
    ctypedef struct Group:
        Py_ssize_t size, member
        Py_ssize_t first, last
        Py_ssize_t turn
    int threads_here()
    unsigned long long floating_control()
    void set_floating_control(unsigned long long control)
    Py_ssize_t lines_of(Py_ssize_t entries)
    Py_ssize_t member_start(const Group *group, Py_ssize_t member, Py_ssize_t entries)
    void prepare_groups(real *scratch, Py_ssize_t apart, Py_ssize_t threads)
    bint join_group(Group *group, Py_ssize_t thread, Py_ssize_t threads, Py_ssize_t pieces,
                    Py_ssize_t most, real *scratch, Py_ssize_t apart)
    void meet(Group *group)
    real *shared_row(const Group *group, Py_ssize_t after, Py_ssize_t n)
    real *partial_sums(const Group *group, Py_ssize_t n)
    const real *meet_and_add(Group *group, real *sums, Py_ssize_t n)


cdef enum:
    DEFERRED = 2  # updates that one sweep adds to a matrix
    MOST_OPERANDS = 16
    MOST_RESULTS = 4
    MOST_BLOCKS = 6
    MOST_SETTINGS = 6

cdef enum:  # places of results
    Y, NEXT, NEXT_VECTOR


# The arrays that the kernels of an operator get, for the sequences computed together: the operands and
# their gradients in the order of its description, the results and their gradients. Without an array, `data`
# is NULL.
cdef struct Views:
    View[MOST_OPERANDS] operands, gradients
    View[MOST_RESULTS] results, incoming


# Sizes of a call with matrices (D, columns). The columns form blocks; in scratch, each block begins at a
# whole vector.
cdef struct Sizes:
    Py_ssize_t D, Do, L, C, segments
    Py_ssize_t d, D_                       # vectors over D; the same in entries
    Py_ssize_t blocks
    Py_ssize_t[MOST_BLOCKS] number         # columns of each block
    Py_ssize_t[MOST_BLOCKS + 1] at         # entries before each block, and before the end
    Py_ssize_t all_                        # entries over all columns
    Py_ssize_t row                         # entries saved for each step
    Py_ssize_t kept                        # entries saved for each segment
    Py_ssize_t sums                        # entries of the partial sums over columns, of one step
    Py_ssize_t forward_shared, backward_shared    # entries of the scratch that a group's members share
    Py_ssize_t forward_scratch, backward_scratch  # entries of the scratch of one thread
    Py_ssize_t growths                     # flags saved for a segment: whether the matrix grew
    # For the columns of this member of a thread group:
    Py_ssize_t first_, M_, m               # entries before them; their entries and vectors
    Py_ssize_t matrix, rows                # entries of the matrix; rows of its transpose, with padding
    Py_ssize_t[MOST_BLOCKS] block, width   # where each block starts among them; its vectors
    Py_ssize_t first, columns              # the first column and their number, if spans is 1
    Py_ssize_t spans                       # runs of columns that are contiguous in memory and in scratch
    Py_ssize_t[MOST_BLOCKS] begin, length, room  # for each: first column, columns, entries in scratch
    Py_ssize_t growth_first, growth_number  # the flags of these columns: first, number
    # For the operators whose backward pass recomputes the matrices (replayed.pxi):
    Py_ssize_t numbers, vector             # of the second state, a vector: numbers; entries; 0 without one
    Py_ssize_t constants, working          # entries of what all steps use, and of a step's working memory
    const void *steps                      # the operator, a Replayed
    double[MOST_SETTINGS] setting


cdef struct Kernels:
    void (*lay_out)(Sizes *s) noexcept nogil
    void (*forward)(const Views *v, real *saved, real *scratch, Group *group, const Sizes *s) noexcept nogil
    void (*backward)(const Views *v, const real *saved, real *scratch, Group *group,
                     const Sizes *s) noexcept nogil
    # Adds the update of step t, computed from what forward saved, to A. `room` is scratch for this.
    void (*redo)(real *A, real *room, const Views *v, const real *saved, Py_ssize_t t,
                 const Sizes *s) noexcept nogil
    Py_ssize_t initial, state, reset, mask  # places of these operands; of a mask -1 if there is none
    bint shares                            # whether several threads may compute the columns of a sequence
    # Largest size in bytes of the matrices of SEQUENCES sequences for which computing them side by side is
    # faster: without a backward pass, and with one, which sweeps their gradients as well.
    Py_ssize_t most_forward, most_backward


# Entries from one thread's scratch to the next: rounded up to whole cache lines.
cdef inline Py_ssize_t apart(Py_ssize_t entries) noexcept nogil:
    return lines_of(entries) * ENTRIES_OF_LINE


# Sets all sizes that follow from D, Do, L, C, segments, blocks and number. The operator sets the others.
cdef inline void set_sizes(Sizes *s) noexcept nogil:
    cdef Py_ssize_t i
    s.d = vectors_for(s.D)
    s.D_ = s.d * LANES
    s.at[0] = 0
    for i in range(s.blocks):
        s.at[i + 1] = s.at[i] + vectors_for(s.number[i]) * LANES
    s.all_ = s.at[s.blocks]
    s.growths = lines_of(s.all_) if SEQUENCES == 1 else SEQUENCES
    s.kept = s.D * s.all_
    set_columns(s, 0, s.all_)


# Sets the sizes of this member's columns: entries first_ to last_ of a row, both multiples of a vector.
cdef inline void set_columns(Sizes *s, Py_ssize_t first_, Py_ssize_t last_) noexcept nogil:
    cdef Py_ssize_t i, skipped, before = 0
    cdef bint beside = True
    s.first_, s.M_, s.m = first_, last_ - first_, (last_ - first_) // LANES
    s.matrix, s.rows = s.D * s.M_, s.M_ // STRIDE
    s.first, s.columns, s.spans = first_ // STRIDE, 0, s.blocks
    for i in range(s.blocks):
        s.block[i] = min(max(s.at[i] - first_, 0), s.M_)
        s.width[i] = (min(max(s.at[i + 1] - first_, 0), s.M_) - s.block[i]) // LANES
        s.room[i] = s.width[i] * LANES
        skipped = (s.first_ + s.block[i] - s.at[i]) // STRIDE
        s.begin[i] = before + skipped
        s.length[i] = max(0, min(s.number[i] - skipped, s.room[i] // STRIDE))
        before += s.number[i]
        s.columns += s.length[i]
        beside = beside and (i + 1 == s.blocks or s.at[i + 1] == before * STRIDE)
    if beside:
        s.spans, s.begin[0], s.length[0], s.room[0] = 1, s.first, s.columns, s.M_
    s.growth_first, s.growth_number = 0, SEQUENCES
    if SEQUENCES == 1:
        s.growth_first, s.growth_number = first_ // ENTRIES_OF_LINE, lines_of(s.M_)


# Segments of L steps, including a short last one.
cdef inline Py_ssize_t all_segments(const Sizes *s) noexcept nogil:
    return (s.L + s.C - 1) // s.C


# Forward saves for the sequences computed together: `row` entries for each step, then the matrix at the end
# of each of the first `segments` segments, then for each of all segments whether the matrix grew.
cdef inline Py_ssize_t saved_matrix(Py_ssize_t segment, const Sizes *s) noexcept nogil:
    return s.L * s.row + segment * s.kept


cdef inline Py_ssize_t saved_growth(Py_ssize_t segment, const Sizes *s) noexcept nogil:
    return saved_matrix(s.segments, s) + segment * s.growths


# Whether step t is the last one of its segment.
cdef inline bint ends_segment(Py_ssize_t t, const Sizes *s) noexcept nogil:
    return t + 1 == s.L or (t + 1) % s.C == 0


# Whether the matrix after step t is saved.
cdef inline bint is_saved_after(Py_ssize_t t, const Sizes *s) noexcept nogil:
    return ends_segment(t, s) and t // s.C < s.segments


# IN: (D, columns) of each sequence, or none -> OUT: (D, M_), zeros for none.
cdef void read_matrix(real *A, const View *W, const Sizes *s) noexcept nogil:
    cdef Py_ssize_t d, i, at
    cdef bint shared
    if W.data[0] == NULL:
        memset(A, 0, s.matrix * sizeof(real))
        return
    shared = is_shared(W)
    for d in range(s.D):
        for i in range(s.spans):
            at = d * W.outer + s.begin[i] * W.inner
            if shared:
                read_shared_row(A, W, at, s.length[i])
            else:
                read_row(A, W, at, s.length[i])
            A += s.room[i]


# As read_matrix, but only for the sequences that reset before step t.
cdef void read_reset_matrices(real *A, const View *W, const View *reset, Py_ssize_t t,
                              const Sizes *s) noexcept nogil:
    cdef Py_ssize_t i, d, j
    if all_reset(reset, t):
        read_matrix(A, W, s)
        return
    for i in range(SEQUENCES):
        if is_reset(reset, t, i):
            for d in range(s.D):
                for j in range(s.columns):
                    entry_of(A + d * s.M_, j, i)[0] = (
                        0 if W.data[0] == NULL
                        else read_entry(W.data[i] + d * W.outer + j * W.inner, W.kind)
                    )


# The array that all sequences start from: `state`, or `initial` if there is no state or if all reset before
# step 0. NULL if the sequences differ.
cdef inline const View *start_of(const View *initial, const View *state,
                                 const View *reset) noexcept nogil:
    if state.data[0] == NULL or all_reset(reset, 0):
        return initial
    if any_reset(reset, 0):
        return NULL
    return state


# OUT: the matrices that the sequences start from.
cdef void read_start(real *A, const View *initial, const View *state, const View *reset,
                     const Sizes *s) noexcept nogil:
    cdef const View *start = start_of(initial, state, reset)
    if start != NULL:
        read_matrix(A, start, s)
    else:
        read_matrix(A, state, s)
        read_reset_matrices(A, initial, reset, 0, s)


# IN: (D, M_) -> OUT: (D, columns) of each sequence, overwritten, or added to if `added`; or none.
cdef void write_matrix(const View *W, const real *A, bint added, const Sizes *s) noexcept nogil:
    cdef Py_ssize_t d, i, at
    if W.data[0] == NULL:
        return
    for d in range(s.D):
        for i in range(s.spans):
            at = d * W.outer + s.begin[i] * W.inner
            if added:
                add_row(W, at, A, s.length[i])
            else:
                write_row(W, at, A, s.length[i])
            A += s.room[i]


# Adds G (D, M_) to the gradient of the matrix from which the sequences that begin at step t started, and
# zeroes G for them. At t > 0 these are the sequences that reset. At t = 0 all begin: from `state` if there
# is one, unless they reset.
cdef void hand_over(const View *g_initial, const View *g_state, const View *state, real *G,
                    const View *reset, Py_ssize_t t, const Sizes *s) noexcept nogil:
    cdef Py_ssize_t i, d, j
    cdef const View *g = g_initial
    cdef real *entry
    if (t > 0 or state.data[0] != NULL) and not all_reset(reset, t):
        g = NULL
        if t == 0 and not any_reset(reset, t):
            g = g_state
    if g != NULL:
        write_matrix(g, G, True, s)
        memset(G, 0, s.matrix * sizeof(real))
        return
    for i in range(SEQUENCES):
        if t > 0 and not is_reset(reset, t, i):
            continue
        g = g_initial if is_reset(reset, t, i) else g_state
        for d in range(s.D):
            for j in range(s.columns):
                entry = entry_of(G + d * s.M_, j, i)
                if g.data[0] != NULL:
                    (<real *> (g.data[i] + d * g.outer + j * g.inner))[0] += entry[0]
                entry[0] = 0


# IN: (D, M_), rows `step` entries apart -> OUT: likewise, `out_step` apart.
cdef inline void copy_matrix(real *out, Py_ssize_t out_step, const real *A, Py_ssize_t step,
                             const Sizes *s) noexcept nogil:
    cdef Py_ssize_t d
    if step == s.M_ and out_step == s.M_:
        memcpy(out, A, s.matrix * sizeof(real))
        return
    for d in range(s.D):
        memcpy(out + d * out_step, A + d * step, s.M_ * sizeof(real))


# Forward, after step t: applies the deferred updates if the matrix is needed now, because it is saved or
# returned or because a reset follows. Saves it, and reads the initial matrix of the sequences that reset.
# Returns whether a reset follows.
cdef bint settle(real *A, int *deferred, const real *deferred_k, const real *deferred_u,
                 const View *initial, const View *reset, real *saved, bint is_returned, Py_ssize_t t,
                 const Sizes *s) noexcept nogil:
    cdef bint begins = t + 1 < s.L and any_reset(reset, t + 1)
    cdef bint is_saved = saved != NULL and is_saved_after(t, s)
    if is_saved or begins or (is_returned and t + 1 == s.L):
        update(A, s.D, s.m, deferred[0], deferred_k, deferred_u)
        deferred[0] = 0
    if is_saved:
        copy_matrix(saved + saved_matrix(t // s.C, s) + s.first_, s.all_, A, s.M_, s)
    if begins:
        read_reset_matrices(A, initial, reset, t + 1, s)
    return begins


# Growth (growth.h) is measured from the start of a segment, or from the last reset in it. The members of a
# thread group see only their columns, so they may come to different results, and the groups of the backward
# pass may differ from those of the forward pass. Therefore each cache line of columns has a flag. With
# sequences side by side, each sequence has one.
cdef struct Growth:
    real *measured   # `vectors` vectors of sums that the operator defines, and scratch for as many
    Py_ssize_t vectors
    bint is_grown    # whether the matrix grew in this segment before the last reset
    void (*begin)(real *measured, const real *A, const Sizes *s) noexcept nogil
    bint (*has_grown)(const real *measured, const Sizes *s) noexcept nogil


cdef inline void begin_growth(Growth *growth, const real *saved, const real *A,
                              const Sizes *s) noexcept nogil:
    growth.is_grown = False
    if saved != NULL:
        growth.begin(growth.measured, A, s)


# After step t: saves the flags if a segment ends. At the end of a segment and at resets, starts to measure
# again.
cdef inline void follow_growth(Growth *growth, real *saved, const real *A, const View *reset, bint begins,
                               Py_ssize_t t, const Sizes *s) noexcept nogil:
    cdef bint ends = ends_segment(t, s)
    cdef real *fresh = growth.measured + growth.vectors * LANES
    cdef real *answers = saved + saved_growth(t // s.C, s)
    cdef Py_ssize_t i
    if saved == NULL or not (ends or begins):
        return
    growth.is_grown |= growth.has_grown(growth.measured, s)
    if ends:
        for i in range(s.growth_first, s.growth_first + s.growth_number):
            answers[i] = growth.is_grown
        growth.is_grown = False
        if t + 1 < s.L:
            growth.begin(growth.measured, A, s)
    else:
        growth.begin(fresh, A, s)
        copy_where_reset(growth.measured, fresh, growth.vectors, reset, t + 1)


cdef inline bint may_have_grown(const real *saved, Py_ssize_t t, const Sizes *s) noexcept nogil:
    cdef const real *answers = saved + saved_growth(t // s.C, s)
    cdef Py_ssize_t i
    for i in range(s.growth_first, s.growth_first + s.growth_number):
        if answers[i] != 0:
            return True
    return False


# OUT: A, the matrix before step t. It is recomputed from the last known matrix: that at the start of the
# segment, or at the last step before which all sequences reset.
cdef void replay(real *A, real *room, const Views *v, const real *saved, Py_ssize_t t, const Kernels *of,
                 const Sizes *s) noexcept nogil:
    cdef const View *initial = &v.operands[of.initial]
    cdef const View *reset = &v.operands[of.reset]
    cdef Py_ssize_t step = t
    while step % s.C != 0 and not all_reset(reset, step):
        step -= 1
    if step == 0:
        read_start(A, initial, &v.operands[of.state], reset, s)
    elif step % s.C == 0:
        copy_matrix(A, s.M_, saved + saved_matrix(step // s.C - 1, s) + s.first_, s.all_, s)
    while True:
        if step > 0 and any_reset(reset, step):
            read_reset_matrices(A, initial, reset, step, s)
        if step == t:
            return
        of.redo(A, room, v, saved, step, s)
        step += 1


# Backward: AT is the transposed matrix; `undone` updates are not subtracted from it yet. If undoing cannot
# give the matrix after step t, it is read or recomputed, for the sequences concerned. Returns whether any
# was.
cdef bint bring_back(real *AT, real *A, real *room, const Views *v, const real *saved, Py_ssize_t t,
                     int *undone, const real *undone_u, const real *undone_k, bint is_replayed,
                     const Kernels *of, const Sizes *s) noexcept nogil:
    cdef const View *reset = &v.operands[of.reset]
    cdef Py_ssize_t i, j, d
    if is_saved_after(t, s):
        transpose(AT, s.d, saved + saved_matrix(t // s.C, s) + s.first_, s.all_, s.D, s.m)
    elif t + 1 < s.L and not any_reset(reset, t + 1):
        return False
    else:
        replay(A, room, v, saved, t, of, s)
        of.redo(A, room, v, saved, t, s)
        if t + 1 == s.L or is_replayed or all_reset(reset, t + 1):
            transpose(AT, s.d, A, s.M_, s.D, s.m)
        else:
            update(AT, s.rows, s.d, undone[0], undone_u, undone_k)
            for i in range(SEQUENCES):
                if is_reset(reset, t + 1, i):
                    for j in range(s.columns):
                        for d in range(s.D):
                            entry_of(AT + j * s.D_, d, i)[0] = entry_of(A + d * s.M_, j, i)[0]
    undone[0] = 0
    return True


# OUT: AT, the transpose of the matrix before step t. It is recomputed instead of undone.
cdef inline void replay_transposed(real *AT, real *A, real *room, const Views *v, const real *saved,
                                   Py_ssize_t t, const Kernels *of, const Sizes *s) noexcept nogil:
    replay(A, room, v, saved, t, of, s)
    transpose(AT, s.d, A, s.M_, s.D, s.m)
