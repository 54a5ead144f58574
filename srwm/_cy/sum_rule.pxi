"""The sum rule on the CPU, with and without a denominator. Letters and numbered steps:
srwm/reference/sum_rule.py, srwm/reference/normalised_sum_rule.py.

With a denominator the state has a vector, z; nothing is saved of a step.
"""

cdef enum:  # places of operands; without a denominator there is no z
    SUM_Q, SUM_K, SUM_V, SUM_S, SUM_STATE, SUM_RESET
    NORMALISED_Z = 4
    NORMALISED_STATE, NORMALISED_STATE_Z, NORMALISED_RESET


cdef void sum_lay_out(Sizes *s) noexcept nogil:
    lay_out_sum(s, &SUM_STEPS, 0)


cdef void normalised_lay_out(Sizes *s) noexcept nogil:
    lay_out_sum(s, &NORMALISED_STEPS, s.D)


cdef inline void lay_out_sum(Sizes *s, const Replayed *steps, Py_ssize_t numbers) noexcept nogil:
    s.blocks, s.number[0] = 1, s.Do
    set_sizes(s)
    s.steps, s.numbers, s.row, s.constants = steps, numbers, 0, 0
    s.working = 5 * s.D_ + 3 * s.M_ + 3 * LANES
    lay_out_replayed(s, True)


# eps, and the factor of the outputs: without a denominator that is the only setting.
cdef inline real eps_of_sum(const Sizes *s) noexcept nogil:
    return s.setting[0]


cdef inline real scale_of_sum(const Sizes *s) noexcept nogil:
    return s.setting[0] if s.numbers == 0 else s.setting[1]


cdef void sum_step(const Views *v, Py_ssize_t t, real *A, real *row, const real *constants, real *room,
                   const Sizes *s) noexcept nogil:
    cdef const View *q = &v.operands[SUM_Q]       # IN  (L, D)
    cdef const View *k = &v.operands[SUM_K]       # IN  (L, D)
    cdef const View *values = &v.operands[SUM_V]  # IN  (L, Do)
    cdef const View *y = &v.results[Y]            # OUT (L, Do)
    cdef real *z = A + s.matrix                   # (D_), with a denominator
    cdef real *q_t = room                         # (D_)
    cdef real *k_t = q_t + s.D_                   # (D_)
    cdef real *v_t = k_t + s.D_                   # (M_)
    cdef real *r = v_t + s.M_                     # (M_)
    cdef real *n = r + s.M_                       # (LANES)
    read_row(q_t, q, t * q.outer, s.D)
    read_row(k_t, k, t * k.outer, s.D)
    read_row(v_t, values, t * values.outer, s.Do)
    # 1  S <- S + k^T v   2  r = q S
    advance(A, A, s.D, s.m, NULL, k_t, v_t, q_t, r)
    # 3
    multiply_by(r, scale_of_sum(s), r, s.m)
    if s.numbers > 0:
        # 1  z <- z + k   2  n = q . z
        add(z, k_t, s.d)
        dot(n, 0, q_t, z, s.d)
        # 3
        divide(r, n + LANES, r, n, eps_of_sum(s), s.m)
    write_row(y, t * y.outer, r, s.Do)


cdef void sum_redo(const Views *v, Py_ssize_t t, real *after, const real *before, const real *row,
                   real *room, const Sizes *s) noexcept nogil:
    cdef const View *k = &v.operands[SUM_K]
    cdef const View *values = &v.operands[SUM_V]
    cdef real *k_t = room          # (D_)
    cdef real *v_t = k_t + s.D_    # (M_)
    read_row(k_t, k, t * k.outer, s.D)
    read_row(v_t, values, t * values.outer, s.Do)
    # 1
    advance(after, before, s.D, s.m, NULL, k_t, v_t, NULL, NULL)
    if s.numbers > 0:
        memcpy(after + s.matrix, before + s.matrix, s.vector * sizeof(real))
        add(after + s.matrix, k_t, s.d)


cdef void sum_backward(const Views *v, Py_ssize_t t, const real *before, const real *row, Back *back,
                       const real *constants, real *room, const Sizes *s) noexcept nogil:
    cdef const View *q = &v.operands[SUM_Q]       # IN  (L, D)
    cdef const View *k = &v.operands[SUM_K]       # IN  (L, D)
    cdef const View *values = &v.operands[SUM_V]  # IN  (L, Do)
    cdef const View *grad_y = &v.incoming[Y]      # IN  (L, Do), or none
    cdef const View *gq = &v.gradients[SUM_Q]     # OUT (L, D), or none
    cdef const View *gk = &v.gradients[SUM_K]     # OUT (L, D), or none
    cdef const View *gv = &v.gradients[SUM_V]     # OUT (L, Do), or none
    cdef real *g_z = back.G + s.matrix            # (D_), with a denominator
    cdef real *q_t = room                         # (D_)
    cdef real *k_t = q_t + s.D_                   # (D_)
    cdef real *z = k_t + s.D_                     # (D_) after the step
    cdef real *g_q = z + s.D_                     # (D_)
    cdef real *g_k = g_q + s.D_                   # (D_)
    cdef real *v_t = g_k + s.D_                   # (M_)
    cdef real *g_r = v_t + s.M_                   # (M_)
    cdef real *g_v = g_r + s.M_                   # (M_)
    cdef real *n = g_v + s.M_                     # (LANES)
    cdef real *per = n + LANES                    # (LANES) 1 / (n + eps)
    cdef real *g_n = per + LANES                  # (LANES)
    read_row(q_t, q, t * q.outer, s.D)
    read_row(k_t, k, t * k.outer, s.D)
    read_row(v_t, values, t * values.outer, s.Do)
    read_row(g_r, grad_y, t * grad_y.outer, s.Do)
    # 3'
    multiply_by(g_r, scale_of_sum(s), g_r, s.m)
    if s.numbers > 0:
        memcpy(z, before + s.matrix, s.vector * sizeof(real))
        add(z, k_t, s.d)
        dot(n, 0, q_t, z, s.d)
        divide(g_r, per, g_r, n, eps_of_sum(s), s.m)
    # 2'  g_q = g_r S^T, with the S after the step: S + k^T v
    along_rows(before, s.D, s.m, 1, g_r, g_q, s.D_)
    add_correction(g_q, v_t, g_r, s.m, k_t, s.d)
    if s.numbers > 0:
        # 3'  g_n = -g_r . r / (n + eps), where g_r . r = q . g_q   2'  g_q += g_n z   g_z += g_n q
        dot(g_n, 0, q_t, g_q, s.d)
        scale(g_n, g_n, 0, per, 1)
        negate(g_n, g_n, 1)
        add_scaled(g_q, g_n, 0, z, s.d)
        add_scaled(g_z, g_n, 0, q_t, s.d)
    # 2'  G += q^T g_r   1'  g_v = k G   g_k = v G^T
    gather(back.G, s.D, s.m, 1, q_t, g_r, k_t, v_t, g_v, g_k)
    if s.numbers > 0:
        add(g_k, g_z, s.d)
    write_row(gq, t * gq.outer, g_q, s.D)
    write_row(gk, t * gk.outer, g_k, s.D)
    write_row(gv, t * gv.outer, g_v, s.Do)


cdef Replayed SUM_STEPS = [
    SUM_S, SUM_STATE, 0, 0, SUM_RESET, 0, 0, False,
    no_constants, sum_step, sum_redo, sum_backward, no_parameters,
]
cdef Replayed NORMALISED_STEPS = [
    SUM_S, NORMALISED_STATE, NORMALISED_Z, NORMALISED_STATE_Z, NORMALISED_RESET, 0, 0, False,
    no_constants, sum_step, sum_redo, sum_backward, no_parameters,
]
cdef Kernels SUM_KERNELS = [
    sum_lay_out, replayed_forward, replayed_backward, NULL, SUM_S, SUM_STATE, SUM_RESET, -1, False,
    40 << 10, 80 << 10,
]
cdef Kernels NORMALISED_KERNELS = [
    normalised_lay_out, replayed_forward, replayed_backward, NULL, SUM_S, NORMALISED_STATE,
    NORMALISED_RESET, -1, False, 40 << 10, 80 << 10,
]
register("sum_rule", &SUM_KERNELS)
register("normalised_sum_rule", &NORMALISED_KERNELS)
