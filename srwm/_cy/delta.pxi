"""The delta rule on the CPU: one text, compiled once per instruction set, real type and layout.

Letters as in kernels.pxi and srwm/_delta_reference.py, whose numbered steps these are:

    D, Do   entries of a query or key, of a value or output
    D_, Do_, d, o   the same as laid out inside, in entries and in vectors (common.pxi)

Going forward the fast weights are swept once a step: step 5 of one step and step 1 of the next share every
load of S. Step 4 is late, as step 5 of kernels.pxi is. Backward sweeps S once, transposed, and its gradient
once.

Members of a team (team.h) have some of the columns each and see nothing of the others. Only the gradients of q, k and beta are sums over all columns: for these they
meet once a step.
"""

cdef struct DeltaSizes:
    Py_ssize_t D, Do, L, C, segments
    Py_ssize_t d, o      # vectors over D, Do
    Py_ssize_t D_, Do_   # the same in entries
    Py_ssize_t matrix    # entries of S: D Do_
    Py_ssize_t rows      # of S transposed: one for each column, padding too
    Py_ssize_t sums      # entries of sums over columns: [ g_q : D_ | g_k : D_ | g_beta : LANES ]
    # Do, o, Do_ and what follows from them are of this member's columns:
    Py_ssize_t all_      # entries over all columns
    Py_ssize_t first_    # how many of them are before this member's
    Py_ssize_t first     # the first of its columns
    Columns columns


cdef inline DeltaSizes delta_sizes_of(
    Py_ssize_t D, Py_ssize_t Do, Py_ssize_t L, Py_ssize_t C, Py_ssize_t segments
) noexcept nogil:
    cdef DeltaSizes s
    s.D, s.Do, s.L, s.C, s.segments = D, Do, L, C, segments
    s.d, s.D_ = vectors_for(D), vectors_for(D) * LANES
    s.sums, s.all_ = 2 * s.D_ + LANES, vectors_for(Do) * LANES
    return delta_sizes_between(0, s.all_, s)


# As `s`, of the columns between two entries of a row, whole vectors.
cdef inline DeltaSizes delta_sizes_between(
    Py_ssize_t first_, Py_ssize_t last_, DeltaSizes s
) noexcept nogil:
    s.first_, s.Do_, s.o = first_, last_ - first_, (last_ - first_) // LANES
    s.first, s.Do = first_ // STRIDE, min(s.Do, last_ // STRIDE) - first_ // STRIDE
    s.matrix, s.rows = s.D * s.Do_, s.Do_ // STRIDE
    s.columns.rows, s.columns.entries, s.columns.blocks = s.D, s.Do_, 1
    s.columns.first[0], s.columns.number[0], s.columns.room[0] = s.first, s.Do, s.Do_
    set_growths(&s.columns, first_, s.all_)
    return s


cdef inline DeltaSizes delta_sizes_of_member(const Team *team, DeltaSizes s) noexcept nogil:
    return delta_sizes_between(member_start(team, team.member, s.all_),
                               member_start(team, team.member + 1, s.all_), s)


# Of the sequences at hand: Delta of every step, then S at the end of each kept segment, then whether S grew in
# each of all segments.
cdef inline Py_ssize_t delta_entries_kept(DeltaSizes s) noexcept nogil:
    return s.L * s.all_ + s.segments * s.D * s.all_ + all_segments(s.L, s.C) * s.columns.growths


# Entries that members of a team reach in each other's scratch, at its start.
cdef inline Py_ssize_t delta_backward_shared(DeltaSizes s) noexcept nogil:
    return apart(ENTRIES_OF_LINE + 2 * s.sums)


cdef inline Py_ssize_t delta_forward_scratch(DeltaSizes s) noexcept nogil:
    return s.matrix + (2 + LATE) * s.D_ + (4 + LATE) * s.Do_ + STRIDE + 2 * DELTA_GROWTHS * LANES


cdef inline Py_ssize_t delta_backward_scratch(DeltaSizes s) noexcept nogil:
    return (delta_backward_shared(s) + 2 * s.matrix + s.rows * s.D_ + (6 + 3 * LATE) * s.D_
            + (5 + 3 * LATE) * s.Do_ + 2 * STRIDE + s.sums)


# OUT: u (Do_) = beta_t Delta_t, beta_t (STRIDE).
cdef inline void scaled_error(real *u, real *beta_t, const View *beta, Py_ssize_t t, const real *Delta,
                              DeltaSizes s) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(SEQUENCES):
        beta_t[i] = read_entry(beta.data[i] + t * beta.inner, beta.kind)
    scale(u, beta_t, 0, Delta, s.o)


# How far S may grow from here on (growth.h).
cdef void begin_delta_growth(real *growth) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(LANES):
        growth[PRODUCT * LANES + i], growth[UPDATES * LANES + i] = 1, 0
        growth[START * LANES + i] = INFINITY


cdef void delta_forward_sequences(
    const View *q,       # IN  (L, D)
    const View *k,       # IN  (L, D)
    const View *v,       # IN  (L, Do)
    const View *beta,    # IN  (L)
    const View *S,       # IN  (D, Do), or none: zeros
    const View *state,   # IN  (D, Do), or none
    const View *reset,   # IN  (L) bool, or none
    const View *y,       # OUT (L, Do)
    const View *S_next,  # OUT (D, Do), or none
    real *kept,          # OUT delta_entries_kept(s), or NULL
    real *scratch,
    DeltaSizes s,
) noexcept nogil:
    cdef real *A = scratch                    # (D, Do_) S, short of the late updates
    cdef real *q_t = A + s.matrix             # (D_)
    cdef real *k_after = q_t + s.D_           # (D_) of step t + 1
    cdef real *late_k = k_after + s.D_        # (LATE, D_) of the late updates, as late_u
    cdef real *late_u = late_k + LATE * s.D_  # (LATE, Do_)
    cdef real *v_t = late_u + LATE * s.Do_    # (Do_)
    cdef real *v_bar = v_t + s.Do_            # (Do_)
    cdef real *y_t = v_bar + s.Do_            # (Do_)
    cdef real *Delta = y_t + s.Do_            # (Do_)
    cdef real *beta_t = Delta + s.Do_         # (STRIDE)
    cdef real *growth = beta_t + STRIDE       # (2, DELTA_GROWTHS LANES)
    cdef real *growths = NULL if kept == NULL else kept + (s.L + s.segments * s.D) * s.all_
    cdef int late = 0
    cdef bint is_kept, is_grown = False
    cdef Py_ssize_t t, i
    memset(q_t, 0, ((2 + LATE) * s.D_ + (4 + LATE) * s.Do_) * sizeof(real))
    read_start(A, S, state, reset, &s.columns)
    begin_delta_growth(growth)
    if s.L > 0:
        read_row(k_after, k, 0, s.D)
        # 1
        multiply(A, s.D, s.o, k_after, v_bar)
    for t in range(s.L):
        if t > 0 and any_reset(reset, t):
            read_reset_matrices(A, S, reset, t, &s.columns)
            multiply(A, s.D, s.o, k_after, v_bar)
            is_grown |= has_delta_grown(growth)
            begin_delta_growth(growth + DELTA_GROWTHS * LANES)
            copy_where_reset(growth, growth + DELTA_GROWTHS * LANES, DELTA_GROWTHS, reset, t)
        memcpy(late_k + late * s.D_, k_after, s.D_ * sizeof(real))
        read_row(q_t, q, t * q.outer, s.D)
        read_row(v_t, v, t * v.outer + s.first * v.inner, s.Do)
        if t + 1 < s.L:
            read_row(k_after, k, (t + 1) * k.outer, s.D)
        # 2
        subtract(Delta, v_t, v_bar, s.o)
        # 3
        scaled_error(late_u + late * s.Do_, beta_t, beta, t, Delta, s)
        late += 1
        if kept != NULL:
            measure_step(growth, beta_t, late_k + (late - 1) * s.D_, s.d, v_bar, Delta, s.o)
        # 4, late, 5, and 1 of step t + 1
        if late == LATE:
            update_and_multiply(A, s.D, s.o, LATE, late_k, late_u, q_t, k_after, y_t, v_bar)
            late = 0
        else:
            multiply_twice(A, s.D, s.o, q_t, k_after, y_t, v_bar)
            for i in range(late):
                add_missing(y_t, q_t, late_k + i * s.D_, s.d, late_u + i * s.Do_, s.o)
                add_missing(v_bar, k_after, late_k + i * s.D_, s.d, late_u + i * s.Do_, s.o)
        write_row(y, t * y.outer + s.first * y.inner, y_t, s.Do)
        # 4, at once where S itself is wanted
        is_kept = kept != NULL and is_kept_after(t, s.L, s.C, s.segments)
        if is_kept or (S_next.data[0] != NULL if t + 1 == s.L else any_reset(reset, t + 1)):
            update(A, s.D, s.o, late, late_k, late_u)
            late = 0
        if kept != NULL:
            memcpy(kept + t * s.all_ + s.first_, Delta, s.Do_ * sizeof(real))
        if is_kept:
            copy_rows(kept + (s.L + t // s.C * s.D) * s.all_ + s.first_, s.all_, A, s.Do_, s.D, s.Do_)
        if kept != NULL and ends_segment(t, s.L, s.C):
            is_grown |= has_delta_grown(growth)
            save_growth(growths + t // s.C * s.columns.growths, is_grown, &s.columns)
            begin_delta_growth(growth)
            is_grown = False
    if S_next.data[0] != NULL:
        write_matrix(S_next, A, False, &s.columns)


# OUT: A (D, Do_), S before step t, by doing the updates again since it was last known.
cdef void delta_replay(
    real *A, real *k_t, real *u, real *beta_t, const View *k, const View *beta, const View *S,
    const View *state, const View *reset, const real *kept, Py_ssize_t t, DeltaSizes s,
) noexcept nogil:
    cdef Py_ssize_t step, first = replayed_from(t, reset, s.C)
    if first == 0:
        read_start(A, S, state, reset, &s.columns)
    elif first % s.C == 0:
        copy_rows(A, s.Do_, kept + (s.L + (first // s.C - 1) * s.D) * s.all_ + s.first_, s.all_, s.D,
                  s.Do_)
    for step in range(first, t + 1):
        if step > 0 and any_reset(reset, step):
            read_reset_matrices(A, S, reset, step, &s.columns)
        if step < t:
            delta_replay_step(A, k_t, u, beta_t, k, beta, kept, step, s)


# 3, 4 of step t.
cdef inline void delta_replay_step(
    real *A, real *k_t, real *u, real *beta_t, const View *k, const View *beta, const real *kept,
    Py_ssize_t t, DeltaSizes s,
) noexcept nogil:
    read_row(k_t, k, t * k.outer, s.D)
    scaled_error(u, beta_t, beta, t, kept + t * s.all_ + s.first_, s)
    update(A, s.D, s.o, 1, k_t, u)


cdef void delta_backward_sequences(
    const View *q,            # IN  (L, D)
    const View *k,            # IN  (L, D)
    const View *beta,         # IN  (L)
    const View *S,            # IN  (D, Do), or none: zeros
    const View *state,        # IN  (D, Do), or none
    const View *reset,        # IN  (L) bool, or none
    const real *kept,         # IN  what forward kept
    const View *grad_y,       # IN  (L, Do)
    const View *grad_S_next,  # IN  (D, Do), or none
    const View *gq,           # OUT (L, D)
    const View *gk,           # OUT (L, D)
    const View *gv,           # OUT (L, Do)
    const View *gbeta,        # OUT (L, 1)
    const View *gS,           # IN OUT (D, Do), added to, or none
    const View *gstate,       # IN OUT (D, Do), added to, or none
    real *scratch,
    Team *team,
    DeltaSizes s,
) noexcept nogil:
    cdef real *G = scratch + delta_backward_shared(s)  # (D, Do_) gradient of S, short of the late terms
    cdef real *A = G + s.matrix                     # (D, Do_)
    cdef real *AT = A + s.matrix                    # (rows, D_) S, transposed: its products are sums of
    cdef real *k_t = AT + s.rows * s.D_             # (D_)                      rows too; short of `undone`
    cdef real *g_q = k_t + s.D_                     # (D_)
    cdef real *g_q_before = g_q + s.D_              # (D_) of step t - 1
    cdef real *along = g_q_before + s.D_            # (D_)
    cdef real *replayed_k = along + s.D_            # (D_)
    cdef real *minus_k_after = replayed_k + s.D_    # (D_) of step t + 1, as g_Delta
    cdef real *late_a = minus_k_after + s.D_        # (2 LATE, D_)  minus k of the step after, and q
    cdef real *undone_k = late_a + 2 * LATE * s.D_  # (LATE, D_)
    cdef real *late_b = undone_k + LATE * s.D_      # (2 LATE, Do_) with g_Delta of the step after, and g_y
    cdef real *undone_u = late_b + 2 * LATE * s.Do_  # (LATE, Do_)  minus u
    cdef real *u = undone_u + LATE * s.Do_          # (Do_)
    cdef real *g_u = u + s.Do_                      # (Do_)
    cdef real *g_Delta = g_u + s.Do_                # (Do_)
    cdef real *g_y = g_Delta + s.Do_                # (Do_) of step t, later of step t - 1
    cdef real *beta_t = g_y + s.Do_                 # (STRIDE)
    cdef real *replayed_beta = beta_t + STRIDE      # (STRIDE)
    cdef real *replayed_u = replayed_beta + STRIDE  # (Do_)
    cdef real *team_sums = replayed_u + s.Do_       # (sums)
    cdef real *g_k                                  # (D_) after g_q, before g_beta: sums of this member
    cdef const real *sums                           # (sums) and of all
    cdef const real *Delta
    cdef const real *growths = kept + (s.L + s.segments * s.D) * s.all_
    cdef bint is_known = False, is_replayed = False
    cdef int late = 0, undone = 0
    cdef Py_ssize_t t, i
    memset(k_t, 0, ((6 + 3 * LATE) * s.D_ + (5 + 3 * LATE) * s.Do_ + 2 * STRIDE) * sizeof(real))
    read_matrix(G, grad_S_next, &s.columns)
    if s.L == 0:
        hand_over(gS, gstate, state, G, reset, 0, &s.columns)
    else:
        read_row(g_y, grad_y, (s.L - 1) * grad_y.outer + s.first * grad_y.inner, s.Do)
    for t in range(s.L - 1, -1, -1):
        Delta = kept + t * s.all_ + s.first_
        # S after step t, where undoing the steps behind it does not lead there
        if ends_segment(t, s.L, s.C):
            is_replayed = may_have_grown(growths + t // s.C * s.columns.growths, &s.columns)
        if is_kept_after(t, s.L, s.C, s.segments):
            transpose(AT, s.d, kept + (s.L + t // s.C * s.D) * s.all_ + s.first_, s.all_, s.D, s.o)
            undone, is_known = 0, False
        elif t + 1 == s.L or any_reset(reset, t + 1):
            delta_replay(A, replayed_k, u, beta_t, k, beta, S, state, reset, kept, t, s)
            delta_replay_step(A, replayed_k, u, beta_t, k, beta, kept, t, s)
            if t + 1 == s.L or is_replayed or all_reset(reset, t + 1):
                transpose(AT, s.d, A, s.Do_, s.D, s.o)
            else:
                update(AT, s.rows, s.d, undone, undone_u, undone_k)
                transpose_where_reset(AT, s.D_, A, reset, t + 1, &s.columns)
            undone, is_known = 0, False
        # 5'  g_q = g_y S'^T, which the sweep of step t + 1 has left where it led here
        if is_known:
            g_q, g_q_before = g_q_before, g_q
        else:
            multiply(AT, s.rows, s.d, g_y, g_q)
        g_k = partial_sums(team, s.sums) + s.D_
        memcpy(g_k - s.D_, g_q, s.D_ * sizeof(real))
        read_row(k_t, k, t * k.outer, s.D)
        scaled_error(u, beta_t, beta, t, Delta, s)
        # 1' of step t + 1, 5'  G += q^T g_y, late   4'  g_u = k G   g_k = u G^T
        memcpy(late_a + 2 * late * s.D_, minus_k_after, s.D_ * sizeof(real))
        memcpy(late_b + 2 * late * s.Do_, g_Delta, s.Do_ * sizeof(real))
        read_row(late_a + (2 * late + 1) * s.D_, q, t * q.outer, s.D)
        memcpy(late_b + (2 * late + 1) * s.Do_, g_y, s.Do_ * sizeof(real))
        late += 1
        if late == LATE:
            update_and_multiply_both(G, s.D, s.o, 2 * LATE, late_a, late_b, k_t, u, g_u, g_k)
            late = 0
        else:
            update_and_multiply_both(G, s.D, s.o, 0, NULL, NULL, k_t, u, g_u, g_k)
            for i in range(2 * late):
                add_missing(g_u, k_t, late_a + i * s.D_, s.d, late_b + i * s.Do_, s.o)
                add_missing(g_k, u, late_b + i * s.Do_, s.o, late_a + i * s.D_, s.d)
        # 3'  g_beta = g_u . Delta   g_Delta = beta g_u   2'  g_v = g_Delta
        dot(g_k + s.D_, 0, g_u, Delta, s.o)
        scale(g_Delta, beta_t, 0, g_u, s.o)
        write_row(gv, t * gv.outer + s.first * gv.inner, g_Delta, s.Do)
        # 4 undone, 1'  g_k -= g_Delta S^T, and g_q of step t - 1
        if t > 0:
            read_row(g_y, grad_y, (t - 1) * grad_y.outer + s.first * grad_y.inner, s.Do)
        negate(undone_u + undone * s.Do_, u, s.o)
        memcpy(undone_k + undone * s.D_, k_t, s.D_ * sizeof(real))
        undone += 1
        if is_replayed:
            delta_replay(A, replayed_k, replayed_u, replayed_beta, k, beta, S, state, reset, kept, t, s)
            transpose(AT, s.d, A, s.Do_, s.D, s.o)
            undone = 0
            multiply_twice(AT, s.rows, s.d, g_Delta, g_y, along, g_q_before)
        elif undone == LATE:
            update_and_multiply(AT, s.rows, s.d, LATE, undone_u, undone_k, g_Delta, g_y, along, g_q_before)
            undone = 0
        else:
            multiply_twice(AT, s.rows, s.d, g_Delta, g_y, along, g_q_before)
            for i in range(undone):
                add_missing(along, g_Delta, undone_u + i * s.Do_, s.o, undone_k + i * s.D_, s.d)
                add_missing(g_q_before, g_y, undone_u + i * s.Do_, s.o, undone_k + i * s.D_, s.d)
        is_known = True
        subtract(g_k, g_k, along, s.d)
        sums = meet_and_add(team, team_sums, s.sums)
        if team.member == 0:
            write_row(gq, t * gq.outer, sums, s.D)
            write_row(gk, t * gk.outer, sums + s.D_, s.D)
            for i in range(SEQUENCES):
                (<real *> (gbeta.data[i] + t * gbeta.outer))[0] = sums[2 * s.D_ + i]
        negate(minus_k_after, k_t, s.d)
        if t == 0 or any_reset(reset, t):
            # 1'  with nothing left to wait for
            update(G, s.D, s.o, 2 * late, late_a, late_b)
            update(G, s.D, s.o, 1, minus_k_after, g_Delta)
            late = 0
            memset(minus_k_after, 0, s.D_ * sizeof(real))
            memset(g_Delta, 0, s.Do_ * sizeof(real))  # it may be a NaN, or infinite
            hand_over(gS, gstate, state, G, reset, t, &s.columns)


def delta_layout(Py_ssize_t D, Py_ssize_t Do):
    """As `layout`."""
    cdef DeltaSizes s = delta_sizes_of(D, Do, 0, 1, 0)
    spare = 64 // sizeof(real)
    return (s.Do_ // SEQUENCES, s.matrix // SEQUENCES, s.columns.growths // SEQUENCES,
            apart(delta_forward_scratch(s)) + spare, apart(delta_backward_scratch(s)) + spare)


def delta_forward(q, k, v, beta, S, state, reset, y, S_next, kept, scratch, order, Py_ssize_t first,
                  Py_ssize_t count, Py_ssize_t C, Py_ssize_t segments, int num_threads, int most):
    """Fill y, and S_next and kept where not None, of the sequences at `count` positions from `first` on.

    q, k (..., L, D), v (..., L, Do), beta (..., L), S and state (..., D, Do) or None, reset (..., L) or None: any
    strides, leading axes that broadcast to those of y. y (..., L, Do), S_next (..., D, Do), kept (..., K), scratch:
    contiguous; K and the size of scratch as `delta_layout` says. All but kept and scratch may be halves.
    order, first, count, most as of `forward`. Checked by the caller.
    """
    cdef Buffers buffers = Buffers()
    cdef Py_buffer *arrays[10]
    arrays[0] = buffers.of(q)
    arrays[1] = buffers.of(k)
    arrays[2] = buffers.of(v)
    arrays[3] = buffers.of(beta)
    arrays[4] = buffers.of_optional(S)
    arrays[5] = buffers.of_optional(reset)
    arrays[6] = buffers.of(y)
    arrays[7] = buffers.of_optional(S_next)
    arrays[8] = buffers.of_optional(state)
    arrays[9] = buffers.of_optional(kept)
    cdef int64_t *order_0 = indices(buffers.of_optional(order))
    cdef real *scratch_0 = aligned(buffers.of(scratch).buf)
    cdef int n_lead = arrays[6].ndim - 2
    cdef Py_ssize_t D = arrays[0].shape[arrays[0].ndim - 1]
    cdef DeltaSizes s = delta_sizes_of(D, arrays[6].shape[n_lead + 1], arrays[6].shape[n_lead], C, segments)
    cdef unsigned long long control = floating_control()
    with nogil, parallel(num_threads=num_threads):
        delta_forward_member(arrays, order_0, first, count // SEQUENCES, scratch_0, threadid(),
                             threads_here(), most, control, s)


# What thread `thread` of `threads` does of the groups of sequences from position `first` on.
cdef void delta_forward_member(
    Py_buffer **arrays, const int64_t *order, Py_ssize_t first, Py_ssize_t groups, real *scratch,
    int thread, int threads, int most, unsigned long long control, DeltaSizes s,
) noexcept nogil:
    cdef Team team
    cdef Py_ssize_t group, each = apart(delta_forward_scratch(s))
    cdef unsigned long long own_control = floating_control()
    set_floating_control(control)
    if join_team(&team, thread, threads, groups, min(most, lines_of(s.all_)), scratch, each):
        s = delta_sizes_of_member(&team, s)
        for group in range(team.first, team.last):
            delta_forward_group(arrays, order, first + group * SEQUENCES, scratch + thread * each, s)
    set_floating_control(own_control)


# arrays: q, k, v, beta, S, reset, y, S_next, state, kept
cdef void delta_forward_group(
    Py_buffer **arrays, const int64_t *order, Py_ssize_t p, real *scratch, DeltaSizes s
) noexcept nogil:
    cdef View[9] views
    cdef int i
    cdef int[9] core = [2, 2, 2, 1, 2, 1, 2, 2, 2]
    for i in range(9):
        view_sequences(&views[i], arrays[i], core[i], p, order, arrays[6].shape, arrays[6].ndim - 2)
    view_flags(&views[5], arrays[5], s.L, p, order, arrays[6].shape, arrays[6].ndim - 2)
    delta_forward_sequences(&views[0], &views[1], &views[2], &views[3], &views[4], &views[8], &views[5],
                            &views[6], &views[7], place_of(arrays[9], p, delta_entries_kept(s)), scratch, s)


def delta_backward(q, k, beta, S, state, reset, kept, grad_y, grad_S_next, order, slots, state_slots, starts,
                   gq, gk, gv, gbeta, gS, gstate, scratch, Py_ssize_t C, Py_ssize_t segments, int num_threads, int most):
    """Fill the gradients of q, k, v and beta and add to gS and gstate (or None), from what forward kept.

    q, k, beta, S, state, reset, kept, order as forward had them; grad_y (..., L, Do), grad_S_next (..., D, Do) or
    None: any strides. slots, state_slots, starts, most as of `backward`. gq, gk (..., L, D), gv (..., L, Do),
    gbeta (..., L, 1) with all leading axes, gS (slots, D, Do), scratch: contiguous; gbeta, gS, gstate,
    scratch of the real type.
    """
    cdef Buffers buffers = Buffers()
    cdef Py_buffer *arrays[15]
    arrays[0] = buffers.of(q)
    arrays[1] = buffers.of(k)
    arrays[2] = buffers.of(beta)
    arrays[3] = buffers.of_optional(S)
    arrays[4] = buffers.of_optional(reset)
    arrays[5] = buffers.of(grad_y)
    arrays[6] = buffers.of_optional(grad_S_next)
    arrays[7] = buffers.of(gq)
    arrays[8] = buffers.of(gk)
    arrays[9] = buffers.of(gv)
    arrays[10] = buffers.of(gbeta)
    arrays[11] = buffers.of_optional(state)
    arrays[12] = buffers.of_optional(gS)
    arrays[13] = buffers.of_optional(gstate)
    arrays[14] = buffers.of(kept)
    cdef int64_t *order_0 = indices(buffers.of_optional(order))
    cdef int64_t *slots_0 = indices(buffers.of_optional(slots))
    cdef int64_t *state_slots_0 = indices(buffers.of_optional(state_slots))
    cdef Py_buffer *starts_ = buffers.of(starts)
    cdef int64_t *starts_0 = indices(starts_)
    cdef real *scratch_0 = aligned(buffers.of(scratch).buf)
    cdef int n_lead = arrays[9].ndim - 2
    cdef Py_ssize_t D = arrays[0].shape[arrays[0].ndim - 1]
    cdef DeltaSizes s = delta_sizes_of(D, arrays[9].shape[n_lead + 1], arrays[9].shape[n_lead], C, segments)
    cdef Py_ssize_t chunks = starts_.shape[0] - 1
    prepare_teams(scratch_0, apart(delta_backward_scratch(s)), num_threads)
    cdef unsigned long long control = floating_control()
    with nogil, parallel(num_threads=num_threads):
        delta_backward_member(arrays, order_0, slots_0, state_slots_0, starts_0, chunks, scratch_0, threadid(),
                              threads_here(), most, control, s)


# What thread `thread` of `threads` does of all chunks.
cdef void delta_backward_member(
    Py_buffer **arrays, const int64_t *order, const int64_t *slots, const int64_t *state_slots,
    const int64_t *starts, Py_ssize_t chunks, real *scratch, int thread, int threads, int most,
    unsigned long long control, DeltaSizes s,
) noexcept nogil:
    cdef Team team
    cdef Py_ssize_t chunk, each = apart(delta_backward_scratch(s))
    cdef unsigned long long own_control = floating_control()
    set_floating_control(control)
    if join_team(&team, thread, threads, chunks, min(most, lines_of(s.all_)), scratch, each):
        s = delta_sizes_of_member(&team, s)
        for chunk in range(team.first, team.last):
            delta_backward_chunk(arrays, order, slots, state_slots, starts[chunk], starts[chunk + 1],
                                 scratch + thread * each, &team, s)
    set_floating_control(own_control)


# arrays: q, k, beta, S, reset, grad_y, grad_S_next, gq, gk, gv, gbeta, state, gS, gstate, kept
cdef void delta_backward_chunk(
    Py_buffer **arrays, const int64_t *order, const int64_t *slots, const int64_t *state_slots,
    Py_ssize_t first, Py_ssize_t last, real *scratch, Team *team, DeltaSizes s,
) noexcept nogil:
    cdef View[12] views
    cdef View gS, gstate
    cdef int i
    cdef int[12] core = [2, 2, 1, 2, 1, 2, 2, 2, 2, 2, 2, 2]
    cdef Py_buffer *kept = arrays[14]
    cdef Py_ssize_t p = first
    while p < last:
        for i in range(12):
            view_sequences(&views[i], arrays[i], core[i], p, order, arrays[9].shape, arrays[9].ndim - 2)
        view_flags(&views[4], arrays[4], s.L, p, order, arrays[9].shape, arrays[9].ndim - 2)
        view_slots(&gS, arrays[12], p, slots)
        view_slots(&gstate, arrays[13], p, state_slots)
        delta_backward_sequences(&views[0], &views[1], &views[2], &views[3], &views[11], &views[4],
                                 start(kept) + p * kept.shape[kept.ndim - 1], &views[5], &views[6],
                                 &views[7], &views[8], &views[9], &views[10], &gS, &gstate, scratch, team, s)
        p += SEQUENCES
