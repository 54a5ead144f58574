"""The Recurrent Delta Net on the CPU. Letters and numbered steps: srwm/reference/recurrent_delta.py.

The recurrent weights are one matrix R (D, R_) with blocks of columns [ R_q | R_k | R_v | r_b ]. Saved of a
step: [ q : D_ | k : D_ | Delta : D_ | r : D_ | beta : LANES ].
"""

cdef enum:  # places of operands
    RECURRENT_Q, RECURRENT_K, RECURRENT_V, RECURRENT_B, RECURRENT_R_Q, RECURRENT_R_K, RECURRENT_R_V
    RECURRENT_R_B, RECURRENT_S, RECURRENT_Y, RECURRENT_STATE, RECURRENT_STATE_Y, RECURRENT_RESET
    RECURRENT_MASK


# Vectors of a row of R.
cdef inline Py_ssize_t width_of_R(const Sizes *s) noexcept nogil:
    return 3 * s.d + vectors_for(1)


cdef enum:
    STEPS_OF_R = 4  # whose terms of the gradient of R are added to it together


cdef void recurrent_delta_lay_out(Sizes *s) noexcept nogil:
    s.blocks, s.number[0] = 1, s.D
    set_sizes(s)
    s.steps, s.numbers, s.row = &RECURRENT_STEPS, s.D, 4 * s.D_ + LANES
    # [ padding : D_ | R ]; the gradients of the constants also have terms of R's: STEPS_OF_R of r and
    # of g_o.
    s.constants = s.D_ + (s.D + STEPS_OF_R) * width_of_R(s) * LANES + STEPS_OF_R * s.D_
    s.working = 2 * width_of_R(s) * LANES + 4 * s.D_ + room_of_delta_back(s)
    lay_out_replayed(s)


cdef void recurrent_delta_begin(const Views *v, real *constants, const Sizes *s) noexcept nogil:
    cdef const View *of
    cdef real *R = constants + s.D_
    cdef Py_ssize_t width = width_of_R(s) * LANES, d, i, block
    set_padding(constants, s)
    for d in range(s.D):
        for block in range(3):
            of = &v.operands[RECURRENT_R_Q + block]
            read_row(R + d * width + block * s.D_, of, d * of.outer, s.D)
        of = &v.operands[RECURRENT_R_B]
        for i in range(SEQUENCES):
            R[d * width + 3 * s.D_ + i] = read_entry(of.data[i] + d * of.inner, of.kind)


cdef void recurrent_delta_step(const Views *v, Py_ssize_t t, real *A, real *row, const real *constants,
                               real *room, const Sizes *s) noexcept nogil:
    cdef const View *mask = &v.operands[RECURRENT_MASK]  # IN  (L) bool, or none
    cdef const View *b = &v.operands[RECURRENT_B]        # IN  (L)
    cdef const View *of
    cdef real *last = A + s.matrix                       # (D_) y of the step before
    cdef real *q = row                                   # (D_)
    cdef real *k = q + s.D_                              # (D_)
    cdef real *Delta = k + s.D_                          # (D_)
    cdef real *r = Delta + s.D_                          # (D_)
    cdef real *beta = r + s.D_                           # (LANES)
    cdef Py_ssize_t width = width_of_R(s), i
    cdef real *o = room                                  # [ q^ | k^ | v | b^ ]
    cdef real *inputs = o + width * LANES                # the same of the operands
    cdef real *u = inputs + width * LANES                # (D_)
    cdef real *y = u + s.D_                              # (D_)
    # 1
    tanhs(r, last, s.d)
    # 2
    multiply(constants + s.D_, s.D, width, r, o)
    for i in range(3):
        of = &v.operands[RECURRENT_Q + i]
        read_real_row(inputs + i * s.D_, of, t * of.outer, s.D, mask, t)
    read_real_entry(inputs + 3 * s.D_, b, t * b.inner, mask, t)
    add(o, inputs, width)
    softmaxes(q, o, constants, s.d)
    sigmoid(beta, o + 3 * s.D_, 1)
    fill_where_padding(beta, 0, 1, mask, t)
    # 3
    delta_of(Delta, u, A, k, o + 2 * s.D_, beta, s)
    # 4, 5
    advance(A, A, s.D, s.m, NULL, k, u, q, y)
    put_output(y, last, &v.results[Y], mask, t, s)


cdef void recurrent_delta_redo(const Views *v, Py_ssize_t t, real *after, const real *before,
                               const real *row, real *room, const Sizes *s) noexcept nogil:
    cdef const real *k = row + s.D_
    # 3, 4
    scale(room, row + 4 * s.D_, 0, k + s.D_, s.m)
    advance(after, before, s.D, s.m, NULL, k, room, NULL, NULL)


cdef void recurrent_delta_backward(const Views *v, Py_ssize_t t, const real *before, const real *row,
                                   Back *back, const real *constants, real *room,
                                   const Sizes *s) noexcept nogil:
    cdef const View *mask = &v.operands[RECURRENT_MASK]  # IN  (L) bool, or none
    cdef const View *of
    cdef const real *q = row                             # (D_)
    cdef const real *k = q + s.D_                        # (D_)
    cdef const real *Delta = k + s.D_                    # (D_)
    cdef const real *r = Delta + s.D_                    # (D_)
    cdef const real *beta = r + s.D_                     # (LANES)
    cdef Py_ssize_t width = width_of_R(s), i
    cdef real *e = back.G + s.matrix                     # (D_) gradient of the last output
    cdef real *gR = back.constants + s.D_                # (D, R_)
    cdef real *terms_r = gR + s.D * width * LANES        # (STEPS_OF_R, D_)
    cdef real *terms_g_o = terms_r + STEPS_OF_R * s.D_   # (STEPS_OF_R, R_)
    cdef real *g_o = terms_g_o + t % STEPS_OF_R * width * LANES  # [ g_q^ | g_k^ | g_v | g_b^ ]
    cdef real *before_e = room                           # (D_)
    cdef DeltaBack d = delta_back_in(before_e + s.D_, s)
    # 5'  g = g_y + e   G += q^T g   4'  g_u = k G   g_k = u G^T   3'
    memcpy(back.a + s.D_, q, s.D_ * sizeof(real))
    gradient_of_output(back.b + s.M_, e, &v.incoming[Y], mask, t, s)
    delta_step_backward(&d, back, before, k, beta, Delta, s)
    # 2'
    softmax_backward(g_o, d.g_r, q, s.d)
    softmax_backward(g_o + s.D_, d.g_k, k, s.d)
    memcpy(g_o + 2 * s.D_, d.both + s.M_, s.D_ * sizeof(real))
    sigmoid_backward(g_o + 3 * s.D_, d.g_beta, beta, 1)
    memcpy(terms_r + t % STEPS_OF_R * s.D_, r, s.D_ * sizeof(real))
    if t % STEPS_OF_R == 0:
        update(gR, s.D, width, STEPS_OF_R, terms_r, terms_g_o)
    # 1'
    along_rows(constants + s.D_, s.D, width, 1, g_o, before_e, 0)
    tanh_backward(before_e, before_e, r, s.d)
    put_where_padding(before_e, e, s.d, mask, t)
    memcpy(e, before_e, s.D_ * sizeof(real))
    for i in range(3):
        of = &v.gradients[RECURRENT_Q + i]
        write_row(of, t * of.outer, g_o + i * s.D_, s.D)
    of = &v.gradients[RECURRENT_B]
    write_entries(of, t * of.inner, g_o + 3 * s.D_)


cdef void recurrent_delta_end(const Views *v, const Back *back, real *room, const Sizes *s) noexcept nogil:
    cdef const View *of
    cdef const real *R = back.constants + s.D_
    cdef Py_ssize_t width = width_of_R(s) * LANES, d, i, block
    for block in range(3):
        of = &v.gradients[RECURRENT_R_Q + block]
        if of.data[0] != NULL:
            for d in range(s.D):
                add_row(of, d * of.outer, R + d * width + block * s.D_, s.D)
    of = &v.gradients[RECURRENT_R_B]
    if of.data[0] != NULL:
        for d in range(s.D):
            for i in range(SEQUENCES):
                room[d * STRIDE + i] = R[d * width + 3 * s.D_ + i]
        add_row(of, 0, room, s.D)


cdef Replayed RECURRENT_STEPS = [
    [RECURRENT_S, RECURRENT_STATE, RECURRENT_Y, RECURRENT_STATE_Y, RECURRENT_RESET], 1, 2, False,
    recurrent_delta_begin, recurrent_delta_step, recurrent_delta_redo, recurrent_delta_backward,
    recurrent_delta_end,
]
cdef Kernels RECURRENT_KERNELS = [
    recurrent_delta_lay_out, replayed_forward, replayed_backward, NULL, RECURRENT_S, RECURRENT_STATE,
    RECURRENT_RESET, RECURRENT_MASK, False, 40 << 10, 80 << 10,
]
register("recurrent_delta", &RECURRENT_KERNELS)
