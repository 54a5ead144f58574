"""The operator on the CPU: one text, compiled once per instruction set, real type and layout.

Letters (design of the operator, see srwm/_reference.py):

    N       sequences: the product of the broadcast leading axes
    L       steps; C, the steps of a segment, whose last W is kept for the
            backward pass: of the first `segments`, all but a last one that is short, which is replayed
    D, Do   entries of x_t, of y_t;  M = Do + 2 D + 4 columns of W: [ y | q | k | beta ]
    D_, M_, ... d, m, ...   the same as laid out inside, in entries and in vectors (common.pxi)

The numbered steps are those of srwm/_reference.py. Going forward the matrix is swept once a step: step 3
of one step and step 1 of the next share every load of W. Step 5 is late: the newest updates are kept
beside W, products with W get what they lack from them, and every second sweep adds both to W.

A team of threads shares one sequence (team.h): each has some of the columns of W, of its gradient, and of
the rows of W transposed, and computes for itself what is small. Members meet once a step: forward where
step 1 of all columns is needed, backward where sums over columns are. A team of one is all columns.
"""


cdef struct Sizes:
    Py_ssize_t D, Do, M, L, C, segments
    Py_ssize_t d, o, b               # vectors over D, Do, the four rates
    Py_ssize_t D_, Do_, beta_, all_  # the same in entries, and of all columns
    Py_ssize_t row    # entries of the trace per step: [ q : D_ | k : D_ | beta : beta_ | Delta : all_ ]
    Py_ssize_t sums   # entries of sums over columns: [ g_k : D_ | g_d : D_ | g_x : D_ | g_beta : beta_ ]
    # Of the columns that this member of a team has:
    Py_ssize_t first_                # how many entries are before them
    Py_ssize_t m, M_                 # vectors over them; entries
    Py_ssize_t matrix                # entries of W: D M_
    Py_ssize_t rows                  # of W transposed: one for each column, padding too
    Py_ssize_t[4] block, width       # where y, q, k, beta start among them, in entries; in vectors
    Columns columns


cdef inline Sizes sizes_of(
    Py_ssize_t D, Py_ssize_t Do, Py_ssize_t L, Py_ssize_t C, Py_ssize_t segments
) noexcept nogil:
    cdef Sizes s
    s.D, s.Do, s.M, s.L, s.C, s.segments = D, Do, Do + 2 * D + 4, L, C, segments
    s.d, s.o, s.b = vectors_for(D), vectors_for(Do), vectors_for(4)
    s.D_, s.Do_, s.beta_ = s.d * LANES, s.o * LANES, s.b * LANES
    s.all_ = s.Do_ + 2 * s.D_ + s.beta_
    s.row, s.sums = 2 * s.D_ + s.beta_ + s.all_, 3 * s.D_ + s.beta_
    return sizes_between(0, s.all_, s)


# As `s`, of the columns between two entries of a row, whole vectors.
cdef inline Sizes sizes_between(Py_ssize_t first_, Py_ssize_t last_, Sizes s) noexcept nogil:
    cdef Py_ssize_t i, at, end = 0
    s.first_, s.M_ = first_, last_ - first_
    s.m, s.matrix, s.rows = s.M_ // LANES, s.D * s.M_, s.M_ // STRIDE
    for i in range(4):
        at = end
        end += s.Do_ if i == 0 else s.beta_ if i == 3 else s.D_
        s.block[i] = min(max(at - first_, 0), s.M_)
        s.width[i] = (min(max(end - first_, 0), s.M_) - s.block[i]) // LANES
    s.columns.rows, s.columns.entries = s.D, s.M_
    set_blocks(&s.columns, s)
    set_growths(&s.columns, first_, s.all_)
    return s


cdef inline Sizes sizes_of_member(const Team *team, Sizes s) noexcept nogil:
    return sizes_between(
        member_start(team, team.member, s.all_), member_start(team, team.member + 1, s.all_), s
    )


# What is kept: (L, row), then W at the end of each of the first segments, then whether W grew in each.
cdef inline Py_ssize_t entries_kept(Sizes s) noexcept nogil:
    return s.L * s.row + s.segments * s.D * s.all_ + all_segments(s.L, s.C) * s.columns.growths


# Entries that members of a team reach in each other's scratch, at its start.
cdef inline Py_ssize_t forward_shared(Sizes s) noexcept nogil:
    return apart(ENTRIES_OF_LINE + 2 * s.all_)


cdef inline Py_ssize_t backward_shared(Sizes s) noexcept nogil:
    return apart(ENTRIES_OF_LINE + 2 * s.sums)


cdef inline Py_ssize_t forward_scratch(Sizes s) noexcept nogil:
    return (forward_shared(s) + s.matrix + (3 + LATE) * s.D_ + LATE * s.M_ + (1 + 2 * LATE) * STRIDE
            + s.row + 16 * LANES)


cdef inline Py_ssize_t backward_scratch(Sizes s) noexcept nogil:
    return (backward_shared(s) + 2 * s.matrix + s.rows * s.D_ + (1 + 3 * LATE) * (s.D_ + s.M_)
            + 2 * LATE * STRIDE + s.sums + s.all_)


# Blocks of columns that lie beside each other in a row of M as they do inside: all together where only the end
# is padded.
cdef inline void set_blocks(Columns *c, Sizes s) noexcept nogil:
    cdef int i
    cdef Py_ssize_t begin, number, at, skipped
    if s.Do_ == s.Do * STRIDE and s.D_ == s.D * STRIDE:
        c.blocks, c.first[0], c.room[0] = 1, s.first_ // STRIDE, s.M_
        c.number[0] = min(s.M, (s.first_ + s.M_) // STRIDE) - c.first[0]
        return
    c.blocks = 4
    for i in range(4):
        begin = 0 if i == 0 else s.Do + (i - 1) * s.D
        number = s.Do if i == 0 else 4 if i == 3 else s.D
        at = 0 if i == 0 else s.Do_ + (i - 1) * s.D_
        c.room[i] = s.width[i] * LANES
        skipped = (s.first_ + s.block[i] - at) // STRIDE
        c.first[i] = begin + skipped
        c.number[i] = max(0, min(number - skipped, c.room[i] // STRIDE))


# 4  u = [ beta_0 Delta_y | beta_1 Delta_q | beta_2 Delta_k | beta_3 Delta_beta ]
cdef inline void scale_blocks(real *u, const real *beta, const real *Delta, const Sizes *s) noexcept nogil:
    cdef int i
    for i in range(4):
        scale(u + s.block[i], beta, i, Delta + s.block[i], s.width[i])


# How far W may grow from here on (growth.h): [ updates | start ] of each block of columns, a vector of squares
# each. Begins anew with A.
cdef void begin_growth(real *growth, const real *A, Sizes s) noexcept nogil:
    cdef Py_ssize_t d, i
    memset(growth, 0, 8 * LANES * sizeof(real))
    for d in range(s.D):
        for i in range(4):
            add_squares(growth + (4 + i) * LANES, A + d * s.M_ + s.block[i], s.width[i])


cdef void forward_sequences(
    const View *x,       # IN  (L, D)
    const View *W,       # IN  (D, M)
    const View *state,   # IN  (D, M), or none
    const View *reset,   # IN  (L) bool, or none
    const View *y,       # OUT (L, Do)
    const View *W_next,  # OUT (D, M), or none
    real *trace,         # OUT what is kept: entries_kept(s); or NULL
    real *scratch,       # forward_scratch(s) entries
    Team *team,
    Sizes s,             # of this member
) noexcept nogil:
    cdef real *A = scratch + forward_shared(s)    # (D, M_) W, short of the late updates
    cdef real *x_t = A + s.matrix                 # (D_) of the step after the one at hand
    cdef real *r = x_t + s.D_                     # (D_) q - k
    cdef real *padding = r + s.D_                 # (D_) 0, and -inf past D
    cdef real *late_k = padding + s.D_            # (LATE, D_) of the late updates, as late_u
    cdef real *late_u = late_k + LATE * s.D_      # (LATE, M_)
    cdef real *r_k = late_u + LATE * s.M_         # (LATE) r . k of each late step
    cdef real *x_k = r_k + LATE * STRIDE          # (LATE + 1) x . k, and of the step at hand
    cdef real *not_kept = x_k + (LATE + 1) * STRIDE  # (row) where no trace is kept
    cdef real *growth = not_kept + s.row          # (2, 8 LANES)
    cdef real *o = shared_row(team, 0, s.all_)    # (all_)
    cdef real *o_after                            # (M_) of the step after the one at hand
    cdef real *q
    cdef real *k
    cdef real *beta
    cdef real *Delta
    cdef real *states = NULL if trace == NULL else trace + s.L * s.row
    cdef real *growths = NULL if trace == NULL else states + s.segments * s.D * s.all_
    cdef const View *start = start_of(W, state, reset)
    cdef bint ends, begins, is_kept, is_grown = False
    cdef bint is_wanted = trace != NULL or W_next.data[0] != NULL
    cdef int late = 0
    cdef Py_ssize_t t, i, j
    cdef Py_ssize_t y_ = s.first_ // STRIDE       # the first of this member's columns of y, and how many
    cdef Py_ssize_t ys = min(s.Do - y_, s.width[0] * LANES // STRIDE)

    if s.L == 1 and not is_wanted and start != NULL:
        # 1  of y alone, for which the other columns of W do not matter
        for i in range(s.D):
            read_row(A + i * s.width[0] * LANES, start, i * start.outer + y_ * start.inner, ys)
        read_row(x_t, x, 0, s.D)
        multiply(A, s.D, s.width[0], x_t, o + s.first_)
        write_row(y, y_ * y.inner, o + s.first_, ys)
        return
    read_start(A, W, state, reset, &s.columns)
    if trace != NULL:
        begin_growth(growth, A, s)
    if s.L > 0:
        memset(x_t, 0, (3 * s.D_) * sizeof(real))
        for i in range(s.D * STRIDE, s.D_):
            padding[i] = -INFINITY
        read_row(x_t, x, 0, s.D)
        multiply(A, s.D, s.m, x_t, o + s.first_)
    for t in range(s.L):
        q = trace + t * s.row if trace != NULL and team.member == 0 else not_kept
        k = q + s.D_
        beta = k + s.D_
        Delta = (trace + t * s.row if trace != NULL else not_kept) + (beta + s.beta_ - q) + s.first_

        # 1  o = x_t W is there already: the sweep of the step before made it
        write_row(y, t * y.outer + y_ * y.inner, o + s.first_, ys)
        if t + 1 == s.L and not is_wanted:
            return
        meet(team)
        o_after = shared_row(team, 1, s.all_) + s.first_
        # 2  q = softmax(q^)   k = softmax(k^)   beta = sigmoid(b^)
        softmaxes(q, o + s.Do_, padding, s.d)
        sigmoid(beta, o + s.Do_ + 2 * s.D_, s.b)
        # 3  Delta = (q - k) W, and 1 of the step after but for u of this one
        subtract(r, q, k, s.d)
        if t + 1 < s.L:
            read_row(x_t, x, (t + 1) * x.outer, s.D)
        if t + 2 < s.L:
            fetch_row(x, (t + 2) * x.outer, s.D)
            fetch_row(y, (t + 2) * y.outer, s.Do)
        if late == LATE:
            # 5 of the late steps
            update_and_multiply(A, s.D, s.m, LATE, late_k, late_u, r, x_t, Delta, o_after)
            late = 0
        else:
            if t + 1 < s.L:
                multiply_twice(A, s.D, s.m, r, x_t, Delta, o_after)
            else:
                multiply(A, s.D, s.m, r, Delta)
            for i in range(late):  # r (W + k^T u) = r W + (r . k) u, and so for x
                dot(r_k, i, r, late_k + i * s.D_, s.d)
                dot(x_k, i, x_t, late_k + i * s.D_, s.d)
        # 4, and what 3 and 1 of the step after lack from the late steps and from this one
        dot(x_k, LATE, x_t, k, s.d)
        for i in range(4):
            j = s.block[i]
            finish(Delta + j, late_u + late * s.M_ + j, o_after + j, beta, i, late, late_u + j, s.M_, r_k,
                   x_k, x_k + LATE * STRIDE, s.width[i])
        # 5, late
        memcpy(late_k + late * s.D_, k, s.D_ * sizeof(real))
        if trace != NULL:
            for i in range(4):
                add_squares(growth + i * LANES, late_u + late * s.M_ + s.block[i], s.width[i])
        late += 1
        # 5  W <- W + k^T u, at once where W itself is wanted
        ends = trace != NULL and ends_segment(t, s.L, s.C)
        begins = t + 1 < s.L and any_reset(reset, t + 1)
        is_kept = ends and t // s.C < s.segments
        if is_kept or begins or (t + 1 == s.L and W_next.data[0] != NULL):
            update(A, s.D, s.m, late, late_k, late_u)
            late = 0
            if is_kept:
                copy_rows(states + t // s.C * s.D * s.all_ + s.first_, s.all_, A, s.M_, s.D, s.M_)
            if begins:
                read_reset_matrices(A, W, reset, t + 1, &s.columns)
                multiply(A, s.D, s.m, x_t, o_after)
        if trace != NULL and (ends or begins):
            is_grown |= has_grown(growth, growth + 4 * LANES, 4, s.C)
            if ends:
                save_growth(growths + t // s.C * s.columns.growths, is_grown, &s.columns)
                is_grown = False
            if t + 1 < s.L and ends:
                begin_growth(growth, A, s)
            elif begins:
                begin_growth(growth + 8 * LANES, A, s)
                copy_where_reset(growth, growth + 8 * LANES, 8, reset, t + 1)
        o = shared_row(team, 1, s.all_)
        team.turn ^= 1
    if W_next.data[0] != NULL:
        write_matrix(W_next, A, False, &s.columns)


# W before step t, from the trace: the last W known before it, and every update since.
cdef void replay(real *A, real *u, const View *W, const View *state, const View *reset, const real *trace,
                 Py_ssize_t t, Sizes s) noexcept nogil:
    cdef Py_ssize_t step, first = replayed_from(t, reset, s.C)
    if first == 0:
        read_start(A, W, state, reset, &s.columns)
    elif first % s.C == 0:
        copy_rows(A, s.M_, trace + s.L * s.row + (first // s.C - 1) * s.D * s.all_ + s.first_, s.all_, s.D,
                  s.M_)
    for step in range(first, t + 1):
        if step > 0 and any_reset(reset, step):
            read_reset_matrices(A, W, reset, step, &s.columns)
        if step < t:
            replay_step(A, u, trace, step, s)


# 4, 5 of step t.
cdef inline void replay_step(real *A, real *u, const real *trace, Py_ssize_t t, Sizes s) noexcept nogil:
    cdef const real *k = trace + t * s.row + s.D_
    scale_blocks(u, k + s.D_, k + s.D_ + s.beta_ + s.first_, &s)
    update(A, s.D, s.m, 1, k, u)


cdef void backward_sequences(
    const View *x,            # IN  (L, D)
    const View *W,            # IN  (D, M)
    const View *state,        # IN  (D, M), or none
    const View *reset,        # IN  (L) bool, or none
    const real *trace,        # IN  what forward kept
    const View *grad_y,       # IN  (L, Do)
    const View *grad_W_next,  # IN  (D, M), or none
    const View *gx,           # OUT (L, D)
    const View *gW,           # IN OUT (D, M), added to
    const View *gstate,       # IN OUT (D, M), added to, or none
    real *scratch,            # backward_scratch(s) entries
    Team *team,
    Sizes s,                  # of this member
) noexcept nogil:
    cdef real *G = scratch + backward_shared(s)    # (D, M_) gradient of W, short of the late steps' terms
    cdef real *A = G + s.matrix                    # (D, M_)
    cdef real *AT = A + s.matrix                   # (rows, D_) W, transposed: its products are sums of
    cdef real *last_g_x = AT + s.rows * s.D_       # (D_)                      rows too; short of `undone`
    cdef real *late_a = last_g_x + s.D_            # (2 LATE, D_)  q - k and x of each late step
    cdef real *undone_k = late_a + 2 * LATE * s.D_  # (LATE, D_)
    cdef real *late_b = undone_k + LATE * s.D_     # (2 LATE, M_)  with g_Delta and g_o of that step
    cdef real *undone_u = late_b + 2 * LATE * s.M_  # (LATE, M_)   with minus k in undone_k
    cdef real *g_u = undone_u + LATE * s.M_        # (M_)
    cdef real *team_g_o = g_u + s.M_               # (all_)        g_o of the columns of all members
    cdef real *team_sums = team_g_o + s.all_       # (sums)
    cdef real *k_a = team_sums + s.sums            # (2 LATE) k . late_a
    cdef real *g_k                                 # (D_) g_k, g_d, g_x of step t + 1, g_beta: this member's
    cdef real *g_d
    cdef real *g_x
    cdef const real *sums                          # and of all
    cdef real *u
    cdef real *g_Delta
    cdef real *g_o
    cdef real *g_o_all                             # of all columns
    cdef real *g_o_after = late_b                  # of step t + 1
    cdef real *minus_k
    cdef const real *states = trace + s.L * s.row
    cdef const real *growths = states + s.segments * s.D * s.all_
    cdef const real *q
    cdef const real *k
    cdef const real *beta
    cdef const real *Delta
    cdef bint has_after = False, is_replayed = False
    cdef int late = 0, undone = 0
    cdef Py_ssize_t t, i, j
    cdef Py_ssize_t q_ = s.Do_, k_ = s.Do_ + s.D_, b_ = s.Do_ + 2 * s.D_

    memset(last_g_x, 0, (1 + 3 * LATE) * (s.D_ + s.M_) * sizeof(real))
    memset(team_g_o, 0, s.all_ * sizeof(real))
    if grad_W_next.data[0] != NULL:
        read_matrix(G, grad_W_next, &s.columns)
    else:
        memset(G, 0, s.matrix * sizeof(real))
    if s.L == 0:
        hand_over(gW, gstate, state, G, reset, 0, &s.columns)
    for t in range(s.L - 1, -1, -1):
        q = trace + t * s.row
        k = q + s.D_
        beta = k + s.D_
        Delta = beta + s.beta_ + s.first_

        # W after step t, where undoing the steps behind it does not lead there
        if ends_segment(t, s.L, s.C):
            is_replayed = may_have_grown(growths + t // s.C * s.columns.growths, &s.columns)
        if is_replayed:
            undone = 0
        elif is_kept_after(t, s.L, s.C, s.segments):
            transpose(AT, s.d, states + t // s.C * s.D * s.all_ + s.first_, s.all_, s.D, s.m)
            undone = 0
        elif t + 1 == s.L or any_reset(reset, t + 1):
            replay(A, g_u, W, state, reset, trace, t, s)
            replay_step(A, g_u, trace, t, s)
            if t + 1 == s.L or all_reset(reset, t + 1):
                transpose(AT, s.d, A, s.M_, s.D, s.m)
            else:
                update(AT, s.rows, s.d, undone, undone_u, undone_k)
                transpose_where_reset(AT, s.D_, A, reset, t + 1, &s.columns)
            undone = 0

        if t > 0:
            fetch(q - s.row, s.row // 2 * sizeof(real))
        g_k = partial_sums(team, s.sums)
        g_d, g_x = g_k + s.D_, g_k + 2 * s.D_
        if t + 2 >= s.L:  # either place once: nothing of the sequence before may stay in the padding
            memset(g_k, 0, s.sums * sizeof(real))
        elif s.D_ > s.D * STRIDE:  # nor a NaN of a later step, which a reset may have come after
            memset(g_k + s.D * STRIDE, 0, (s.D_ - s.D * STRIDE) * sizeof(real))
        u = undone_u + undone * s.M_
        scale_blocks(u, beta, Delta, &s)
        # 1', 3' of the late steps:  G += (q - k)^T g_Delta + x^T g_o
        # 5'  g_u = k G   g_k = G u^T
        if late == LATE:
            update_and_multiply_both(G, s.D, s.m, 2 * LATE, late_a, late_b, k, u, g_u, g_k)
            late = 0
        else:
            update_and_multiply_both(G, s.D, s.m, 0, NULL, NULL, k, u, g_u, g_k)
            for i in range(2 * late):  # k (G + a^T b) = k G + (k . a) b
                dot(k_a, i, k, late_a + i * s.D_, s.d)
                add_missing(g_k, u, late_b + i * s.M_, s.m, late_a + i * s.D_, s.d)
        # 4'  g_Delta = beta g_u   g_beta[j] = sum over block j of g_u Delta
        g_Delta = late_b + 2 * late * s.M_
        g_o = g_Delta + s.M_
        for i in range(4):
            j = s.block[i]
            scale_backward(g_Delta + j, g_x + s.D_, i, g_u + j, 2 * late, late_b + j, s.M_, k_a, beta,
                           Delta + j, s.width[i])
        if t > 0:
            fetch(q - s.row // 2, s.row // 2 * sizeof(real))
        # 5 undone, 3'  g_d = W g_Delta^T, and 1' of step t + 1:  g_x = (W + k^T u) g_o^T
        minus_k = undone_k + undone * s.D_
        negate(minus_k, k, s.d)
        undone += 1
        if is_replayed:
            replay(A, g_u, W, state, reset, trace, t, s)
            transpose(AT, s.d, A, s.M_, s.D, s.m)
            undone = 0
            multiply_twice(AT, s.rows, s.d, g_Delta, g_o_after, g_d, g_x)
            add_missing(g_x, g_o_after, u, s.m, k, s.d)
        elif undone == LATE:
            update_and_multiply(AT, s.rows, s.d, LATE, undone_u, undone_k, g_Delta, g_o_after, g_d, g_x)
            undone = 0
            add_missing(g_x, g_o_after, u, s.m, k, s.d)
        else:
            multiply_twice(AT, s.rows, s.d, g_Delta, g_o_after, g_d, g_x)
            add_missing(g_d, g_Delta, u, s.m, minus_k, s.d)
        if not has_after:
            memcpy(g_x, last_g_x, s.D_ * sizeof(real))
        sums = meet_and_add(team, team_sums, s.sums)
        if t + 1 < s.L and team.member == 0:
            write_row(gx, (t + 1) * gx.outer, sums + 2 * s.D_, s.D)
        if t > 0:
            fetch_row(x, (t - 1) * x.outer, s.D)
            fetch_row(grad_y, (t - 1) * grad_y.outer, s.Do)
            fetch_row(gx, (t - 1) * gx.outer, s.D)
        # 3'  g_q = g_d   g_k -= g_d
        # 2'  through the softmaxes and the sigmoid
        # 1'  g_o = [ g_y | g_q^ | g_k^ | g_b^ ]
        g_o_all = g_o if team.size == 1 else team_g_o
        read_row(g_o_all, grad_y, t * grad_y.outer, s.Do)
        subtract(g_o_all + k_, sums, sums + s.D_, s.d)
        softmax_backward(g_o_all + q_, sums + s.D_, q, s.d)
        softmax_backward(g_o_all + k_, g_o_all + k_, k, s.d)
        sigmoid_backward(g_o_all + b_, sums + 3 * s.D_, beta, s.b)
        if team.size > 1:
            memcpy(g_o, g_o_all + s.first_, s.M_ * sizeof(real))
        subtract(late_a + 2 * late * s.D_, q, k, s.d)
        read_row(late_a + (2 * late + 1) * s.D_, x, t * x.outer, s.D)
        late += 1
        if t >= s.C:  # some rows of the W that the segment before this one ends with
            for i in range((s.C - 1 - t % s.C) * s.D // s.C, (s.C - t % s.C) * s.D // s.C):
                fetch(states + ((t // s.C - 1) * s.D + i) * s.all_ + s.first_, s.M_ * sizeof(real))
        g_o_after = g_o
        has_after = t > 0 and not any_reset(reset, t)
        if not has_after:
            # 3', 1'  with nothing left to wait for;  g_x = W g_o^T
            update(G, s.D, s.m, 2 * late, late_a, late_b)
            late = 0
            multiply(AT, s.rows, s.d, g_o, last_g_x)
            for i in range(undone):
                add_missing(last_g_x, g_o, undone_u + i * s.M_, s.m, undone_k + i * s.D_, s.d)
            hand_over(gW, gstate, state, G, reset, t, &s.columns)
    if s.L > 0:
        memcpy(partial_sums(team, s.sums) + 2 * s.D_, last_g_x, s.D_ * sizeof(real))
        sums = meet_and_add(team, team_sums, s.sums)
        if team.member == 0:
            write_row(gx, 0, sums + 2 * s.D_, s.D)


def layout(Py_ssize_t D, Py_ssize_t Do):
    """Entries kept of a sequence for each step, for each segment but a short last one, and for each of all
    segments; entries of forward's scratch for each thread, and of backward's.
    """
    cdef Sizes s = sizes_of(D, Do, 0, 1, 0)
    spare = 64 // sizeof(real)
    return (s.row // SEQUENCES, s.matrix // SEQUENCES, s.columns.growths // SEQUENCES,
            apart(forward_scratch(s)) + spare, apart(backward_scratch(s)) + spare)


def forward(x, W, state, reset, y, W_next, kept, scratch, order, Py_ssize_t first, Py_ssize_t count, Py_ssize_t C,
            Py_ssize_t segments, int num_threads, int most):
    """Fill y, and W_next and kept where not None, of the sequences at `count` positions from `first` on.

    x (..., L, D), W (..., D, M), state (..., D, M) or None, reset (..., L) or None: any strides, leading axes
    that broadcast to those of y. y (..., L, Do), W_next (..., D, M), kept (..., K), scratch: contiguous; K and
    the size of scratch as `layout` says. All arrays of this module's real type or halves, kept and
    scratch of the real type. order (N,) int64: the sequence at each position, or None: themselves. `count`
    is a multiple of `sequences()`. Where threads are left over, up to `most` compute one sequence together,
    and the last bits of results depend on how many do. Checked by the caller.
    """
    cdef Buffers buffers = Buffers()
    cdef Py_buffer *x_ = buffers.of(x)
    cdef Py_buffer *W_ = buffers.of(W)
    cdef Py_buffer *state_ = buffers.of_optional(state)
    cdef Py_buffer *reset_ = buffers.of_optional(reset)
    cdef Py_buffer *y_ = buffers.of(y)
    cdef Py_buffer *W_next_ = buffers.of_optional(W_next)
    cdef Py_buffer *kept_ = buffers.of_optional(kept)
    cdef int64_t *order_0 = indices(buffers.of_optional(order))
    cdef real *scratch_0 = aligned(buffers.of(scratch).buf)
    cdef int n_lead = y_.ndim - 2
    cdef Sizes s = sizes_of(x_.shape[x_.ndim - 1], y_.shape[n_lead + 1], y_.shape[n_lead], C, segments)
    prepare_teams(scratch_0, apart(forward_scratch(s)), num_threads)
    cdef unsigned long long control = floating_control()
    with nogil, parallel(num_threads=num_threads):
        forward_member(x_, W_, state_, reset_, y_, W_next_, kept_, order_0, first, count // SEQUENCES,
                       scratch_0, threadid(), threads_here(), most, control, s)


# What thread `thread` of `threads` does of the groups of sequences from position `first` on.
cdef void forward_member(
    const Py_buffer *x, const Py_buffer *W, const Py_buffer *state, const Py_buffer *reset, const Py_buffer *y,
    const Py_buffer *W_next, const Py_buffer *kept, const int64_t *order, Py_ssize_t first,
    Py_ssize_t groups, real *scratch, int thread, int threads, int most, unsigned long long control, Sizes s,
) noexcept nogil:
    cdef Team team
    cdef Py_ssize_t group, each = apart(forward_scratch(s))
    cdef unsigned long long own_control = floating_control()
    set_floating_control(control)
    if join_team(&team, thread, threads, groups, min(most, lines_of(s.all_)), scratch, each):
        s = sizes_of_member(&team, s)
        for group in range(team.first, team.last):
            forward_group(x, W, state, reset, y, W_next, kept, order, first + group * SEQUENCES,
                          scratch + thread * each, &team, s)
    set_floating_control(own_control)


cdef void forward_group(
    const Py_buffer *x, const Py_buffer *W, const Py_buffer *state, const Py_buffer *reset, const Py_buffer *y,
    const Py_buffer *W_next, const Py_buffer *kept, const int64_t *order, Py_ssize_t p, real *scratch,
    Team *team, Sizes s,
) noexcept nogil:
    cdef View x_, W_, state_, reset_, y_, W_next_
    cdef const Py_ssize_t *lead = y.shape
    cdef int n_lead = y.ndim - 2
    view_sequences(&x_, x, 2, p, order, lead, n_lead)
    view_sequences(&W_, W, 2, p, order, lead, n_lead)
    view_sequences(&state_, state, 2, p, order, lead, n_lead)
    view_flags(&reset_, reset, s.L, p, order, lead, n_lead)
    view_sequences(&y_, y, 2, p, order, lead, n_lead)
    view_sequences(&W_next_, W_next, 2, p, order, lead, n_lead)
    forward_sequences(&x_, &W_, &state_, &reset_, &y_, &W_next_,
                      place_of(kept, p, entries_kept(s)), scratch, team, s)


def backward(x, W, state, reset, kept, grad_y, grad_W_next, order, slots, state_slots, starts, gx, gW, gstate,
             scratch, Py_ssize_t C, Py_ssize_t segments, int num_threads, int most):
    """Fill gx and add to gW and gstate, from what forward kept.

    x, W, state, reset, kept, order as forward had them; grad_y (..., L, Do), grad_W_next (..., D, M) or
    None: any strides. starts (chunks + 1,) int64: a chunk is the positions from one to the next, a multiple
    of `sequences()`, in turn; slots (N,) int64: for each position where in gW (slots, D, M) its gradient of
    W is added: no two chunks share one; state_slots and gstate likewise, None without a state. gx (..., L, D).
    scratch, gx, gW: contiguous; gW, gstate and scratch of the real type. `most` as of `forward`.
    """
    cdef Buffers buffers = Buffers()
    cdef Py_buffer *arrays[10]
    arrays[0] = buffers.of(x)
    arrays[1] = buffers.of(W)
    arrays[2] = buffers.of_optional(reset)
    arrays[3] = buffers.of(kept)
    arrays[4] = buffers.of(grad_y)
    arrays[5] = buffers.of_optional(grad_W_next)
    arrays[6] = buffers.of(gx)
    arrays[7] = buffers.of(gW)
    arrays[8] = buffers.of_optional(state)
    arrays[9] = buffers.of_optional(gstate)
    cdef int64_t *order_0 = indices(buffers.of_optional(order))
    cdef int64_t *slots_0 = indices(buffers.of(slots))
    cdef int64_t *state_slots_0 = indices(buffers.of_optional(state_slots))
    cdef Py_buffer *starts_ = buffers.of(starts)
    cdef int64_t *starts_0 = indices(starts_)
    cdef real *scratch_0 = aligned(buffers.of(scratch).buf)
    cdef int n_lead = arrays[6].ndim - 2
    cdef Sizes s = sizes_of(arrays[6].shape[n_lead + 1], arrays[4].shape[arrays[4].ndim - 1],
                            arrays[6].shape[n_lead], C, segments)
    cdef Py_ssize_t chunks = starts_.shape[0] - 1
    prepare_teams(scratch_0, apart(backward_scratch(s)), num_threads)
    cdef unsigned long long control = floating_control()
    with nogil, parallel(num_threads=num_threads):
        backward_member(arrays, order_0, slots_0, state_slots_0, starts_0, chunks, scratch_0, threadid(),
                        threads_here(), most, control, s)


# What thread `thread` of `threads` does of all chunks.
cdef void backward_member(
    Py_buffer **arrays, const int64_t *order, const int64_t *slots, const int64_t *state_slots,
    const int64_t *starts, Py_ssize_t chunks, real *scratch, int thread, int threads, int most,
    unsigned long long control, Sizes s,
) noexcept nogil:
    cdef Team team
    cdef Py_ssize_t chunk, each = apart(backward_scratch(s))
    cdef unsigned long long own_control = floating_control()
    set_floating_control(control)
    if join_team(&team, thread, threads, chunks, min(most, lines_of(s.all_)), scratch, each):
        s = sizes_of_member(&team, s)
        for chunk in range(team.first, team.last):
            backward_chunk(arrays, order, slots, state_slots, starts[chunk], starts[chunk + 1],
                           scratch + thread * each, &team, s)
    set_floating_control(own_control)


# arrays: x, W, reset, kept, grad_y, grad_W_next, gx, gW, state, gstate
cdef void backward_chunk(
    Py_buffer **arrays, const int64_t *order, const int64_t *slots, const int64_t *state_slots,
    Py_ssize_t first, Py_ssize_t last, real *scratch, Team *team, Sizes s,
) noexcept nogil:
    cdef View x, W, state, reset, grad_y, grad_W_next, gx, gW, gstate
    cdef Py_buffer *kept = arrays[3]
    cdef Py_ssize_t p = first
    cdef const Py_ssize_t *lead = arrays[6].shape
    cdef int n_lead = arrays[6].ndim - 2
    while p < last:
        view_sequences(&x, arrays[0], 2, p, order, lead, n_lead)
        view_sequences(&W, arrays[1], 2, p, order, lead, n_lead)
        view_sequences(&state, arrays[8], 2, p, order, lead, n_lead)
        view_flags(&reset, arrays[2], s.L, p, order, lead, n_lead)
        view_sequences(&grad_y, arrays[4], 2, p, order, lead, n_lead)
        view_sequences(&grad_W_next, arrays[5], 2, p, order, lead, n_lead)
        view_sequences(&gx, arrays[6], 2, p, order, lead, n_lead)
        view_slots(&gW, arrays[7], p, slots)
        view_slots(&gstate, arrays[9], p, state_slots)
        backward_sequences(&x, &W, &state, &reset, start(kept) + p * kept.shape[kept.ndim - 1], &grad_y,
                           &grad_W_next, &gx, &gW, &gstate, scratch, team, s)
        p += SEQUENCES
