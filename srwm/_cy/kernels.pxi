"""The operator on the CPU: one text, compiled once per instruction set and real type.

Letters (design of the operator, see srwm/_reference.py):

    N       sequences: the product of the broadcast leading axes
    L       steps; C, the steps of a segment, whose last W is kept for the
            backward pass: of the first `segments`, all but a last one that is short, which is replayed
    D, Do   entries of x_t, of y_t;  M = Do + 2 D + 4 columns of W: [ y | q | k | beta ]
    D_, M_  the same in the padded layout used inside: each of the four blocks of columns starts on
            a whole vector, and the padding is zero

The numbered steps are those of srwm/_reference.py. The matrix is swept once a step going forward:
step 5 of one step, step 3 of the next and step 1 of the one after share every load and store of W.
"""

cdef struct Sizes:
    Py_ssize_t D, Do, L, C, segments
    Py_ssize_t D_, Do_, beta_, M_  # padded to whole vectors, in entries
    Py_ssize_t row  # entries of the trace per step: [ q : D_ | k : D_ | beta : beta_ | Delta : M_ ]


cdef inline Sizes sizes_of(
    Py_ssize_t D, Py_ssize_t Do, Py_ssize_t L, Py_ssize_t C, Py_ssize_t segments
) noexcept nogil:
    cdef Sizes s
    s.D, s.Do, s.L, s.C, s.segments = D, Do, L, C, segments
    s.D_, s.Do_, s.beta_ = padded(D), padded(Do), padded(4)
    s.M_ = s.Do_ + 2 * s.D_ + s.beta_
    s.row = 2 * s.D_ + s.beta_ + s.M_
    return s


cdef inline Py_ssize_t entries_kept(Sizes s) noexcept nogil:
    return s.L * s.row + s.segments * s.D * s.M_


cdef inline Py_ssize_t forward_scratch(Sizes s) noexcept nogil:
    return s.D * s.M_ + 5 * s.D_ + 4 * s.M_ + 2 * s.row


cdef inline Py_ssize_t backward_scratch(Sizes s) noexcept nogil:
    return 3 * s.D * s.M_ + s.M_ * s.D_ + 8 * s.D_ + s.beta_ + 8 * s.M_


# IN: strided (D, M) -> OUT: padded (D, M_).
cdef void read_matrix(real *out, View W, Sizes s) noexcept nogil:
    cdef Py_ssize_t d, M = s.Do + 2 * s.D + 4
    cdef const char *a
    memset(out, 0, s.D * s.M_ * sizeof(real))
    for d in range(s.D):
        a = W.data + d * W.outer
        if s.Do_ == s.Do and s.D_ == s.D:  # no padding but at the end
            read_vector(out, a, W.inner, M)
        else:
            read_vector(out, a, W.inner, s.Do)
            read_vector(out + s.Do_, a + s.Do * W.inner, W.inner, s.D)
            read_vector(out + s.Do_ + s.D_, a + (s.Do + s.D) * W.inner, W.inner, s.D)
            read_vector(out + s.Do_ + 2 * s.D_, a + (M - 4) * W.inner, W.inner, 4)
        out += s.M_


# IN: padded (D, M_) -> OUT: contiguous (D, M).
cdef void write_matrix(real *out, const real *A, Sizes s) noexcept nogil:
    cdef Py_ssize_t d, M = s.Do + 2 * s.D + 4
    for d in range(s.D):
        if s.Do_ == s.Do and s.D_ == s.D:
            copy(out, A, M)
        else:
            copy(out, A, s.Do)
            copy(out + s.Do, A + s.Do_, s.D)
            copy(out + s.Do + s.D, A + s.Do_ + s.D_, s.D)
            copy(out + M - 4, A + s.Do_ + 2 * s.D_, 4)
        out += M
        A += s.M_


# 4  u = [ beta_0 Delta_y | beta_1 Delta_q | beta_2 Delta_k | beta_3 Delta_beta ]
cdef inline void scale_blocks(real *u, const real *beta, const real *Delta, Sizes s) noexcept nogil:
    cdef Py_ssize_t q = s.Do_, k = s.Do_ + s.D_, b = s.Do_ + 2 * s.D_
    scale(u, beta[0], Delta, s.Do_ // LANES)
    scale(u + q, beta[1], Delta + q, s.D_ // LANES)
    scale(u + k, beta[2], Delta + k, s.D_ // LANES)
    scale(u + b, beta[3], Delta + b, s.beta_ // LANES)


cdef void forward_sequence(
    View x,         # IN  (L, D)
    View W,         # IN  (D, M)
    View reset,     # IN  (L) bool, or NULL
    real *y,        # OUT (L, Do)
    real *W_next,   # OUT (D, M), or NULL
    real *trace,    # OUT what is kept: (L, row), then (segments, D, M_), the W each ends with; or NULL
    real *scratch,  # forward_scratch(s) entries
    Sizes s,
) noexcept nogil:
    cdef real *A = scratch                    # (D, M_) W, short of the newest update
    cdef real *x_t = A + s.D * s.M_           # (D_) of the step after the one at hand
    cdef real *r = x_t + s.D_                 # (D_) q - k
    cdef real *padding = r + s.D_             # (D_) 0, and -inf past D
    cdef real *no_k = padding + s.D_          # (D_) zeros
    cdef real *o = no_k + 2 * s.D_            # (M_)
    cdef real *u = o + s.M_                   # (M_)
    cdef real *u_before = u + s.M_            # (M_) with k_before: the update A is short of
    cdef real *no_u = u_before + s.M_         # (M_) zeros
    cdef real *rows = no_u + s.M_             # (2, row) where no trace is kept
    cdef real *q
    cdef real *k
    cdef real *beta
    cdef real *Delta
    cdef real *states = NULL if trace == NULL else trace + s.L * s.row
    cdef bint is_kept
    cdef const real *k_before = no_k
    cdef const real *pending = no_u
    cdef Py_ssize_t t, d, width = s.M_ // LANES, d_width = s.D_ // LANES

    read_matrix(A, W, s)
    if s.L > 0:
        memset(x_t, 0, (5 * s.D_ + 4 * s.M_) * sizeof(real))
        for d in range(s.D, s.D_):
            padding[d] = -INFINITY
        read_vector(x_t, x.data, x.inner, s.D)
        multiply(A, s.D, width, x_t, o)
    for t in range(s.L):
        q = trace + t * s.row if trace != NULL else rows + (t & 1) * s.row
        k = q + s.D_
        beta = k + s.D_
        Delta = beta + s.beta_

        # 1  o = x_t W is there already: the sweep of the step before made it
        copy(y + t * s.Do, o, s.Do)
        # 2  q = softmax(q^)   k = softmax(k^)   beta = sigmoid(b^)
        softmax(q, o + s.Do_, padding, d_width)
        softmax(k, o + s.Do_ + s.D_, padding, d_width)
        sigmoid(beta, o + s.Do_ + 2 * s.D_, s.beta_ // LANES)
        # 5 of the step before, 3  Delta = (q - k) W, and 1 of the step after but for u of this one
        subtract(r, q, k, d_width)
        if t + 1 < s.L:
            read_vector(x_t, x.data + (t + 1) * x.outer, x.inner, s.D)
        if t + 1 == s.L and pending == no_u:  # nothing behind and nothing ahead, as in a single step
            multiply(A, s.D, width, r, Delta)
        else:
            update_and_multiply(A, s.D, width, k_before, pending, r, x_t, Delta, o)
        # 4
        scale_blocks(u, beta, Delta, s)
        # x_{t+1} (W + k^T u) = x_{t+1} W + (x_{t+1} . k) u
        add_scaled(o, dot(x_t, k, d_width), u, width)
        k_before, pending = k, u
        u, u_before = u_before, u
        # 5  W <- W + k^T u, at once where W itself is wanted: the end of a segment, the last step
        is_kept = trace != NULL and is_kept_after(t, s.L, s.C, s.segments)
        if is_kept or (t + 1 == s.L and W_next != NULL):
            update(A, s.D, width, k_before, pending)
            k_before, pending = no_k, no_u
            if is_kept:
                memcpy(states + t // s.C * s.D * s.M_, A, s.D * s.M_ * sizeof(real))
        if t + 1 < s.L and is_reset(reset, t + 1):
            read_matrix(A, W, s)
            k_before, pending = no_k, no_u
            multiply(A, s.D, width, x_t, o)
    if W_next != NULL:
        write_matrix(W_next, A, s)


# W after step t, from the trace: the last W known before it, and every update since.
cdef void replay(real *A, real *u, View W, View reset, const real *trace, const real *states,
                 Py_ssize_t t, Sizes s) noexcept nogil:
    cdef Py_ssize_t first = replayed_from(t, reset, s.C)
    cdef const real *k
    if first == 0 or is_reset(reset, first):
        read_matrix(A, W, s)
    else:
        memcpy(A, states + (first // s.C - 1) * s.D * s.M_, s.D * s.M_ * sizeof(real))
    while first <= t:
        k = trace + first * s.row + s.D_
        scale_blocks(u, k + s.D_, k + s.D_ + s.beta_, s)
        update(A, s.D, s.M_ // LANES, k, u)
        first += 1


cdef void backward_sequence(
    View x,              # IN  (L, D)
    View W,              # IN  (D, M)
    View reset,          # IN  (L) bool, or NULL
    const real *trace,   # IN  what forward kept: (L, row), then (segments, D, M_)
    View grad_y,         # IN  (L, Do)
    View grad_W_next,    # IN  (D, M), or NULL
    real *gx,            # OUT (L, D)
    real *gW,            # IN OUT (D, M_), added to
    real *scratch,       # backward_scratch(s) entries
    Sizes s,
) noexcept nogil:
    cdef real *G = scratch                  # (D, M_) gradient of W, short of step t + 1's two terms
    cdef real *AT = G + s.D * s.M_          # (M_, D_) W, transposed: its products are sums of rows too
    cdef real *A = AT + s.M_ * s.D_         # (D, M_)
    cdef real *x_t = A + s.D * s.M_         # (D_)
    cdef real *x_after = x_t + s.D_         # (D_) of step t + 1, as r_after, g_Delta_after, g_o_after
    cdef real *r = x_after + s.D_           # (D_) q - k
    cdef real *r_after = r + s.D_           # (D_)
    cdef real *g_k = r_after + s.D_         # (D_)
    cdef real *g_d = g_k + s.D_             # (D_)
    cdef real *g_x = g_d + s.D_             # (D_)
    cdef real *g_beta = g_x + s.D_          # (beta_)
    cdef real *g_o = g_beta + s.beta_       # (M_)
    cdef real *g_o_after = g_o + s.M_       # (M_)
    cdef real *g_Delta = g_o_after + s.M_   # (M_)
    cdef real *g_Delta_after = g_Delta + s.M_  # (M_)
    cdef real *g_u = g_Delta_after + s.M_   # (M_)
    cdef real *u = g_u + s.M_               # (M_)
    cdef real *minus_u = u + s.M_           # (M_)
    cdef const real *states = trace + s.L * s.row
    cdef const real *q
    cdef const real *k
    cdef const real *beta
    cdef const real *Delta
    cdef real u_g_o
    cdef bint is_first, has_after = False
    cdef Py_ssize_t t, i, width = s.M_ // LANES, d_width = s.D_ // LANES
    cdef Py_ssize_t q_ = s.Do_, k_ = s.Do_ + s.D_, b_ = s.Do_ + 2 * s.D_

    memset(x_t, 0, (7 * s.D_ + s.beta_ + 7 * s.M_) * sizeof(real))
    if grad_W_next.data != NULL:
        read_matrix(G, grad_W_next, s)
    else:
        memset(G, 0, s.D * s.M_ * sizeof(real))
    if s.L == 0:
        for i in range(s.D * s.M_):
            gW[i] += G[i]
    for t in range(s.L - 1, -1, -1):
        q = trace + t * s.row
        k = q + s.D_
        beta = k + s.D_
        Delta = beta + s.beta_
        is_first = t == 0 or is_reset(reset, t)

        # W after step t, where undoing the steps behind it does not lead there
        if is_kept_after(t, s.L, s.C, s.segments):
            transpose(AT, states + t // s.C * s.D * s.M_, s.D, s.M_, s.M_, s.D_)
        elif t + 1 == s.L or is_reset(reset, t + 1):
            replay(A, u, W, reset, trace, states, t, s)
            transpose(AT, A, s.D, s.M_, s.M_, s.D_)

        scale_blocks(u, beta, Delta, s)
        subtract(r, q, k, d_width)
        read_vector(x_t, x.data + t * x.outer, x.inner, s.D)
        # 3' and 1' of step t + 1:  G += (q - k)^T g_Delta + x^T g_o
        # 5'  g_u = k G   g_k = G u^T
        update_twice_and_sum(G, s.D, width, r_after, g_Delta_after, x_after, g_o_after, k, u, g_u, g_k)
        # 4'  g_Delta = beta g_u   g_beta[j] = sum over block j of g_u Delta
        scale_blocks(g_Delta, beta, g_u, s)
        g_beta[0] = dot(g_u, Delta, s.Do_ // LANES)
        g_beta[1] = dot(g_u + q_, Delta + q_, d_width)
        g_beta[2] = dot(g_u + k_, Delta + k_, d_width)
        g_beta[3] = dot(g_u + b_, Delta + b_, s.beta_ // LANES)
        # 5 undone, 3'  g_d = W g_Delta^T, and 1' of step t + 1 but for u:
        #   g_x = (W + k^T u) g_o^T = W g_o^T + (u . g_o) k
        scale(minus_u, -1, u, width)
        update_and_multiply(AT, s.M_, d_width, minus_u, k, g_Delta, g_o_after, g_d, g_x)
        if has_after:
            u_g_o = dot(u, g_o_after, width)
            add_scaled(g_x, u_g_o, k, d_width)
            copy(gx + (t + 1) * s.D, g_x, s.D)
        # 3'  g_q = g_d   g_k -= g_d
        # 2'  through the softmaxes and the sigmoid
        # 1'  g_o = [ g_y | g_q^ | g_k^ | g_b^ ]
        read_vector(g_o, grad_y.data + t * grad_y.outer, grad_y.inner, s.Do)
        memcpy(g_o + q_, g_d, s.D_ * sizeof(real))
        subtract(g_o + k_, g_k, g_d, d_width)
        softmax_backward(g_o + q_, q, d_width)
        softmax_backward(g_o + k_, k, d_width)
        for i in range(4):
            g_o[b_ + i] = g_beta[i] * beta[i] * (1 - beta[i])
        if is_first:
            # G += (q - k)^T g_Delta + x^T g_o   g_x = W g_o^T, with nothing left to wait for
            update(G, s.D, width, r, g_Delta)
            update(G, s.D, width, x_t, g_o)
            multiply(AT, s.M_, d_width, g_o, g_x)
            copy(gx + t * s.D, g_x, s.D)
            for i in range(s.D * s.M_):
                gW[i] += G[i]
            memset(G, 0, s.D * s.M_ * sizeof(real))
            memset(r_after, 0, s.D_ * sizeof(real))
            memset(x_after, 0, s.D_ * sizeof(real))
            memset(g_Delta_after, 0, s.M_ * sizeof(real))
            memset(g_o_after, 0, s.M_ * sizeof(real))
            has_after = False
        else:
            x_t, x_after = x_after, x_t
            r, r_after = r_after, r
            g_Delta, g_Delta_after = g_Delta_after, g_Delta
            g_o, g_o_after = g_o_after, g_o
            has_after = True


def layout(Py_ssize_t D, Py_ssize_t Do):
    """(entries kept per step, per segment, of forward's scratch per thread, of backward's)."""
    cdef Sizes s = sizes_of(D, Do, 0, 1, 0)
    spare = 64 // sizeof(real)
    return (s.row, s.D * s.M_, apart(forward_scratch(s)) + spare, apart(backward_scratch(s)) + spare)


def forward(x, W, reset, y, W_next, kept, scratch, Py_ssize_t C, Py_ssize_t segments,
            int num_threads):
    """Fill y, and W_next and kept where not None.

    x (..., L, D), W (..., D, M), reset (..., L) or None: any strides, leading axes that broadcast to
    those of y. y (..., L, Do), W_next (..., D, M), kept (..., K), scratch: contiguous; K and
    the size of scratch as `layout` says. All of this module's real type; checked by the caller.
    """
    cdef Buffers buffers = Buffers()
    cdef Py_buffer *x_ = buffers.of(x)
    cdef Py_buffer *W_ = buffers.of(W)
    cdef Py_buffer *reset_ = buffers.of_optional(reset)
    cdef Py_buffer *y_ = buffers.of(y)
    cdef real *W_next_0 = start(buffers.of_optional(W_next))
    cdef real *kept_0 = start(buffers.of_optional(kept))
    cdef real *scratch_0 = aligned(buffers.of(scratch).buf)
    cdef int n_lead = y_.ndim - 2
    cdef Py_ssize_t n, N = 1
    cdef Sizes s = sizes_of(x_.shape[x_.ndim - 1], y_.shape[n_lead + 1], y_.shape[n_lead], C, segments)
    cdef Py_ssize_t matrix = s.D * (s.Do + 2 * s.D + 4)
    cdef Py_ssize_t K = entries_kept(s), each = apart(forward_scratch(s))
    for n in range(n_lead):
        N *= y_.shape[n]
    for n in prange(N, nogil=True, num_threads=num_threads, schedule="static"):
        forward_sequence(
            sequence(x_, 2, n, y_.shape, n_lead),
            sequence(W_, 2, n, y_.shape, n_lead),
            sequence(reset_, 1, n, y_.shape, n_lead),
            start(y_) + n * s.L * s.Do,
            NULL if W_next_0 == NULL else W_next_0 + n * matrix,
            NULL if kept_0 == NULL else kept_0 + n * K,
            scratch_0 + threadid() * each, s)


def backward(x, W, reset, kept, grad_y, grad_W_next, order, gx, gW, scratch, Py_ssize_t C,
             Py_ssize_t segments, int num_threads):
    """Fill gx and gW from what forward kept.

    x, W, reset, kept as forward had them; grad_y (..., L, Do), grad_W_next (..., D, M) or
    None: any strides. order (chunks, run): the sequences whose gradients of W are summed, in this
    order, into gW (chunks, D, M); a run that is short ends in -1. gx (..., L, D). scratch, gx, gW,
    order: contiguous.
    """
    cdef Buffers buffers = Buffers()
    cdef Py_buffer *x_ = buffers.of(x)
    cdef Py_buffer *W_ = buffers.of(W)
    cdef Py_buffer *reset_ = buffers.of_optional(reset)
    cdef real *kept_0 = start(buffers.of(kept))
    cdef Py_buffer *grad_y_ = buffers.of(grad_y)
    cdef Py_buffer *grad_W_next_ = buffers.of_optional(grad_W_next)
    cdef Py_buffer *gx_ = buffers.of(gx)
    cdef real *gW_0 = start(buffers.of(gW))
    cdef Py_buffer *order_ = buffers.of(order)
    cdef int64_t *order_0 = <int64_t *> order_.buf
    cdef real *scratch_0 = aligned(buffers.of(scratch).buf)
    cdef int n_lead = gx_.ndim - 2
    cdef Sizes s = sizes_of(gx_.shape[n_lead + 1], grad_y_.shape[grad_y_.ndim - 1],
                            gx_.shape[n_lead], C, segments)
    cdef Py_ssize_t chunk, chunks = order_.shape[0], run = order_.shape[1]
    cdef Py_ssize_t each = apart(backward_scratch(s))
    for chunk in prange(chunks, nogil=True, num_threads=num_threads, schedule="static"):
        backward_chunk(x_, W_, reset_, kept_0, grad_y_, grad_W_next_, gx_,
                       order_0 + chunk * run, run, gW_0 + chunk * s.D * (s.Do + 2 * s.D + 4),
                       scratch_0 + threadid() * each, s)


cdef void backward_chunk(
    const Py_buffer *x, const Py_buffer *W, const Py_buffer *reset, const real *kept,
    const Py_buffer *grad_y, const Py_buffer *grad_W_next, const Py_buffer *gx,
    const int64_t *order, Py_ssize_t run, real *gW, real *scratch, Sizes s,
) noexcept nogil:
    cdef Py_ssize_t i, n, K = entries_kept(s)
    cdef int n_lead = gx.ndim - 2
    cdef real *total = scratch  # (D, M_)
    memset(total, 0, s.D * s.M_ * sizeof(real))
    for i in range(run):
        n = order[i]
        if n < 0:
            break
        backward_sequence(
            sequence(x, 2, n, gx.shape, n_lead),
            sequence(W, 2, n, gx.shape, n_lead),
            sequence(reset, 1, n, gx.shape, n_lead),
            kept + n * K,
            sequence(grad_y, 2, n, gx.shape, n_lead),
            sequence(grad_W_next, 2, n, gx.shape, n_lead),
            start(gx) + n * s.L * s.D,
            total,
            scratch + s.D * s.M_,
            s)
    write_matrix(gW, total, s)
