"""The passes of operators whose backward pass recomputes the matrices: time, segments, resets, states.

Forward saves a row of each step, and the matrix at the end of a segment. Backward recomputes the matrices
of a segment from the one at its start, keeps those before every step in its working memory, and goes back
through them. Nothing is undone, so growth and retention cost no accuracy. One thread computes a sequence.

The states are those of states.pxi. At
padding a step changes nothing: the operators read zeros there, and set rates to zero.
"""

# The gradients that go back through the steps.
cdef struct Back:
    real *G          # of the matrix, without the deferred terms; then of the vector
    real *constants  # of the parameters
    # Deferred terms of G, to be added to it by the next sweep: G <- alpha G + the sum of a_i^T b_i.
    bint is_deferred
    real *alpha      # (LANES)
    real *a          # (terms, D_)
    real *b          # (terms, M_)


# An operator by its steps. `row` is what forward saves of a step, `room` working memory.
cdef struct Replayed:
    States states
    int deferred, terms             # deferred terms of G; the same with those of a step's own
    bint retains                    # whether G is multiplied by alpha
    # OUT: what all steps use, from the parameters; it is zeroed before.
    void (*begin)(const Views *v, real *constants, const Sizes *s) noexcept nogil
    # IN OUT: the state A, by step t. OUT: its row, which is zeroed before.
    void (*step)(const Views *v, Py_ssize_t t, real *A, real *row, const real *constants, real *room,
                 const Sizes *s) noexcept nogil
    # OUT: the state after step t, from that before it, without what backward does not need.
    void (*redo)(const Views *v, Py_ssize_t t, real *after, const real *before, const real *row, real *room,
                 const Sizes *s) noexcept nogil
    # IN OUT: the gradients after step t -> before it.
    void (*backward)(const Views *v, Py_ssize_t t, const real *before, const real *row, Back *back,
                     const real *constants, real *room, const Sizes *s) noexcept nogil
    # Adds the gradients of the parameters.
    void (*end)(const Views *v, const Back *back, real *room, const Sizes *s) noexcept nogil


# Sets what follows from the other sizes: `matrix`, `row`, `numbers`, `constants`, `working`, `steps`.
cdef void lay_out_replayed(Sizes *s) noexcept nogil:
    cdef const Replayed *of = <const Replayed *> s.steps
    s.growths = 0
    s.sums = s.forward_shared = s.backward_shared = 0
    s.vector = vectors_for(s.numbers) * LANES
    s.forward_scratch = apart(s.matrix + s.vector + s.constants + s.row + s.working)
    s.backward_scratch = apart(
        (s.C + 1) * (s.matrix + s.vector) + 2 * s.constants + LANES + of.terms * (s.D_ + s.M_) + s.working
    )


cdef void replayed_forward(const Views *v, real *saved, real *scratch, Group *group,
                           const Sizes *s) noexcept nogil:
    cdef const Replayed *of = <const Replayed *> s.steps
    cdef Sizes vector = sizes_of_vector(s)
    cdef real *A = scratch                        # (matrix, vector)
    cdef real *constants = A + s.matrix + s.vector  # (constants)
    cdef real *spare = constants + s.constants    # (row)
    cdef real *room = spare + s.row               # (room)
    cdef real *row
    cdef Py_ssize_t t
    memset(constants, 0, (s.constants + s.row + s.working) * sizeof(real))
    if s.L == 0:
        read_begin(A, v, 0, &of.states, s, &vector)
    else:
        of.begin(v, constants, s)
    for t in range(s.L):
        row = spare if saved == NULL else saved + t * s.row
        read_begin(A, v, t, &of.states, s, &vector)
        memset(row, 0, s.row * sizeof(real))
        of.step(v, t, A, row, constants, room, s)
        if saved != NULL and is_saved_after(t, s):
            memcpy(saved + saved_matrix(t // s.C, s), A, s.kept * sizeof(real))
    write_matrix(&v.results[NEXT], A, False, s)
    if s.numbers > 0:
        write_matrix(&v.results[NEXT_VECTOR], A + s.matrix, False, &vector)


cdef inline void defer_nothing(Back *back, const Sizes *s) noexcept nogil:
    cdef Py_ssize_t i
    back.is_deferred = False
    memset(back.a, 0, (<const Replayed *> s.steps).terms * (s.D_ + s.M_) * sizeof(real))
    for i in range(LANES):
        back.alpha[i] = 1


cdef void replayed_backward(const Views *v, const real *saved, real *scratch, Group *group,
                            const Sizes *s) noexcept nogil:
    cdef const Replayed *of = <const Replayed *> s.steps
    cdef Sizes vector = sizes_of_vector(s)
    cdef Py_ssize_t state = s.matrix + s.vector
    cdef real *stack = scratch                    # (C, matrix and vector) before each step of a segment
    cdef real *constants = stack + (s.C + 1) * state  # (constants)
    cdef real *room                               # (room)
    cdef real *A
    cdef Back back
    cdef Py_ssize_t t, first, last
    back.G, back.constants = stack + s.C * state, constants + s.constants
    back.alpha = back.constants + s.constants
    back.a = back.alpha + LANES
    back.b = back.a + of.terms * s.D_
    room = back.b + of.terms * s.M_
    memset(constants, 0, (room + s.working - constants) * sizeof(real))
    defer_nothing(&back, s)
    read_matrix(back.G, &v.incoming[NEXT], s)
    if s.numbers > 0:
        read_matrix(back.G + s.matrix, &v.incoming[NEXT_VECTOR], &vector)
    if s.L == 0:
        hand_over_begin(v, back.G, 0, &of.states, s, &vector)
        return
    of.begin(v, constants, s)
    last = s.L
    while last > 0:
        first = (last - 1) // s.C * s.C
        if first > 0:
            memcpy(stack, saved + saved_matrix(first // s.C - 1, s), s.kept * sizeof(real))
        for t in range(first, last):
            A = stack + (t - first) * state
            read_begin(A, v, t, &of.states, s, &vector)
            if t + 1 < last:
                of.redo(v, t, A + state, A, saved + t * s.row, room, s)
        for t in range(last - 1, first - 1, -1):
            of.backward(v, t, stack + (t - first) * state, saved + t * s.row, &back, constants, room, s)
            if t == 0 or any_reset(&v.operands[of.states.reset], t):
                if back.is_deferred:
                    add_terms(back.G, s.D, s.m, of.deferred, back.alpha if of.retains else NULL, back.a,
                              back.b)
                    defer_nothing(&back, s)
                hand_over_begin(v, back.G, t, &of.states, s, &vector)
                memset(room, 0, s.working * sizeof(real))  # NaN of the steps after it may be in the padding
        last = first
    of.end(v, &back, room, s)


# OUT: 0, and -inf past D: what softmaxes add to a vector over D.
cdef inline void set_padding(real *padding, const Sizes *s) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(s.D * STRIDE, s.D_):
        padding[i] = -INFINITY


cdef void no_parameters(const Views *v, const Back *back, real *room, const Sizes *s) noexcept nogil:
    pass
