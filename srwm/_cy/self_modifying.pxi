"""Matrices that write themselves, on the CPU, with replay: the memory that modifies itself, with and
without a query from outside, and the self-referential weight matrix whose output reads another input.
Letters and numbered steps: srwm/reference/self_modifying.py, srwm/reference/srwm_read.py.

The three have one form. A step reads o = x W, makes of it a key k, a vector r, rates, a retention alpha and
what reads the output, and computes

    y = read W_y   Delta = r W   u = rates Delta   W <- alpha W + k^T u,   all with the W before the step.

For the memory r is a v - c k, and there is one rate; for the self-referential matrix r is q - k with a rate
for each block, and alpha is 1.

Saved of a step: [ k : D_ | r : D_ | read : D_ | Delta : all_ | scalars ]. The scalars are vectors: for the
memory the rate, its slope, alpha, and the two factors of `unit_backward`; for the self-referential matrix
beta, then q : D_.
"""

cdef enum:  # places of operands; without a query or another reader, the places after it are one less
    WRITER_X, WRITER_W, WRITER_READ, WRITER_STATE, WRITER_RESET, WRITER_MASK

cdef enum:  # settings of the memory
    SETTING_A, SETTING_C, SETTING_KEYS, SETTING_RATE, SETTING_RATE_SCALE, SETTING_EPS

cdef enum:  # scalars of the memory, in vectors
    RATE, SLOPE, ALPHA, PER, ALONG, SCALARS

cdef enum:  # blocks of columns of the memory; the last one may be missing
    MEMORY_Y, MEMORY_K, MEMORY_V, MEMORY_ETA, MEMORY_ALPHA, MEMORY_Q


cdef void self_modifying_lay_out(Sizes *s) noexcept nogil:
    s.blocks, s.number[MEMORY_Q] = 6, s.D
    lay_out_memory(s, &SELF_MODIFYING_STEPS)


cdef void self_modifying_query_lay_out(Sizes *s) noexcept nogil:
    s.blocks = 5
    lay_out_memory(s, &SELF_MODIFYING_QUERY_STEPS)


cdef inline void lay_out_memory(Sizes *s, const Replayed *steps) noexcept nogil:
    s.number[MEMORY_Y], s.number[MEMORY_K], s.number[MEMORY_V] = s.Do, s.D, s.D
    s.number[MEMORY_ETA], s.number[MEMORY_ALPHA] = 1, 1
    set_sizes(s)
    s.row = 3 * s.D_ + s.all_ + SCALARS * LANES
    lay_out_writer(s, steps)


cdef void srwm_read_lay_out(Sizes *s) noexcept nogil:
    s.blocks = SRWM_BLOCKS
    s.number[SRWM_Y], s.number[SRWM_Q], s.number[SRWM_K], s.number[SRWM_BETA] = s.Do, s.D, s.D, 4
    set_sizes(s)
    s.row = 4 * s.D_ + s.all_ + s.all_ - s.at[SRWM_BETA]
    lay_out_writer(s, &SRWM_READ_STEPS)


cdef inline void lay_out_writer(Sizes *s, const Replayed *steps) noexcept nogil:
    s.steps, s.numbers, s.constants = steps, 0, s.D_
    s.working = 7 * s.D_ + 5 * s.all_ + 4 * LANES
    lay_out_replayed(s)


# Where the parts of a saved row begin.
cdef struct Row:
    const real *k        # (D_)
    const real *r        # (D_)
    const real *read     # (D_)
    const real *Delta    # (all_)
    const real *scalars


cdef inline Row row_at(const real *row, const Sizes *s) noexcept nogil:
    cdef Row parts
    parts.k, parts.r, parts.read = row, row + s.D_, row + 2 * s.D_
    parts.Delta = row + 3 * s.D_
    parts.scalars = parts.Delta + s.all_
    return parts


cdef inline bint is_memory(const Sizes *s) noexcept nogil:
    return s.blocks != SRWM_BLOCKS


cdef inline bint reads_outside(const Sizes *s) noexcept nogil:
    return s.blocks != 6


cdef inline Py_ssize_t place_of_mask(const Sizes *s) noexcept nogil:
    return WRITER_MASK if reads_outside(s) else WRITER_MASK - 1


cdef void writer_begin(const Views *v, real *constants, const Sizes *s) noexcept nogil:
    set_padding(constants, s)


# u = rates Delta: one rate, or one for each block.
cdef inline void writer_rates(real *u, const Row *row, const Sizes *s) noexcept nogil:
    if is_memory(s):
        scale(u, row.scalars, 0, row.Delta, s.m)
    else:
        srwm_rates(u, row.scalars, row.Delta, s)


cdef void writer_step(const Views *v, Py_ssize_t t, real *A, real *row, const real *constants, real *room,
                      const Sizes *s) noexcept nogil:
    cdef const View *x = &v.operands[WRITER_X]        # IN  (L, D)
    cdef const View *reader = &v.operands[WRITER_READ]  # IN  (L, D), of what comes from outside
    cdef const View *y = &v.results[Y]                # OUT (L, Do)
    cdef const View *mask = NULL                      # IN  (L) bool, or none
    cdef real *k = row                                # (D_)
    cdef real *r = k + s.D_                           # (D_)
    cdef real *read = r + s.D_                        # (D_)
    cdef real *Delta = read + s.D_                    # (all_)
    cdef real *scalars = Delta + s.all_
    cdef real *q = scalars + s.all_ - s.at[SRWM_BETA]  # (D_), of the self-referential matrix
    cdef real *x_t = room                             # (D_)
    cdef real *scaled_v = x_t + s.D_                  # (D_)
    cdef real *o = scaled_v + s.D_                    # (all_)
    cdef real *u = o + s.all_                         # (all_)
    cdef real *outputs = u + s.all_                   # (all_) read W, of which y is a part
    cdef Row parts = row_at(row, s)
    if is_memory(s):
        mask = &v.operands[place_of_mask(s)]
        read_real_row(x_t, x, t * x.outer, s.D, mask, t)
    else:
        read_row(x_t, x, t * x.outer, s.D)
    # 1
    multiply(A, s.D, s.m, x_t, o)
    if not reads_outside(s):
        memcpy(read, o + s.at[MEMORY_Q], s.D_ * sizeof(real))
    elif is_memory(s):
        read_real_row(read, reader, t * reader.outer, s.D, mask, t)
    else:
        read_row(read, reader, t * reader.outer, s.D)
    # 2, and r
    if is_memory(s):
        if s.setting[SETTING_KEYS] == 0:
            unit(k, scalars + PER * LANES, scalars + ALONG * LANES, o + s.at[MEMORY_K],
                 s.setting[SETTING_EPS], s.d)
        else:
            softmax(k, o + s.at[MEMORY_K], constants, 0, s.d)
        multiply_by(r, -s.setting[SETTING_C], k, s.d)
        multiply_by(scaled_v, s.setting[SETTING_A], o + s.at[MEMORY_V], s.d)
        add(r, scaled_v, s.d)
        rates_of(scalars, scalars + SLOPE * LANES, o + s.at[MEMORY_ETA], s.setting[SETTING_RATE_SCALE],
                 s.setting[SETTING_RATE] == 0)
        sigmoid(scalars + ALPHA * LANES, o + s.at[MEMORY_ALPHA], 1)
        fill_where_padding(scalars + RATE * LANES, 0, 1, mask, t)
        fill_where_padding(scalars + SLOPE * LANES, 0, 1, mask, t)
        fill_where_padding(scalars + ALPHA * LANES, 1, 1, mask, t)
    else:
        softmax(q, o + s.at[SRWM_Q], constants, 0, s.d)
        softmax(k, o + s.at[SRWM_K], constants, 0, s.d)
        sigmoid(scalars, o + s.at[SRWM_BETA], (s.all_ - s.at[SRWM_BETA]) // LANES)
        subtract(r, q, k, s.d)
    # 3, and the product of 4
    multiply_twice(A, s.D, s.m, r, read, Delta, outputs)
    if is_memory(s):
        fill_where_padding(outputs, 0, s.width[0], mask, t)
    write_row(y, t * y.outer, outputs, s.Do)
    # 4, 5
    writer_rates(u, &parts, s)
    advance(A, A, s.D, s.m, scalars + ALPHA * LANES if is_memory(s) else NULL, k, u, NULL, NULL)


cdef void writer_redo(const Views *v, Py_ssize_t t, real *after, const real *before, const real *row,
                      real *room, const Sizes *s) noexcept nogil:
    cdef Row parts = row_at(row, s)
    # 4, 5
    writer_rates(room, &parts, s)
    advance(after, before, s.D, s.m, parts.scalars + ALPHA * LANES if is_memory(s) else NULL, parts.k, room,
            NULL, NULL)


cdef void writer_backward(const Views *v, Py_ssize_t t, const real *before, const real *row, Back *back,
                          const real *constants, real *room, const Sizes *s) noexcept nogil:
    cdef const View *x = &v.operands[WRITER_X]        # IN  (L, D)
    cdef const View *grad_y = &v.incoming[Y]          # IN  (L, Do), or none
    cdef const View *gx = &v.gradients[WRITER_X]      # OUT (L, D), or none
    cdef const View *g_reader = &v.gradients[WRITER_READ]  # OUT (L, D), or none
    cdef const View *mask = NULL                      # IN  (L) bool, or none
    cdef Row parts = row_at(row, s)
    cdef real *u = room                               # (all_)
    cdef real *g_u = u + s.all_                       # (all_)
    cdef real *g_k = g_u + s.all_                     # (D_)
    cdef real *g_r = g_k + s.D_                       # (D_)
    cdef real *g_read = g_r + s.D_                    # (D_)
    cdef real *g_x = g_read + s.D_                    # (D_)
    cdef real *g_alpha = g_x + s.D_                   # (LANES)
    cdef real *g_rate = g_alpha + LANES               # (LANES)
    cdef real *g_Delta = back.b                       # (all_)
    cdef real *g_outputs = g_Delta + s.all_           # (all_) g_y, and zeros
    cdef real *g_o = g_outputs + s.all_               # (all_)
    if is_memory(s):
        mask = &v.operands[place_of_mask(s)]
    writer_rates(u, &parts, s)
    # The deferred terms of 5', 4', 3' and 1'   5'  g_u = k G   g_k = G u^T   g_alpha = <G, W>
    if is_memory(s):
        gather_retained(back.G, s.D, s.m, back.alpha, back.a, back.b, parts.k, u, g_u, g_k, before, g_alpha)
        memcpy(back.alpha, parts.scalars + ALPHA * LANES, LANES * sizeof(real))
    else:
        gather(back.G, s.D, s.m, 3, back.a, back.b, parts.k, u, g_u, g_k)
    # 4'  g_Delta = rates g_u, and the gradients of the rates   3'  g_r = g_Delta W^T   g_read = g_y W_y^T
    memset(g_outputs, 0, s.all_ * sizeof(real))
    read_row(g_outputs, grad_y, t * grad_y.outer, s.Do)
    if is_memory(s):
        fill_where_padding(g_outputs, 0, s.width[0], mask, t)
        dot(g_rate, 0, g_u, parts.Delta, s.m)
        scale(g_Delta, parts.scalars, 0, g_u, s.m)
    else:
        rates_backward(g_Delta, g_o + s.at[SRWM_BETA], &parts, g_u, s)
    along_rows(before, s.D, s.m, 2, g_Delta, g_r, s.D_)
    memset(g_o, 0, (s.at[1] if is_memory(s) else s.at[SRWM_Q]) * sizeof(real))
    # 2'
    if is_memory(s):
        multiply_by(g_o + s.at[MEMORY_V], s.setting[SETTING_A], g_r, s.d)
        multiply_by(g_r, s.setting[SETTING_C], g_r, s.d)
        subtract(g_k, g_k, g_r, s.d)
        if s.setting[SETTING_KEYS] == 0:
            unit_backward(g_o + s.at[MEMORY_K], g_k, parts.k, parts.scalars + PER * LANES,
                          parts.scalars + ALONG * LANES, s.d)
        else:
            softmax_backward(g_o + s.at[MEMORY_K], g_k, parts.k, s.d)
        scale(g_o + s.at[MEMORY_ETA], parts.scalars + SLOPE * LANES, 0, g_rate, 1)
        sigmoid_backward(g_o + s.at[MEMORY_ALPHA], g_alpha, parts.scalars + ALPHA * LANES, 1)
        if not reads_outside(s):
            memcpy(g_o + s.at[MEMORY_Q], g_read, s.D_ * sizeof(real))
    else:
        subtract(g_k, g_k, g_r, s.d)
        softmax_backward(g_o + s.at[SRWM_Q], g_r, parts.scalars + s.all_ - s.at[SRWM_BETA], s.d)
        softmax_backward(g_o + s.at[SRWM_K], g_k, parts.k, s.d)
    # 1'
    along_rows(before, s.D, s.m, 1, g_o, g_x, 0)
    write_row(gx, t * gx.outer, g_x, s.D)
    if reads_outside(s):
        write_row(g_reader, t * g_reader.outer, g_read, s.D)
    memcpy(back.a, parts.r, 2 * s.D_ * sizeof(real))
    if is_memory(s):
        read_real_row(back.a + 2 * s.D_, x, t * x.outer, s.D, mask, t)
    else:
        read_row(back.a + 2 * s.D_, x, t * x.outer, s.D)
    back.is_deferred = True


# 4' of the self-referential matrix:  g_Delta = rates g_u   g_b^ through the sigmoid.
cdef inline void rates_backward(real *g_Delta, real *g_b, const Row *row, const real *g_u,
                                const Sizes *s) noexcept nogil:
    cdef Py_ssize_t i, rates = (s.all_ - s.at[SRWM_BETA]) // LANES
    memset(g_b, 0, rates * LANES * sizeof(real))
    for i in range(SRWM_BLOCKS):
        dot(g_b, i, g_u + s.block[i], row.Delta + s.block[i], s.width[i])
    srwm_rates(g_Delta, row.scalars, g_u, s)
    sigmoid_backward(g_b, g_b, row.scalars, rates)


cdef Replayed SELF_MODIFYING_STEPS = [
    [WRITER_W, WRITER_STATE - 1, 0, 0, WRITER_RESET - 1], 3, 3, True,
    writer_begin, writer_step, writer_redo, writer_backward, no_parameters,
]
cdef Replayed SELF_MODIFYING_QUERY_STEPS = [
    [WRITER_W, WRITER_STATE, 0, 0, WRITER_RESET], 3, 3, True,
    writer_begin, writer_step, writer_redo, writer_backward, no_parameters,
]
cdef Replayed SRWM_READ_STEPS = [
    [WRITER_W, WRITER_STATE, 0, 0, WRITER_RESET], 3, 3, False,
    writer_begin, writer_step, writer_redo, writer_backward, no_parameters,
]
cdef Kernels SELF_MODIFYING_KERNELS = [
    self_modifying_lay_out, replayed_forward, replayed_backward, NULL, WRITER_W, WRITER_STATE - 1,
    WRITER_RESET - 1, WRITER_MASK - 1, False, 160 << 10, 80 << 10,
]
cdef Kernels SELF_MODIFYING_QUERY_KERNELS = [
    self_modifying_query_lay_out, replayed_forward, replayed_backward, NULL, WRITER_W, WRITER_STATE,
    WRITER_RESET, WRITER_MASK, False, 160 << 10, 80 << 10,
]
cdef Kernels SRWM_READ_KERNELS = [
    srwm_read_lay_out, replayed_forward, replayed_backward, NULL, WRITER_W, WRITER_STATE, WRITER_RESET, -1,
    False, 160 << 10, 80 << 10,
]
register("self_modifying", &SELF_MODIFYING_KERNELS)
register("self_modifying_query", &SELF_MODIFYING_QUERY_KERNELS)
register("srwm_read", &SRWM_READ_KERNELS)
