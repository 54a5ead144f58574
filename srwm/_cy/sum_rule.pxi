"""The sum rule on the CPU, with and without a denominator. Letters and numbered steps:
srwm/reference/sum_rule.py, srwm/reference/normalised_sum_rule.py.

What a step writes does not depend on what it reads. So several steps are computed together, up to the next
reset. And the backward pass is the forward pass with other operands, three times:

    y     reads  S,   to which it adds  k^T v,    from the first step on
    g_q   reads  S^T, to which it adds  v^T k,    from the first step on
    g_v   reads  G,   to which it adds  q^T g_r,  from the last step back
    g_k   reads  G^T, to which it adds  g_r^T q,  from the last step back

Forward saves nothing of it. With a denominator the state has a vector, z, and forward saves of a step
[ scale r : M_ | n : LANES ].
"""

cdef enum:  # places of operands; without a denominator there is no z
    SUM_Q, SUM_K, SUM_V, SUM_S, SUM_STATE, SUM_RESET
    NORMALISED_Z = 4
    NORMALISED_STATE, NORMALISED_STATE_Z, NORMALISED_RESET

cdef enum:  # signs of the time
    ON = 1
    BACK = -1


cdef void sum_lay_out(Sizes *s) noexcept nogil:
    lay_out_sum(s, &SUM_STATES, 0)


cdef void normalised_lay_out(Sizes *s) noexcept nogil:
    lay_out_sum(s, &NORMALISED_STATES, s.D)


cdef inline void lay_out_sum(Sizes *s, const States *states, Py_ssize_t numbers) noexcept nogil:
    s.blocks, s.number[0] = 1, s.Do
    set_sizes(s)
    s.steps, s.numbers = states, numbers
    s.vector = vectors_for(numbers) * LANES
    s.row = s.M_ + LANES if numbers > 0 else 0
    s.kept = s.growths = s.sums = s.forward_shared = s.backward_shared = 0
    s.working = STEPS_AT_ONCE * (4 * s.D_ + 4 * s.M_ + LANES) + LANES  # enough for both passes
    s.forward_scratch = apart(s.matrix + s.vector + s.row + s.working)
    s.backward_scratch = apart(s.matrix + s.vector + s.rows * s.D_ + s.working)


# eps, and the factor of the outputs: without a denominator that is the only setting.
cdef inline real eps_of_sum(const Sizes *s) noexcept nogil:
    return s.setting[0]


cdef inline real scale_of_sum(const Sizes *s) noexcept nogil:
    return s.setting[0] if s.numbers == 0 else s.setting[1]


# How many steps can be computed together, from t on or back from it: until sequences begin anew.
cdef inline int steps_together(const View *reset, Py_ssize_t t, int sign, const Sizes *s) noexcept nogil:
    cdef int most = <int> min(<Py_ssize_t> STEPS_AT_ONCE, s.L - t if sign == ON else t + 1), n = 1
    if reset.data[0] == NULL:
        return most
    while n < most and not any_reset(reset, t + n if sign == ON else t - n + 1):
        n += 1
    return n


cdef void sum_forward(const Views *v, real *saved, real *scratch, Group *group,
                      const Sizes *s) noexcept nogil:
    cdef const States *states = <const States *> s.steps
    cdef Sizes vector = sizes_of_vector(s)
    cdef real *A = scratch                        # (D, M_) S
    cdef real *z = A + s.matrix                   # (D_), with a denominator
    cdef real *row = z + s.vector                 # (row)
    cdef real *per = row + s.row                  # (LANES)  1 / (n + eps)
    cdef real *room = per + LANES                 # for steps computed together
    cdef real *room_M = room + 3 * STEPS_AT_ONCE * s.D_
    cdef Series q = series_of(&v.operands[SUM_Q], s.D, room)                         # IN  (L, D)
    cdef Series k = series_of(&v.operands[SUM_K], s.D, room + STEPS_AT_ONCE * s.D_)  # IN  (L, D)
    cdef Series values = series_of(&v.operands[SUM_V], s.Do, room_M)                 # IN  (L, Do)
    cdef Series y = series_of(&v.results[Y], s.Do, room_M + STEPS_AT_ONCE * s.M_)    # OUT (L, Do)
    cdef Rows q_t, k_t, y_t
    cdef Py_ssize_t t = 0
    cdef int steps, i
    if s.L == 0:
        read_begin(A, v, 0, states, s, &vector)
    while t < s.L:
        read_begin(A, v, t, states, s, &vector)
        steps = steps_together(&v.operands[states.reset], t, ON, s)
        q_t, k_t, y_t = read_rows(&q, t, ON, steps), read_rows(&k, t, ON, steps), rows_of(&y, t, ON)
        # 1  S <- S + k^T v   2  r = q S   3
        write_and_read(A, s.D, s.m, steps, k_t, read_rows(&values, t, ON, steps), 1, q_t, y_t,
                       scale_of_sum(s))
        if s.numbers > 0:
            for i in range(steps):
                if saved != NULL:
                    row = saved + (t + i) * s.row
                memcpy(row, y_t.at + i * y_t.apart, s.M_ * sizeof(real))
                # 1  z <- z + k   2  n = q . z   3
                add(z, k_t.at + i * k_t.apart, s.d)
                dot(row + s.M_, 0, q_t.at + i * q_t.apart, z, s.d)
                divide(y_t.at + i * y_t.apart, per, row, row + s.M_, eps_of_sum(s), s.m)
        write_rows(&y, t, ON, steps)
        t += steps
    write_matrix(&v.results[NEXT], A, False, s)
    if s.numbers > 0:
        write_matrix(&v.results[NEXT_VECTOR], z, False, &vector)


# OUT: g_r of steps, without the factor `scale`; with a denominator g_n (steps, LANES).
cdef inline Rows gradient_of_read(real *g_n, real *room, const Series *g_y, const real *saved, Py_ssize_t t,
                                  int sign, int steps, const Sizes *s) noexcept nogil:
    cdef Rows g_r = read_rows(g_y, t, sign, steps)
    cdef real *per = g_n + STEPS_AT_ONCE * LANES  # (LANES)  1 / (n + eps)
    cdef const real *row
    cdef int i
    if s.numbers == 0:
        return g_r
    for i in range(steps):
        row = saved + (t + sign * i) * s.row
        # 3'
        divide(room + i * s.M_, per, g_r.at + i * g_r.apart, row + s.M_, eps_of_sum(s), s.m)
        dot(g_n, 0, room + i * s.M_, row, s.m)
        scale(g_n, per, 0, g_n, 1)
        negate(g_n, g_n, 1)
        g_n += LANES
    g_r.at, g_r.apart = room, s.M_
    return g_r


cdef void sum_backward(const Views *v, const real *saved, real *scratch, Group *group,
                       const Sizes *s) noexcept nogil:
    cdef const States *states = <const States *> s.steps
    cdef const View *reset = &v.operands[states.reset]
    cdef Sizes vector = sizes_of_vector(s)
    cdef Py_ssize_t of_D = STEPS_AT_ONCE * s.D_, of_M = STEPS_AT_ONCE * s.M_
    cdef real *A = scratch                        # (D, M_) S, then G
    cdef real *z = A + s.matrix                   # (D_) z, then g_z; with a denominator
    cdef real *AT = z + s.vector                  # (rows, D_) the transpose of A
    cdef real *g_n = AT + s.rows * s.D_           # (STEPS_AT_ONCE + 1, LANES)
    cdef real *room = g_n + (STEPS_AT_ONCE + 1) * LANES  # for steps computed together
    cdef real *room_M = room + 4 * of_D
    cdef Series q = series_of(&v.operands[SUM_Q], s.D, room)                 # IN  (L, D)
    cdef Series k = series_of(&v.operands[SUM_K], s.D, room + of_D)          # IN  (L, D)
    cdef Series gq = series_of(&v.gradients[SUM_Q], s.D, room + 2 * of_D)    # OUT (L, D), or none
    cdef Series gk = series_of(&v.gradients[SUM_K], s.D, room + 3 * of_D)    # OUT (L, D), or none
    cdef Series values = series_of(&v.operands[SUM_V], s.Do, room_M)         # IN  (L, Do)
    cdef Series grad_y = series_of(&v.incoming[Y], s.Do, room_M + of_M)      # IN  (L, Do), or none
    cdef Series gv = series_of(&v.gradients[SUM_V], s.Do, room_M + 2 * of_M)  # OUT (L, Do), or none
    cdef Rows q_t, k_t, v_t, g_q, g_k, g_r
    cdef Py_ssize_t t = 0, first
    cdef int steps, i
    while t < s.L:
        if t == 0 or any_reset(reset, t):
            if t > 0 and SEQUENCES > 1:  # those side by side that do not begin here keep theirs
                transpose(A, s.m, AT, s.D_, s.Do, s.d)
            read_begin(A, v, t, states, s, &vector)
            transpose(AT, s.d, A, s.M_, s.D, s.m)
        steps = steps_together(reset, t, ON, s)
        k_t, g_q = read_rows(&k, t, ON, steps), rows_of(&gq, t, ON)
        g_r = gradient_of_read(g_n, room_M + 3 * of_M, &grad_y, saved, t, ON, steps, s)
        # 1  S <- S + k^T v   2'  g_q = g_r S^T
        write_and_read(AT, s.Do, s.d, steps, read_rows(&values, t, ON, steps), k_t, 1, g_r, g_q,
                       scale_of_sum(s))
        if s.numbers > 0:
            for i in range(steps):
                # 1  z <- z + k   2'  g_q += g_n z
                add(z, k_t.at + i * k_t.apart, s.d)
                add_scaled(g_q.at + i * g_q.apart, g_n + i * LANES, 0, z, s.d)
        write_rows(&gq, t, ON, steps)
        t += steps
    read_matrix(A, &v.incoming[NEXT], s)
    if s.numbers > 0:
        read_matrix(z, &v.incoming[NEXT_VECTOR], &vector)
    if s.L == 0:
        hand_over_begin(v, A, 0, states, s, &vector)
    transpose(AT, s.d, A, s.M_, s.D, s.m)
    t = s.L - 1
    while t >= 0:
        steps = steps_together(reset, t, BACK, s)
        q_t, k_t, v_t = (
            read_rows(&q, t, BACK, steps), read_rows(&k, t, BACK, steps), read_rows(&values, t, BACK, steps)
        )
        g_r = gradient_of_read(g_n, room_M + 3 * of_M, &grad_y, saved, t, BACK, steps, s)
        g_k = rows_of(&gk, t, BACK)
        # 2'  G += q^T g_r   1'  g_v = k G   g_k = v G^T
        write_and_read(A, s.D, s.m, steps, q_t, g_r, scale_of_sum(s), k_t, rows_of(&gv, t, BACK), 1)
        write_and_read(AT, s.Do, s.d, steps, g_r, q_t, scale_of_sum(s), v_t, g_k, 1)
        if s.numbers > 0:
            for i in range(steps):
                # 2'  g_z += g_n q   1'  g_k += g_z
                add_scaled(z, g_n + i * LANES, 0, q_t.at + i * q_t.apart, s.d)
                add(g_k.at + i * g_k.apart, z, s.d)
        write_rows(&gv, t, BACK, steps)
        write_rows(&gk, t, BACK, steps)
        first = t - steps + 1
        if first == 0 or any_reset(reset, first):
            hand_over_begin(v, A, first, states, s, &vector)
            transpose(AT, s.d, A, s.M_, s.D, s.m)
        t -= steps


cdef States SUM_STATES = [SUM_S, SUM_STATE, 0, 0, SUM_RESET]
cdef States NORMALISED_STATES = [
    SUM_S, NORMALISED_STATE, NORMALISED_Z, NORMALISED_STATE_Z, NORMALISED_RESET
]
cdef Kernels SUM_KERNELS = [
    sum_lay_out, sum_forward, sum_backward, NULL, SUM_S, SUM_STATE, SUM_RESET, -1, False,
    2 << 10, 4 << 10,
]
cdef Kernels NORMALISED_KERNELS = [
    normalised_lay_out, sum_forward, sum_backward, NULL, SUM_S, NORMALISED_STATE, NORMALISED_RESET, -1,
    False, 2 << 10, 4 << 10,
]
register("sum_rule", &SUM_KERNELS)
register("normalised_sum_rule", &NORMALISED_KERNELS)
