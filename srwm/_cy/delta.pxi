"""The delta rule on the CPU: one text, compiled once per instruction set and real type.

Letters as in kernels.pxi and srwm/_delta_reference.py, whose numbered steps these are:

    D, Do   entries of a query or key, of a value or output
    D_, Do_ the same padded to whole vectors, the padding zero

The fast weights are swept once a step going forward: steps 4 and 5 of one step and step 1 of the next
share every load and store of S. Backward sweeps S once, transposed, and its gradient once.
"""

cdef struct DeltaSizes:
    Py_ssize_t D, Do, L, C, segments
    Py_ssize_t D_, Do_


cdef inline DeltaSizes delta_sizes_of(
    Py_ssize_t D, Py_ssize_t Do, Py_ssize_t L, Py_ssize_t C, Py_ssize_t segments
) noexcept nogil:
    cdef DeltaSizes s
    s.D, s.Do, s.L, s.C, s.segments = D, Do, L, C, segments
    s.D_, s.Do_ = padded(D), padded(Do)
    return s


# Of a sequence: Delta of every step, then S at the end of each kept segment.
cdef inline Py_ssize_t delta_entries_kept(DeltaSizes s) noexcept nogil:
    return s.L * s.Do_ + s.segments * s.D * s.Do_


cdef inline Py_ssize_t delta_forward_scratch(DeltaSizes s) noexcept nogil:
    return s.D * s.Do_ + 3 * s.D_ + 5 * s.Do_


cdef inline Py_ssize_t delta_backward_scratch(DeltaSizes s) noexcept nogil:
    return 3 * s.D * s.Do_ + s.Do_ * s.D_ + 8 * s.D_ + 7 * s.Do_


# One entry of beta (L) or of its gradient.
cdef inline real *entry(View a, Py_ssize_t t) noexcept nogil:
    return <real *> (a.data + t * a.inner)


cdef void delta_forward_sequence(
    View q,        # IN  (L, D)
    View k,        # IN  (L, D)
    View v,        # IN  (L, Do)
    View beta,     # IN  (L)
    View S,        # IN  (D, Do)
    View reset,    # IN  (L) bool, or NULL
    real *y,       # OUT (L, Do)
    real *S_next,  # OUT (D, Do), or NULL
    real *kept,    # OUT delta_entries_kept(s), or NULL
    real *scratch,
    DeltaSizes s,
) noexcept nogil:
    cdef real *A = scratch             # (D, Do_)
    cdef real *q_t = A + s.D * s.Do_   # (D_)
    cdef real *k_t = q_t + s.D_        # (D_)
    cdef real *k_after = k_t + s.D_    # (D_) of step t + 1
    cdef real *v_t = k_after + s.D_    # (Do_)
    cdef real *v_bar = v_t + s.Do_     # (Do_)
    cdef real *u = v_bar + s.Do_       # (Do_)
    cdef real *y_t = u + s.Do_         # (Do_)
    cdef real *Delta = y_t + s.Do_     # (Do_)
    cdef Py_ssize_t t, width = s.Do_ // LANES
    memset(q_t, 0, (3 * s.D_ + 5 * s.Do_) * sizeof(real))
    read_rows(A, S, s.D, s.Do, s.Do_)
    if s.L > 0:
        read_vector(k_t, k.data, k.inner, s.D)
    for t in range(s.L):
        if t == 0 or is_reset(reset, t):
            if t > 0:
                read_rows(A, S, s.D, s.Do, s.Do_)
            # 1
            multiply(A, s.D, width, k_t, v_bar)
        read_vector(q_t, q.data + t * q.outer, q.inner, s.D)
        read_vector(v_t, v.data + t * v.outer, v.inner, s.Do)
        if t + 1 < s.L:
            read_vector(k_after, k.data + (t + 1) * k.outer, k.inner, s.D)
        # 2
        subtract(Delta, v_t, v_bar, width)
        # 3
        scale(u, entry(beta, t)[0], Delta, width)
        # 4, 5, and 1 of step t + 1
        update_and_multiply(A, s.D, width, k_t, u, q_t, k_after, y_t, v_bar)
        copy(y + t * s.Do, y_t, s.Do)
        if kept != NULL:
            memcpy(kept + t * s.Do_, Delta, s.Do_ * sizeof(real))
            if is_kept_after(t, s.L, s.C, s.segments):
                memcpy(kept + s.L * s.Do_ + t // s.C * s.D * s.Do_, A, s.D * s.Do_ * sizeof(real))
        k_t, k_after = k_after, k_t
    if S_next != NULL:
        write_rows(S_next, A, s.D, s.Do, s.Do_)


# OUT: A (D, Do_), S after step t, by doing the updates again since it was last known.
cdef void delta_replay(
    real *A, real *k_t, real *u, View k, View beta, View S, View reset, const real *kept, Py_ssize_t t,
    DeltaSizes s,
) noexcept nogil:
    cdef Py_ssize_t first = replayed_from(t, reset, s.C), width = s.Do_ // LANES
    if first == 0 or is_reset(reset, first):
        read_rows(A, S, s.D, s.Do, s.Do_)
    else:
        memcpy(A, kept + s.L * s.Do_ + (first // s.C - 1) * s.D * s.Do_, s.D * s.Do_ * sizeof(real))
    while first <= t:
        read_vector(k_t, k.data + first * k.outer, k.inner, s.D)
        scale(u, entry(beta, first)[0], kept + first * s.Do_, width)
        update(A, s.D, width, k_t, u)
        first += 1


cdef void delta_backward_sequence(
    View q,            # IN  (L, D)
    View k,            # IN  (L, D)
    View beta,         # IN  (L)
    View S,            # IN  (D, Do)
    View reset,        # IN  (L) bool, or NULL
    const real *kept,  # IN  what forward kept
    View grad_y,       # IN  (L, Do)
    View grad_S_next,  # IN  (D, Do), or NULL
    real *gq,          # OUT (L, D)
    real *gk,          # OUT (L, D)
    real *gv,          # OUT (L, Do)
    real *gbeta,       # OUT (L)
    real *gS,          # IN OUT (D, Do_), added to
    real *scratch,
    DeltaSizes s,
) noexcept nogil:
    cdef real *G = scratch                      # (D, Do_) gradient of S, short of step t + 1's last term
    cdef real *A = G + s.D * s.Do_              # (D, Do_)
    cdef real *AT = A + s.D * s.Do_             # (Do_, D_) S, transposed: its products are sums of rows
    cdef real *q_t = AT + s.Do_ * s.D_          # (D_)
    cdef real *k_t = q_t + s.D_                 # (D_)
    cdef real *minus_k_after = k_t + s.D_       # (D_) of step t + 1, as g_Delta_after
    cdef real *g_q = minus_k_after + s.D_       # (D_)
    cdef real *g_q_before = g_q + s.D_          # (D_) of step t - 1
    cdef real *g_k = g_q_before + s.D_          # (D_)
    cdef real *along = g_k + s.D_               # (D_)
    cdef real *replayed_k = along + s.D_        # (D_)
    cdef real *u = replayed_k + s.D_            # (Do_)
    cdef real *minus_u = u + s.Do_              # (Do_)
    cdef real *g_u = minus_u + s.Do_            # (Do_)
    cdef real *g_Delta = g_u + s.Do_            # (Do_)
    cdef real *g_Delta_after = g_Delta + s.Do_  # (Do_)
    cdef real *g_y = g_Delta_after + s.Do_      # (Do_)
    cdef real *g_y_before = g_y + s.Do_         # (Do_) of step t - 1
    cdef const real *Delta
    cdef bint is_known
    cdef Py_ssize_t t, i, width = s.Do_ // LANES, d_width = s.D_ // LANES
    memset(q_t, 0, (8 * s.D_ + 7 * s.Do_) * sizeof(real))
    if grad_S_next.data != NULL:
        read_rows(G, grad_S_next, s.D, s.Do, s.Do_)
    else:
        memset(G, 0, s.D * s.Do_ * sizeof(real))
    if s.L > 0:
        read_vector(g_y, grad_y.data + (s.L - 1) * grad_y.outer, grad_y.inner, s.Do)
    for t in range(s.L - 1, -1, -1):
        Delta = kept + t * s.Do_
        # S after step t, where undoing the steps behind it does not lead there
        is_known = False
        if is_kept_after(t, s.L, s.C, s.segments):
            transpose(AT, kept + s.L * s.Do_ + t // s.C * s.D * s.Do_, s.D, s.Do_, s.Do_, s.D_)
        elif t + 1 == s.L or is_reset(reset, t + 1):
            delta_replay(A, replayed_k, u, k, beta, S, reset, kept, t, s)
            transpose(AT, A, s.D, s.Do_, s.Do_, s.D_)
        else:
            is_known = True
        # 5'  g_q = g_y S'^T, which the sweep of step t + 1 has left where it led here
        if is_known:
            g_q, g_q_before = g_q_before, g_q
        else:
            multiply(AT, s.Do_, d_width, g_y, g_q)
        copy(gq + t * s.D, g_q, s.D)
        read_vector(q_t, q.data + t * q.outer, q.inner, s.D)
        read_vector(k_t, k.data + t * k.outer, k.inner, s.D)
        scale(u, entry(beta, t)[0], Delta, width)
        # 1' of step t + 1, 5'  G += q^T g_y   4'  g_u = k G   g_k = u G^T
        update_twice_and_sum(G, s.D, width, minus_k_after, g_Delta_after, q_t, g_y, k_t, u, g_u, g_k)
        # 3'  g_beta = g_u . Delta   g_Delta = beta g_u   2'  g_v = g_Delta
        gbeta[t] = dot(g_u, Delta, width)
        scale(g_Delta, entry(beta, t)[0], g_u, width)
        copy(gv + t * s.Do, g_Delta, s.Do)
        # 4 undone, 1'  g_k -= g_Delta S^T, and g_q of step t - 1
        if t > 0:
            read_vector(g_y_before, grad_y.data + (t - 1) * grad_y.outer, grad_y.inner, s.Do)
        scale(minus_u, -1, u, width)
        update_and_multiply(AT, s.Do_, d_width, minus_u, k_t, g_Delta, g_y_before, along, g_q_before)
        subtract(g_k, g_k, along, d_width)
        copy(gk + t * s.D, g_k, s.D)
        scale(minus_k_after, -1, k_t, d_width)
        g_y, g_y_before = g_y_before, g_y
        g_Delta, g_Delta_after = g_Delta_after, g_Delta
        if t > 0 and is_reset(reset, t):
            update(G, s.D, width, minus_k_after, g_Delta_after)
            for i in range(s.D * s.Do_):
                gS[i] += G[i]
            memset(G, 0, s.D * s.Do_ * sizeof(real))
            memset(minus_k_after, 0, s.D_ * sizeof(real))
    update(G, s.D, width, minus_k_after, g_Delta_after)
    for i in range(s.D * s.Do_):
        gS[i] += G[i]


def delta_layout(Py_ssize_t D, Py_ssize_t Do):
    """(entries kept per step, per segment, of forward's scratch per thread, of backward's)."""
    cdef DeltaSizes s = delta_sizes_of(D, Do, 0, 1, 0)
    spare = 64 // sizeof(real)
    forward, backward = apart(delta_forward_scratch(s)) + spare, apart(delta_backward_scratch(s)) + spare
    return (s.Do_, s.D * s.Do_, forward, backward)


def delta_forward(q, k, v, beta, S, reset, y, S_next, kept, scratch, Py_ssize_t C, Py_ssize_t segments,
                  int num_threads):
    """Fill y, and S_next and kept where not None.

    q, k (..., L, D), v (..., L, Do), beta (..., L), S (..., D, Do), reset (..., L) or None: any strides,
    leading axes that broadcast to those of y. y (..., L, Do), S_next (..., D, Do), kept (..., K), scratch:
    contiguous; K and the size of scratch as `delta_layout` says. Checked by the caller.
    """
    cdef Buffers buffers = Buffers()
    cdef Py_buffer *q_ = buffers.of(q)
    cdef Py_buffer *k_ = buffers.of(k)
    cdef Py_buffer *v_ = buffers.of(v)
    cdef Py_buffer *beta_ = buffers.of(beta)
    cdef Py_buffer *S_ = buffers.of(S)
    cdef Py_buffer *reset_ = buffers.of_optional(reset)
    cdef Py_buffer *y_ = buffers.of(y)
    cdef real *S_next_0 = start(buffers.of_optional(S_next))
    cdef real *kept_0 = start(buffers.of_optional(kept))
    cdef real *scratch_0 = aligned(buffers.of(scratch).buf)
    cdef int n_lead = y_.ndim - 2
    cdef Py_ssize_t n, N = 1
    cdef DeltaSizes s = delta_sizes_of(q_.shape[q_.ndim - 1], y_.shape[n_lead + 1], y_.shape[n_lead], C,
                                       segments)
    cdef Py_ssize_t K = delta_entries_kept(s), each = apart(delta_forward_scratch(s))
    for n in range(n_lead):
        N *= y_.shape[n]
    for n in prange(N, nogil=True, num_threads=num_threads, schedule="static"):
        delta_forward_sequence(
            sequence(q_, 2, n, y_.shape, n_lead),
            sequence(k_, 2, n, y_.shape, n_lead),
            sequence(v_, 2, n, y_.shape, n_lead),
            sequence(beta_, 1, n, y_.shape, n_lead),
            sequence(S_, 2, n, y_.shape, n_lead),
            sequence(reset_, 1, n, y_.shape, n_lead),
            start(y_) + n * s.L * s.Do,
            NULL if S_next_0 == NULL else S_next_0 + n * s.D * s.Do,
            NULL if kept_0 == NULL else kept_0 + n * K,
            scratch_0 + threadid() * each, s)


def delta_backward(q, k, beta, S, reset, kept, grad_y, grad_S_next, order, gq, gk, gv, gbeta, gS, scratch,
                   Py_ssize_t C, Py_ssize_t segments, int num_threads):
    """Fill the gradients from what forward kept.

    q, k, beta, S, reset, kept as forward had them; grad_y (..., L, Do), grad_S_next (..., D, Do) or None:
    any strides. order (chunks, run): the sequences whose gradients of S are summed, in this order, into
    gS (chunks, D, Do); a run that is short ends in -1. gq, gk (..., L, D), gv (..., L, Do), gbeta (..., L)
    with all leading axes, gS, order, scratch: contiguous.
    """
    cdef Buffers buffers = Buffers()
    cdef Py_buffer *arrays[8]
    arrays[0] = buffers.of(q)
    arrays[1] = buffers.of(k)
    arrays[2] = buffers.of(beta)
    arrays[3] = buffers.of(S)
    arrays[4] = buffers.of_optional(reset)
    arrays[5] = buffers.of(grad_y)
    arrays[6] = buffers.of_optional(grad_S_next)
    arrays[7] = buffers.of(gv)
    cdef real *kept_0 = start(buffers.of(kept))
    cdef real *gq_0 = start(buffers.of(gq))
    cdef real *gk_0 = start(buffers.of(gk))
    cdef real *gbeta_0 = start(buffers.of(gbeta))
    cdef real *gS_0 = start(buffers.of(gS))
    cdef Py_buffer *order_ = buffers.of(order)
    cdef int64_t *order_0 = <int64_t *> order_.buf
    cdef real *scratch_0 = aligned(buffers.of(scratch).buf)
    cdef int n_lead = arrays[7].ndim - 2
    cdef Py_ssize_t D = arrays[0].shape[arrays[0].ndim - 1]
    cdef DeltaSizes s = delta_sizes_of(D, arrays[7].shape[n_lead + 1], arrays[7].shape[n_lead], C, segments)
    cdef Py_ssize_t chunk, chunks = order_.shape[0], run = order_.shape[1]
    cdef Py_ssize_t each = apart(delta_backward_scratch(s))
    for chunk in prange(chunks, nogil=True, num_threads=num_threads, schedule="static"):
        delta_backward_chunk(arrays, kept_0, order_0 + chunk * run, run, gq_0, gk_0, gbeta_0,
                             gS_0 + chunk * s.D * s.Do, scratch_0 + threadid() * each, s)


# arrays: q, k, beta, S, reset, grad_y, grad_S_next, gv
cdef void delta_backward_chunk(
    Py_buffer **arrays, const real *kept, const int64_t *order, Py_ssize_t run, real *gq, real *gk,
    real *gbeta, real *gS, real *scratch, DeltaSizes s,
) noexcept nogil:
    cdef Py_ssize_t i, n, K = delta_entries_kept(s)
    cdef const Py_ssize_t *lead = arrays[7].shape
    cdef int n_lead = arrays[7].ndim - 2
    cdef real *total = scratch  # (D, Do_)
    memset(total, 0, s.D * s.Do_ * sizeof(real))
    for i in range(run):
        n = order[i]
        if n < 0:
            break
        delta_backward_sequence(
            sequence(arrays[0], 2, n, lead, n_lead),
            sequence(arrays[1], 2, n, lead, n_lead),
            sequence(arrays[2], 1, n, lead, n_lead),
            sequence(arrays[3], 2, n, lead, n_lead),
            sequence(arrays[4], 1, n, lead, n_lead),
            kept + n * K,
            sequence(arrays[5], 2, n, lead, n_lead),
            sequence(arrays[6], 2, n, lead, n_lead),
            gq + n * s.L * s.D,
            gk + n * s.L * s.D,
            start(arrays[7]) + n * s.L * s.Do,
            gbeta + n * s.L,
            total,
            scratch + s.D * s.Do_,
            s)
    write_rows(gS, total, s.D, s.Do, s.Do_)
