"""The Delta RNN on the CPU. Letters and numbered steps: srwm/reference/delta_rnn.py.

Saved of a step: [ Delta : D_ | s : D_ | h : D_ | beta : LANES ].
"""

cdef enum:  # places of operands
    RNN_Z, RNN_K, RNN_V, RNN_BETA, RNN_R, RNN_H, RNN_STATE, RNN_STATE_H, RNN_RESET, RNN_MASK


cdef real EPS_OF_RNN = 1e-6  # of step 2 in version 2


cdef void delta_rnn_lay_out(Sizes *s) noexcept nogil:
    s.blocks, s.number[0] = 1, s.D
    set_sizes(s)
    s.steps, s.numbers, s.row, s.constants = &RNN_STEPS, s.D, 3 * s.D_ + LANES, s.D_
    s.working = 4 * s.D_ + room_of_delta_back(s)
    lay_out_replayed(s)


cdef inline bint is_version_1(const Sizes *s) noexcept nogil:
    return s.setting[0] == 0


cdef void delta_rnn_begin(const Views *v, real *constants, const Sizes *s) noexcept nogil:
    set_padding(constants, s)


cdef void delta_rnn_step(const Views *v, Py_ssize_t t, real *A, real *row, const real *constants,
                         real *room, const Sizes *s) noexcept nogil:
    cdef const View *z = &v.operands[RNN_Z]        # IN  (L, D)
    cdef const View *k = &v.operands[RNN_K]        # IN  (L, D)
    cdef const View *values = &v.operands[RNN_V]   # IN  (L, D)
    cdef const View *rates = &v.operands[RNN_BETA]  # IN  (L)
    cdef const View *mask = &v.operands[RNN_MASK]  # IN  (L) bool, or none
    cdef real *last = A + s.matrix                 # (D_) h of the step before
    cdef real *Delta = row                         # (D_)
    cdef real *reads = Delta + s.D_                # (D_) s of the numbered steps
    cdef real *h = reads + s.D_                    # (D_)
    cdef real *beta = h + s.D_                     # (LANES)
    cdef real *k_t = room                          # (D_)
    cdef real *u = k_t + s.D_                      # (D_)
    cdef real *z_t = u + s.D_                      # (D_)
    cdef real *p = z_t + s.D_                      # (D_)
    read_real_row(k_t, k, t * k.outer, s.D, mask, t)
    read_real_row(u, values, t * values.outer, s.D, mask, t)
    read_real_row(z_t, z, t * z.outer, s.D, mask, t)
    read_real_entry(beta, rates, t * rates.inner, mask, t)
    # 1
    delta_of(Delta, u, A, k_t, u, beta, s)
    # 2
    if is_version_1(s):
        memcpy(reads, last, s.D_ * sizeof(real))
    else:
        softmax(reads, last, constants, EPS_OF_RNN, s.d)
    # 1, 3
    advance(A, A, s.D, s.m, NULL, k_t, u, reads, p)
    add(p, z_t, s.d)
    # 4
    if is_version_1(s):
        softmax(h, p, constants, 0, s.d)
        memcpy(p, h, s.D_ * sizeof(real))
    put_output(p, last, &v.results[Y], mask, t, s)


cdef void delta_rnn_redo(const Views *v, Py_ssize_t t, real *after, const real *before, const real *row,
                         real *room, const Sizes *s) noexcept nogil:
    cdef const View *k = &v.operands[RNN_K]
    cdef real *k_t = room            # (D_)
    cdef real *u = k_t + s.D_        # (D_)
    read_real_row(k_t, k, t * k.outer, s.D, &v.operands[RNN_MASK], t)
    # 1
    scale(u, row + 3 * s.D_, 0, row, s.m)
    advance(after, before, s.D, s.m, NULL, k_t, u, NULL, NULL)


cdef void delta_rnn_backward(const Views *v, Py_ssize_t t, const real *before, const real *row, Back *back,
                             const real *constants, real *room, const Sizes *s) noexcept nogil:
    cdef const View *k = &v.operands[RNN_K]        # IN  (L, D)
    cdef const View *mask = &v.operands[RNN_MASK]  # IN  (L) bool, or none
    cdef const View *gz = &v.gradients[RNN_Z]      # OUT (L, D), or none
    cdef const View *gk = &v.gradients[RNN_K]      # OUT (L, D), or none
    cdef const View *gv = &v.gradients[RNN_V]      # OUT (L, D), or none
    cdef const View *g_rates = &v.gradients[RNN_BETA]  # OUT (L), or none
    cdef const real *Delta = row                   # (D_)
    cdef const real *reads = Delta + s.D_          # (D_)
    cdef const real *h = reads + s.D_              # (D_)
    cdef const real *beta = h + s.D_               # (LANES)
    cdef real *w = back.G + s.matrix               # (D_) gradient of the last output
    cdef real *g = back.b + s.M_                   # (D_)
    cdef real *k_t = room                          # (D_)
    cdef DeltaBack d = delta_back_in(k_t + s.D_, s)
    read_real_row(k_t, k, t * k.outer, s.D, mask, t)
    # 4'  g = g_h + w
    gradient_of_output(g, w, &v.incoming[Y], mask, t, s)
    if is_version_1(s):
        softmax_backward(g, g, h, s.d)
    write_row(gz, t * gz.outer, g, s.D)
    # 3'  g_s = g R^T   G += s^T g   1'
    memcpy(back.a + s.D_, reads, s.D_ * sizeof(real))
    delta_step_backward(&d, back, before, k_t, beta, Delta, s)
    # 2'
    if not is_version_1(s):
        softmax_backward(d.g_r, d.g_r, reads, s.d)
    put_where_padding(d.g_r, w, s.d, mask, t)
    memcpy(w, d.g_r, s.D_ * sizeof(real))
    fill_where_padding(d.g_beta, 0, 1, mask, t)
    write_row(gk, t * gk.outer, d.g_k, s.D)
    write_row(gv, t * gv.outer, d.both + s.M_, s.D)
    write_entries(g_rates, t * g_rates.inner, d.g_beta)


cdef Replayed RNN_STEPS = [
    [RNN_R, RNN_STATE, RNN_H, RNN_STATE_H, RNN_RESET], 1, 2, False,
    delta_rnn_begin, delta_rnn_step, delta_rnn_redo, delta_rnn_backward, no_parameters,
]
cdef Kernels RNN_KERNELS = [
    delta_rnn_lay_out, replayed_forward, replayed_backward, NULL, RNN_R, RNN_STATE, RNN_RESET, RNN_MASK,
    False, 40 << 10, 80 << 10,
]
register("delta_rnn", &RNN_KERNELS)
