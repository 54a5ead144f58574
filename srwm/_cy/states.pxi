"""States that are a matrix (D, M_), then perhaps a vector, which is a matrix with one row."""

cdef struct States:
    Py_ssize_t initial, state        # places of the operands: of the matrix,
    Py_ssize_t vector, state_vector  # and of the vector; the numbers of its entries are 0 without one
    Py_ssize_t reset


cdef inline Sizes sizes_of_vector(const Sizes *s) noexcept nogil:
    cdef Sizes vector = s[0]
    vector.D, vector.blocks, vector.number[0] = 1, 1, s.numbers
    set_sizes(&vector)
    return vector


# Where sequences begin before step t: IN OUT: their states.
cdef inline void read_begin(real *A, const Views *v, Py_ssize_t t, const States *of,
                            const Sizes *s, const Sizes *vector) noexcept nogil:
    cdef const View *reset = &v.operands[of.reset]
    if t == 0:
        read_start(A, &v.operands[of.initial], &v.operands[of.state], reset, s)
        if s.numbers > 0:
            read_start(A + s.matrix, &v.operands[of.vector], &v.operands[of.state_vector], reset, vector)
    elif any_reset(reset, t):
        read_reset_matrices(A, &v.operands[of.initial], reset, t, s)
        if s.numbers > 0:
            read_reset_matrices(A + s.matrix, &v.operands[of.vector], reset, t, vector)


# The same backward: their gradients.
cdef inline void hand_over_begin(const Views *v, real *G, Py_ssize_t t, const States *of,
                                 const Sizes *s, const Sizes *vector) noexcept nogil:
    cdef const View *reset = &v.operands[of.reset]
    hand_over(&v.gradients[of.initial], &v.gradients[of.state], &v.operands[of.state], G, reset, t, s)
    if s.numbers > 0:
        hand_over(&v.gradients[of.vector], &v.gradients[of.state_vector], &v.operands[of.state_vector],
                  G + s.matrix, reset, t, vector)
