"""The self-referential weight matrix on the CPU. Letters and numbered steps: srwm/reference/srwm.py.

Forward sweeps the matrix once a step: step 3 of one step and step 1 of the next share every load of W.
Backward sweeps the transposed W once a step, and its gradient once.

Each member of a thread group (group.h) has some of the columns. All members compute the softmaxes. They
meet once a step: forward when step 1 of all columns is needed, backward when partial sums over columns are
added up.
"""

cdef enum:  # places of operands
    SRWM_X, SRWM_W, SRWM_STATE, SRWM_RESET

cdef enum:  # blocks of columns
    SRWM_Y, SRWM_Q, SRWM_K, SRWM_BETA, SRWM_BLOCKS


cdef void srwm_lay_out(Sizes *s) noexcept nogil:
    cdef Py_ssize_t beta_
    s.blocks = SRWM_BLOCKS
    s.number[SRWM_Y], s.number[SRWM_Q], s.number[SRWM_K], s.number[SRWM_BETA] = s.Do, s.D, s.D, 4
    set_sizes(s)
    beta_ = s.all_ - s.at[SRWM_BETA]
    s.row = 2 * s.D_ + beta_ + s.all_   # [ q : D_ | k : D_ | beta : beta_ | Delta : all_ ]
    s.sums = 3 * s.D_ + beta_           # [ g_k : D_ | g_d : D_ | g_x : D_ | g_beta : beta_ ]
    s.forward_shared = apart(ENTRIES_OF_LINE + 2 * s.all_)
    s.backward_shared = apart(ENTRIES_OF_LINE + 2 * s.sums)
    s.forward_scratch = apart(
        s.forward_shared + s.matrix + (3 + DEFERRED) * s.D_ + DEFERRED * s.M_ + (1 + 2 * DEFERRED) * STRIDE
        + s.row + 4 * SRWM_BLOCKS * LANES
    )
    s.backward_scratch = apart(
        s.backward_shared + 2 * s.matrix + s.rows * s.D_ + (1 + 3 * DEFERRED) * (s.D_ + s.M_)
        + 2 * DEFERRED * STRIDE + s.sums + s.all_
    )


# 4  u = [ beta_0 Delta_y | beta_1 Delta_q | beta_2 Delta_k | beta_3 Delta_beta ]
cdef inline void srwm_rates(real *u, const real *beta, const real *Delta, const Sizes *s) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(SRWM_BLOCKS):
        scale(u + s.block[i], beta, i, Delta + s.block[i], s.width[i])


# measured: for each block a vector of sums of its squared updates; then, for each block, a vector of sums
# of its squares at the start.
cdef void srwm_begin_growth(real *measured, const real *A, const Sizes *s) noexcept nogil:
    cdef Py_ssize_t d, i
    memset(measured, 0, 2 * SRWM_BLOCKS * LANES * sizeof(real))
    for d in range(s.D):
        for i in range(SRWM_BLOCKS):
            add_squares(measured + (SRWM_BLOCKS + i) * LANES, A + d * s.M_ + s.block[i], s.width[i])


cdef bint srwm_has_grown(const real *measured, const Sizes *s) noexcept nogil:
    return has_grown(measured, measured + SRWM_BLOCKS * LANES, SRWM_BLOCKS, s.C)


cdef void srwm_forward(
    const Views *v,
    real *saved,     # OUT saved for backward (common.pxi), or NULL
    real *scratch,
    Group *group,
    const Sizes *s,
) noexcept nogil:
    cdef const View *x = &v.operands[SRWM_X]          # IN  (L, D)
    cdef const View *W = &v.operands[SRWM_W]          # IN  (D, M)
    cdef const View *state = &v.operands[SRWM_STATE]  # IN  (D, M), or none
    cdef const View *reset = &v.operands[SRWM_RESET]  # IN  (L) bool, or none
    cdef const View *y = &v.results[Y]                # OUT (L, Do)
    cdef const View *W_next = &v.results[NEXT]        # OUT (D, M), or none
    cdef real *A = scratch + s.forward_shared         # (D, M_) W, without the deferred updates
    cdef real *x_after = A + s.matrix                 # (D_) x of the next step
    cdef real *r = x_after + s.D_                     # (D_) q - k
    cdef real *padding = r + s.D_                     # (D_) 0, and -inf past D
    cdef real *deferred_k = padding + s.D_            # (DEFERRED, D_) of the deferred updates
    cdef real *deferred_u = deferred_k + DEFERRED * s.D_  # (DEFERRED, M_)
    cdef real *r_k = deferred_u + DEFERRED * s.M_     # (DEFERRED) r . k of each deferred update
    cdef real *x_k = r_k + DEFERRED * STRIDE          # (DEFERRED + 1) x . k of each, then of this step
    cdef real *row = x_k + (DEFERRED + 1) * STRIDE    # (row) of a step, if it is not saved
    cdef real *measured = row + s.row                 # (2, 2 SRWM_BLOCKS LANES)
    cdef real *o = shared_row(group, 0, s.all_)       # (all_)
    cdef real *o_after                                # (M_) of the next step
    cdef real *q
    cdef real *k
    cdef real *beta
    cdef real *Delta
    cdef const View *start = start_of(W, state, reset)
    cdef bint is_returned = W_next.data[0] != NULL
    cdef bint begins
    cdef Growth growth = [measured, 2 * SRWM_BLOCKS, False, srwm_begin_growth, srwm_has_grown]
    cdef int deferred = 0
    cdef Py_ssize_t t, i, j
    cdef Py_ssize_t rates = (s.all_ - s.at[SRWM_BETA]) // LANES  # vectors over beta
    cdef Py_ssize_t ys = s.number[SRWM_Y] - s.first   # columns of y of this member

    ys = min(ys, s.width[SRWM_Y] * LANES // STRIDE)
    if s.L == 1 and saved == NULL and not is_returned and start != NULL:
        # 1  only y: it needs no other columns of W
        for i in range(s.D):
            read_row(A + i * s.width[SRWM_Y] * LANES, start, i * start.outer + s.first * start.inner, ys)
        read_row(x_after, x, 0, s.D)
        multiply(A, s.D, s.width[SRWM_Y], x_after, o + s.first_)
        write_row(y, s.first * y.inner, o + s.first_, ys)
        return
    read_start(A, W, state, reset, s)
    begin_growth(&growth, saved, A, s)
    if s.L > 0:
        memset(x_after, 0, 3 * s.D_ * sizeof(real))
        for i in range(s.D * STRIDE, s.D_):
            padding[i] = -INFINITY
        read_row(x_after, x, 0, s.D)
        multiply(A, s.D, s.m, x_after, o + s.first_)
    for t in range(s.L):
        q = saved + t * s.row if saved != NULL and group.member == 0 else row
        k = q + s.D_
        beta = k + s.D_
        Delta = (saved + t * s.row if saved != NULL else row) + s.row - s.all_ + s.first_

        # 1  o = x_t W, computed by the sweep of the previous step
        write_row(y, t * y.outer + s.first * y.inner, o + s.first_, ys)
        if t + 1 == s.L and saved == NULL and not is_returned:
            return
        meet(group)
        o_after = shared_row(group, 1, s.all_) + s.first_
        # 2  q = softmax(q^)   k = softmax(k^)   beta = sigmoid(b^)
        softmaxes(q, o + s.at[SRWM_Q], padding, s.d)
        sigmoid(beta, o + s.at[SRWM_BETA], rates)
        # 3  Delta = (q - k) W, and 1 of the next step, still without the update of this step
        subtract(r, q, k, s.d)
        if t + 1 < s.L:
            read_row(x_after, x, (t + 1) * x.outer, s.D)
        if t + 2 < s.L:
            fetch_row(x, (t + 2) * x.outer, s.D)
            fetch_row(y, (t + 2) * y.outer, s.Do)
        if deferred == DEFERRED:
            # 5  of the deferred updates
            update_and_multiply(A, s.D, s.m, DEFERRED, deferred_k, deferred_u, r, x_after, Delta, o_after)
            deferred = 0
        else:
            if t + 1 < s.L:
                multiply_twice(A, s.D, s.m, r, x_after, Delta, o_after)
            else:
                multiply(A, s.D, s.m, r, Delta)
            for i in range(deferred):  # r (W + k^T u) = r W + (r . k) u, likewise for x
                dot(r_k, i, r, deferred_k + i * s.D_, s.d)
                dot(x_k, i, x_after, deferred_k + i * s.D_, s.d)
        # 4, and the corrections of 3 for the deferred updates, and of 1 of the next step also for this one
        dot(x_k, DEFERRED, x_after, k, s.d)
        for i in range(SRWM_BLOCKS):
            j = s.block[i]
            finish(Delta + j, deferred_u + deferred * s.M_ + j, o_after + j, beta, i, deferred,
                   deferred_u + j, s.M_, r_k, x_k, x_k + DEFERRED * STRIDE, s.width[i])
            if saved != NULL:
                add_squares(measured + i * LANES, deferred_u + deferred * s.M_ + j, s.width[i])
        # 5  W <- W + k^T u, deferred
        memcpy(deferred_k + deferred * s.D_, k, s.D_ * sizeof(real))
        deferred += 1
        begins = settle(A, &deferred, deferred_k, deferred_u, W, reset, saved, is_returned, t, s)
        if begins:
            multiply(A, s.D, s.m, x_after, o_after)
        follow_growth(&growth, saved, A, reset, begins, t, s)
        o = shared_row(group, 1, s.all_)
        group.turn ^= 1
    write_matrix(W_next, A, False, s)


cdef void srwm_redo(real *A, real *room, const Views *v, const real *saved, Py_ssize_t t,
                    const Sizes *s) noexcept nogil:
    cdef const real *k = saved + t * s.row + s.D_
    cdef const real *Delta = saved + (t + 1) * s.row - s.all_ + s.first_
    # 4, 5
    srwm_rates(room, k + s.D_, Delta, s)
    update(A, s.D, s.m, 1, k, room)


cdef void srwm_backward(
    const Views *v,
    const real *saved,  # IN  what forward saved
    real *scratch,
    Group *group,
    const Sizes *s,
) noexcept nogil:
    cdef const View *x = &v.operands[SRWM_X]          # IN  (L, D)
    cdef const View *state = &v.operands[SRWM_STATE]  # IN  (D, M), or none
    cdef const View *reset = &v.operands[SRWM_RESET]  # IN  (L) bool, or none
    cdef const View *grad_y = &v.incoming[Y]          # IN  (L, Do), or none
    cdef const View *gx = &v.gradients[SRWM_X]        # OUT (L, D), or none
    cdef const View *gW = &v.gradients[SRWM_W]        # IN OUT (D, M), added to, or none
    cdef const View *g_state = &v.gradients[SRWM_STATE]  # IN OUT (D, M), added to, or none
    cdef real *G = scratch + s.backward_shared        # (D, M_) gradient of W, without the deferred terms
    cdef real *A = G + s.matrix                       # (D, M_)
    cdef real *AT = A + s.matrix                      # (rows, D_) W transposed, with `undone` updates
    cdef real *last_g_x = AT + s.rows * s.D_          # (D_)
    cdef real *deferred_a = last_g_x + s.D_           # (2 DEFERRED, D_) q - k and x of each deferred term
    cdef real *undone_k = deferred_a + 2 * DEFERRED * s.D_  # (DEFERRED, D_)
    cdef real *deferred_b = undone_k + DEFERRED * s.D_      # (2 DEFERRED, M_) g_Delta and g_o of the same
    cdef real *undone_u = deferred_b + 2 * DEFERRED * s.M_  # (DEFERRED, M_)   with minus k in undone_k
    cdef real *g_u = undone_u + DEFERRED * s.M_       # (M_)
    cdef real *group_g_o = g_u + s.M_                 # (all_)        g_o of the columns of all members
    cdef real *group_sums = group_g_o + s.all_        # (sums)
    cdef real *k_a = group_sums + s.sums              # (2 DEFERRED) k . deferred_a
    cdef real *g_k                                    # (D_) partial sums of this member: g_k,
    cdef real *g_d                                    # (D_) g_d,
    cdef real *g_x                                    # (D_) g_x of step t + 1, and g_beta
    cdef const real *sums                             # (sums) of all members
    cdef real *u
    cdef real *g_Delta
    cdef real *g_o
    cdef real *g_o_all                                # of all columns
    cdef real *g_o_after = deferred_b                 # of step t + 1
    cdef real *minus_k
    cdef const real *q
    cdef const real *k
    cdef const real *beta
    cdef const real *Delta
    cdef bint has_after = False, is_replayed = False
    cdef int deferred = 0, undone = 0
    cdef Py_ssize_t t, i, j
    cdef Py_ssize_t rates = (s.all_ - s.at[SRWM_BETA]) // LANES  # vectors over beta

    memset(last_g_x, 0, (1 + 3 * DEFERRED) * (s.D_ + s.M_) * sizeof(real))
    memset(group_g_o, 0, s.all_ * sizeof(real))
    read_matrix(G, &v.incoming[NEXT], s)
    if s.L == 0:
        hand_over(gW, g_state, state, G, reset, 0, s)
    for t in range(s.L - 1, -1, -1):
        q = saved + t * s.row
        k = q + s.D_
        beta = k + s.D_
        Delta = q + s.row - s.all_ + s.first_

        if ends_segment(t, s):
            is_replayed = may_have_grown(saved, t, s)
        if is_replayed:
            undone = 0
        else:
            bring_back(AT, A, g_u, v, saved, t, &undone, undone_u, undone_k, False, &SRWM_KERNELS, s)
        if t > 0:
            fetch(q - s.row, s.row // 2 * sizeof(real))
        g_k = partial_sums(group, s.sums)
        g_d, g_x = g_k + s.D_, g_k + 2 * s.D_
        if t + 2 >= s.L:  # clear both buffers: the previous sequence may have left values in the padding
            memset(g_k, 0, s.sums * sizeof(real))
        elif s.D_ > s.D * STRIDE:  # clear the padding: NaN of steps after a reset may be in it
            memset(g_k + s.D * STRIDE, 0, (s.D_ - s.D * STRIDE) * sizeof(real))
        u = undone_u + undone * s.M_
        srwm_rates(u, beta, Delta, s)
        # 1', 3' of the deferred steps:  G += (q - k)^T g_Delta + x^T g_o
        # 5'  g_u = k G   g_k = G u^T
        if deferred == DEFERRED:
            update_and_multiply_both(G, s.D, s.m, 2 * DEFERRED, deferred_a, deferred_b, k, u, g_u, g_k)
            deferred = 0
        else:
            update_and_multiply_both(G, s.D, s.m, 0, NULL, NULL, k, u, g_u, g_k)
            for i in range(2 * deferred):  # k (G + a^T b) = k G + (k . a) b
                dot(k_a, i, k, deferred_a + i * s.D_, s.d)
                add_correction(g_k, u, deferred_b + i * s.M_, s.m, deferred_a + i * s.D_, s.d)
        # 4'  g_Delta = beta g_u   g_beta[j] = sum over block j of g_u Delta
        g_Delta = deferred_b + 2 * deferred * s.M_
        g_o = g_Delta + s.M_
        for i in range(SRWM_BLOCKS):
            j = s.block[i]
            scale_backward(g_Delta + j, g_x + s.D_, i, g_u + j, 2 * deferred, deferred_b + j, s.M_, k_a,
                           beta, Delta + j, s.width[i])
        if t > 0:
            fetch(q - s.row // 2, s.row // 2 * sizeof(real))
        # 5 undone, 3'  g_d = W g_Delta^T, and 1' of step t + 1:  g_x = (W + k^T u) g_o^T
        minus_k = undone_k + undone * s.D_
        negate(minus_k, k, s.d)
        undone += 1
        if is_replayed:
            replay_transposed(AT, A, g_u, v, saved, t, &SRWM_KERNELS, s)
            undone = 0
            multiply_twice(AT, s.rows, s.d, g_Delta, g_o_after, g_d, g_x)
            add_correction(g_x, g_o_after, u, s.m, k, s.d)
        elif undone == DEFERRED:
            update_and_multiply(AT, s.rows, s.d, DEFERRED, undone_u, undone_k, g_Delta, g_o_after, g_d, g_x)
            undone = 0
            add_correction(g_x, g_o_after, u, s.m, k, s.d)
        else:
            multiply_twice(AT, s.rows, s.d, g_Delta, g_o_after, g_d, g_x)
            add_correction(g_d, g_Delta, u, s.m, minus_k, s.d)
        if not has_after:
            memcpy(g_x, last_g_x, s.D_ * sizeof(real))
        sums = meet_and_add(group, group_sums, s.sums)
        if t + 1 < s.L and group.member == 0:
            write_row(gx, (t + 1) * gx.outer, sums + 2 * s.D_, s.D)
        if t > 0:
            fetch_row(x, (t - 1) * x.outer, s.D)
            fetch_row(grad_y, (t - 1) * grad_y.outer, s.Do)
            fetch_row(gx, (t - 1) * gx.outer, s.D)
        # 3'  g_q = g_d   g_k -= g_d
        # 2'  through the softmaxes and the sigmoid
        # 1'  g_o = [ g_y | g_q^ | g_k^ | g_b^ ]
        g_o_all = g_o if group.size == 1 else group_g_o
        read_row(g_o_all, grad_y, t * grad_y.outer, s.Do)
        subtract(g_o_all + s.at[SRWM_K], sums, sums + s.D_, s.d)
        softmax_backward(g_o_all + s.at[SRWM_Q], sums + s.D_, q, s.d)
        softmax_backward(g_o_all + s.at[SRWM_K], g_o_all + s.at[SRWM_K], k, s.d)
        sigmoid_backward(g_o_all + s.at[SRWM_BETA], sums + 3 * s.D_, beta, rates)
        if group.size > 1:
            memcpy(g_o, g_o_all + s.first_, s.M_ * sizeof(real))
        subtract(deferred_a + 2 * deferred * s.D_, q, k, s.d)
        read_row(deferred_a + (2 * deferred + 1) * s.D_, x, t * x.outer, s.D)
        deferred += 1
        if t >= s.C:  # prefetch some rows of the matrix at the end of the previous segment
            for i in range((s.C - 1 - t % s.C) * s.D // s.C, (s.C - t % s.C) * s.D // s.C):
                fetch(saved + saved_matrix(t // s.C - 1, s) + i * s.all_ + s.first_, s.M_ * sizeof(real))
        g_o_after = g_o
        has_after = t > 0 and not any_reset(reset, t)
        if not has_after:
            # 3', 1'  applied at once;  g_x = W g_o^T
            update(G, s.D, s.m, 2 * deferred, deferred_a, deferred_b)
            deferred = 0
            multiply(AT, s.rows, s.d, g_o, last_g_x)
            for i in range(undone):
                add_correction(last_g_x, g_o, undone_u + i * s.M_, s.m, undone_k + i * s.D_, s.d)
            hand_over(gW, g_state, state, G, reset, t, s)
    if s.L > 0:
        memcpy(partial_sums(group, s.sums) + 2 * s.D_, last_g_x, s.D_ * sizeof(real))
        sums = meet_and_add(group, group_sums, s.sums)
        if group.member == 0:
            write_row(gx, 0, sums + 2 * s.D_, s.D)


cdef Kernels SRWM_KERNELS = [
    srwm_lay_out, srwm_forward, srwm_backward, srwm_redo, SRWM_W, SRWM_STATE, SRWM_RESET, -1,
    True,
    160 << 10, 80 << 10,
]
register("srwm", &SRWM_KERNELS)
