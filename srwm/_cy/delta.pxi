"""The delta rule on the CPU. Letters and numbered steps: srwm/reference/delta.py.

Forward sweeps the fast weights once a step: step 5 of one step and step 1 of the next share every load of
S. Backward sweeps the transposed S once a step, and its gradient once.

Each member of a thread group (group.h) has some of the columns, and does not need the others. Only the
gradients of q, k and beta are sums over all columns; for these sums the members meet once a step, backward.
"""

cdef enum:  # places of operands
    DELTA_Q, DELTA_K, DELTA_V, DELTA_BETA, DELTA_S, DELTA_STATE, DELTA_RESET


cdef void delta_lay_out(Sizes *s) noexcept nogil:
    s.blocks, s.number[0] = 1, s.Do
    set_sizes(s)
    s.row = s.all_             # Delta
    s.sums = 2 * s.D_ + LANES  # [ g_q : D_ | g_k : D_ | g_beta : LANES ]
    s.forward_shared, s.backward_shared = 0, apart(ENTRIES_OF_LINE + 2 * s.sums)
    s.forward_scratch = apart(
        s.matrix + (2 + DEFERRED) * s.D_ + (4 + DEFERRED) * s.M_ + STRIDE + 2 * DELTA_GROWTHS * LANES
    )
    s.backward_scratch = apart(
        s.backward_shared + 2 * s.matrix + s.rows * s.D_ + (6 + 3 * DEFERRED) * s.D_
        + (5 + 3 * DEFERRED) * s.M_ + 2 * STRIDE + s.sums
    )


# OUT: u (M_) = beta_t Delta_t, beta_t (STRIDE).
cdef inline void delta_rate(real *u, real *beta_t, const View *beta, Py_ssize_t t, const real *Delta,
                            const Sizes *s) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(SEQUENCES):
        beta_t[i] = read_entry(beta.data[i] + t * beta.inner, beta.kind)
    scale(u, beta_t, 0, Delta, s.m)


cdef void delta_begin_growth(real *measured, const real *A, const Sizes *s) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(LANES):
        measured[PRODUCT * LANES + i], measured[UPDATES * LANES + i] = 1, 0
        measured[START * LANES + i] = INFINITY


cdef bint delta_has_grown(const real *measured, const Sizes *s) noexcept nogil:
    return has_delta_grown(measured)


cdef void delta_forward(
    const Views *v,
    real *saved,     # OUT saved for backward (common.pxi), or NULL
    real *scratch,
    Group *group,
    const Sizes *s,
) noexcept nogil:
    cdef const View *q = &v.operands[DELTA_Q]          # IN  (L, D)
    cdef const View *k = &v.operands[DELTA_K]          # IN  (L, D)
    cdef const View *values = &v.operands[DELTA_V]     # IN  (L, Do)
    cdef const View *beta = &v.operands[DELTA_BETA]    # IN  (L)
    cdef const View *S = &v.operands[DELTA_S]          # IN  (D, Do), or none: zeros
    cdef const View *state = &v.operands[DELTA_STATE]  # IN  (D, Do), or none
    cdef const View *reset = &v.operands[DELTA_RESET]  # IN  (L) bool, or none
    cdef const View *y = &v.results[Y]                 # OUT (L, Do)
    cdef const View *S_next = &v.results[NEXT]         # OUT (D, Do), or none
    cdef real *A = scratch                             # (D, M_) S, without the deferred updates
    cdef real *q_t = A + s.matrix                      # (D_)
    cdef real *k_after = q_t + s.D_                    # (D_) of step t + 1
    cdef real *deferred_k = k_after + s.D_             # (DEFERRED, D_) of the deferred updates
    cdef real *deferred_u = deferred_k + DEFERRED * s.D_  # (DEFERRED, M_)
    cdef real *v_t = deferred_u + DEFERRED * s.M_      # (M_)
    cdef real *v_bar = v_t + s.M_                      # (M_)
    cdef real *y_t = v_bar + s.M_                      # (M_)
    cdef real *Delta = y_t + s.M_                      # (M_)
    cdef real *beta_t = Delta + s.M_                   # (STRIDE)
    cdef real *measured = beta_t + STRIDE              # (2, DELTA_GROWTHS LANES)
    cdef bint is_returned = S_next.data[0] != NULL
    cdef bint begins
    cdef Growth growth = [measured, DELTA_GROWTHS, False, delta_begin_growth, delta_has_grown]
    cdef int deferred = 0
    cdef Py_ssize_t t, i
    memset(q_t, 0, ((2 + DEFERRED) * s.D_ + (4 + DEFERRED) * s.M_) * sizeof(real))
    read_start(A, S, state, reset, s)
    begin_growth(&growth, saved, A, s)
    if s.L > 0:
        read_row(k_after, k, 0, s.D)
        # 1
        multiply(A, s.D, s.m, k_after, v_bar)
    for t in range(s.L):
        memcpy(deferred_k + deferred * s.D_, k_after, s.D_ * sizeof(real))
        read_row(q_t, q, t * q.outer, s.D)
        read_row(v_t, values, t * values.outer + s.first * values.inner, s.columns)
        if t + 1 < s.L:
            read_row(k_after, k, (t + 1) * k.outer, s.D)
        # 2
        subtract(Delta, v_t, v_bar, s.m)
        # 3
        delta_rate(deferred_u + deferred * s.M_, beta_t, beta, t, Delta, s)
        if saved != NULL:
            measure_step(measured, beta_t, deferred_k + deferred * s.D_, s.d, v_bar, Delta,
                         deferred_u + deferred * s.M_, s.m)
            memcpy(saved + t * s.row + s.first_, Delta, s.M_ * sizeof(real))
        deferred += 1
        # 4 (deferred), 5, and 1 of step t + 1
        if deferred == DEFERRED:
            update_and_multiply(A, s.D, s.m, DEFERRED, deferred_k, deferred_u, q_t, k_after, y_t, v_bar)
            deferred = 0
        else:
            multiply_twice(A, s.D, s.m, q_t, k_after, y_t, v_bar)
            for i in range(deferred):
                add_correction(y_t, q_t, deferred_k + i * s.D_, s.d, deferred_u + i * s.M_, s.m)
                add_correction(v_bar, k_after, deferred_k + i * s.D_, s.d, deferred_u + i * s.M_, s.m)
        write_row(y, t * y.outer + s.first * y.inner, y_t, s.columns)
        begins = settle(A, &deferred, deferred_k, deferred_u, S, reset, saved, is_returned, t, s)
        if begins:
            # 1 of step t + 1
            multiply(A, s.D, s.m, k_after, v_bar)
        follow_growth(&growth, saved, A, reset, begins, t, s)
    write_matrix(S_next, A, False, s)


cdef void delta_redo(real *A, real *room, const Views *v, const real *saved, Py_ssize_t t,
                     const Sizes *s) noexcept nogil:
    cdef const View *k = &v.operands[DELTA_K]
    cdef real *k_t = room             # (D_)
    cdef real *u = k_t + s.D_         # (M_)
    cdef real *beta_t = u + s.M_      # (STRIDE)
    read_row(k_t, k, t * k.outer, s.D)
    # 3, 4
    delta_rate(u, beta_t, &v.operands[DELTA_BETA], t, saved + t * s.row + s.first_, s)
    update(A, s.D, s.m, 1, k_t, u)


cdef void delta_backward(
    const Views *v,
    const real *saved,  # IN  what forward saved
    real *scratch,
    Group *group,
    const Sizes *s,
) noexcept nogil:
    cdef const View *q = &v.operands[DELTA_Q]          # IN  (L, D)
    cdef const View *k = &v.operands[DELTA_K]          # IN  (L, D)
    cdef const View *beta = &v.operands[DELTA_BETA]    # IN  (L)
    cdef const View *state = &v.operands[DELTA_STATE]  # IN  (D, Do), or none
    cdef const View *reset = &v.operands[DELTA_RESET]  # IN  (L) bool, or none
    cdef const View *grad_y = &v.incoming[Y]           # IN  (L, Do), or none
    cdef const View *gq = &v.gradients[DELTA_Q]        # OUT (L, D), or none
    cdef const View *gk = &v.gradients[DELTA_K]        # OUT (L, D), or none
    cdef const View *gv = &v.gradients[DELTA_V]        # OUT (L, Do), or none
    cdef const View *g_beta = &v.gradients[DELTA_BETA]  # OUT (L), or none
    cdef const View *gS = &v.gradients[DELTA_S]        # IN OUT (D, Do), added to, or none
    cdef const View *g_state = &v.gradients[DELTA_STATE]  # IN OUT (D, Do), added to, or none
    cdef real *G = scratch + s.backward_shared         # (D, M_) gradient of S, without the deferred terms
    cdef real *A = G + s.matrix                        # (D, M_)
    cdef real *AT = A + s.matrix                       # (rows, D_) S transposed, with `undone` updates
    cdef real *k_t = AT + s.rows * s.D_                # (D_)
    cdef real *g_q = k_t + s.D_                        # (D_)
    cdef real *g_q_before = g_q + s.D_                 # (D_) of step t - 1
    cdef real *along = g_q_before + s.D_               # (D_)
    cdef real *minus_k_after = along + s.D_            # (D_) of step t + 1, as g_Delta
    cdef real *deferred_a = minus_k_after + s.D_       # (2 DEFERRED, D_) minus k of step t + 1, and q
    cdef real *undone_k = deferred_a + 2 * DEFERRED * s.D_  # (DEFERRED, D_)
    cdef real *deferred_b = undone_k + DEFERRED * s.D_  # (2 DEFERRED, M_) g_Delta of step t + 1, and g_y
    cdef real *undone_u = deferred_b + 2 * DEFERRED * s.M_  # (DEFERRED, M_)  minus u
    cdef real *u = undone_u + DEFERRED * s.M_          # (M_)
    cdef real *g_u = u + s.M_                          # (M_)
    cdef real *g_Delta = g_u + s.M_                    # (M_)
    cdef real *g_y = g_Delta + s.M_                    # (M_) of step t, then of step t - 1
    cdef real *beta_t = g_y + s.M_                     # (STRIDE)
    cdef real *room = beta_t + STRIDE                  # (D_ + M_ + STRIDE) for delta_redo
    cdef real *group_sums = room + s.D_ + s.M_ + STRIDE  # (sums)
    cdef real *g_k                                     # (D_) partial sums of this member, as g_q and g_beta
    cdef const real *sums                              # (sums) of all members
    cdef const real *Delta
    cdef bint is_known = False, is_replayed = False
    cdef int deferred = 0, undone = 0
    cdef Py_ssize_t t, i
    memset(k_t, 0, (group_sums - k_t) * sizeof(real))
    read_matrix(G, &v.incoming[NEXT], s)
    if s.L == 0:
        hand_over(gS, g_state, state, G, reset, 0, s)
    else:
        read_row(g_y, grad_y, (s.L - 1) * grad_y.outer + s.first * grad_y.inner, s.columns)
    for t in range(s.L - 1, -1, -1):
        Delta = saved + t * s.row + s.first_
        if ends_segment(t, s):
            is_replayed = may_have_grown(saved, t, s)
        if bring_back(AT, A, room, v, saved, t, &undone, undone_u, undone_k, is_replayed,
                      &DELTA_KERNELS, s):
            is_known = False
        # 5'  g_q = g_y S'^T, from the sweep of step t + 1 unless S was replaced after it
        if is_known:
            g_q, g_q_before = g_q_before, g_q
        else:
            multiply(AT, s.rows, s.d, g_y, g_q)
        g_k = partial_sums(group, s.sums) + s.D_
        memcpy(g_k - s.D_, g_q, s.D_ * sizeof(real))
        read_row(k_t, k, t * k.outer, s.D)
        delta_rate(u, beta_t, beta, t, Delta, s)
        # 1' of step t + 1, 5'  G += q^T g_y (deferred)   4'  g_u = k G   g_k = u G^T
        memcpy(deferred_a + 2 * deferred * s.D_, minus_k_after, s.D_ * sizeof(real))
        memcpy(deferred_b + 2 * deferred * s.M_, g_Delta, s.M_ * sizeof(real))
        read_row(deferred_a + (2 * deferred + 1) * s.D_, q, t * q.outer, s.D)
        memcpy(deferred_b + (2 * deferred + 1) * s.M_, g_y, s.M_ * sizeof(real))
        deferred += 1
        if deferred == DEFERRED:
            update_and_multiply_both(G, s.D, s.m, 2 * DEFERRED, deferred_a, deferred_b, k_t, u, g_u, g_k)
            deferred = 0
        else:
            update_and_multiply_both(G, s.D, s.m, 0, NULL, NULL, k_t, u, g_u, g_k)
            for i in range(2 * deferred):
                add_correction(g_u, k_t, deferred_a + i * s.D_, s.d, deferred_b + i * s.M_, s.m)
                add_correction(g_k, u, deferred_b + i * s.M_, s.m, deferred_a + i * s.D_, s.d)
        # 3'  g_beta = g_u . Delta   g_Delta = beta g_u   2'  g_v = g_Delta
        dot(g_k + s.D_, 0, g_u, Delta, s.m)
        scale(g_Delta, beta_t, 0, g_u, s.m)
        write_row(gv, t * gv.outer + s.first * gv.inner, g_Delta, s.columns)
        # Undo 4, 1'  g_k -= g_Delta S^T, and g_q of step t - 1
        if t > 0:
            read_row(g_y, grad_y, (t - 1) * grad_y.outer + s.first * grad_y.inner, s.columns)
        negate(undone_u + undone * s.M_, u, s.m)
        memcpy(undone_k + undone * s.D_, k_t, s.D_ * sizeof(real))
        undone += 1
        if is_replayed:
            replay_transposed(AT, A, room, v, saved, t, &DELTA_KERNELS, s)
            undone = 0
            multiply_twice(AT, s.rows, s.d, g_Delta, g_y, along, g_q_before)
        elif undone == DEFERRED:
            update_and_multiply(AT, s.rows, s.d, DEFERRED, undone_u, undone_k, g_Delta, g_y, along,
                                g_q_before)
            undone = 0
        else:
            multiply_twice(AT, s.rows, s.d, g_Delta, g_y, along, g_q_before)
            for i in range(undone):
                add_correction(along, g_Delta, undone_u + i * s.M_, s.m, undone_k + i * s.D_, s.d)
                add_correction(g_q_before, g_y, undone_u + i * s.M_, s.m, undone_k + i * s.D_, s.d)
        is_known = True
        subtract(g_k, g_k, along, s.d)
        sums = meet_and_add(group, group_sums, s.sums)
        if group.member == 0:
            write_row(gq, t * gq.outer, sums, s.D)
            write_row(gk, t * gk.outer, sums + s.D_, s.D)
            if g_beta.data[0] != NULL:
                for i in range(SEQUENCES):
                    write_entry(g_beta.data[i] + t * g_beta.inner, g_beta.kind, sums[2 * s.D_ + i])
        negate(minus_k_after, k_t, s.d)
        if t == 0 or any_reset(reset, t):
            # 1'  applied at once: g_Delta may be NaN or infinite, and 0 * NaN would pass the reset
            update(G, s.D, s.m, 2 * deferred, deferred_a, deferred_b)
            update(G, s.D, s.m, 1, minus_k_after, g_Delta)
            deferred = 0
            memset(minus_k_after, 0, s.D_ * sizeof(real))
            memset(g_Delta, 0, s.M_ * sizeof(real))
            hand_over(gS, g_state, state, G, reset, t, s)


cdef Kernels DELTA_KERNELS = [
    delta_lay_out, delta_forward, delta_backward, delta_redo, DELTA_S, DELTA_STATE, DELTA_RESET, -1,
    True,
    40 << 10, 80 << 10,
]
register("delta", &DELTA_KERNELS)
