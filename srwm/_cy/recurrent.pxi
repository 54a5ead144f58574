"""What the two recurrences with fast weights share: the delta rule on a state of a matrix and a vector.

The vector is the last output. At padding it stays, and outputs and gradients are zero.
"""


# Backward through  Delta = v - k A   u = beta Delta   A <- A + k^T u   out = r A,  with the new A.
# The gradient g of `out` is behind the deferred term of G: of back.a, r, and of back.b, g.
cdef struct DeltaBack:
    real *both      # (2 M_) g, g_Delta: factors of the rows of A
    real *g_r       # (D_)
    real *along     # (D_)
    real *g_u       # (M_)
    real *g_k       # (D_)
    real *u         # (M_)
    real *g_beta    # (STRIDE)


cdef void delta_step_backward(DeltaBack *d, Back *back, const real *before, const real *k, const real *beta,
                              const real *Delta, const Sizes *s) noexcept nogil:
    cdef real *g = back.b + s.M_
    cdef real *g_Delta = d.both + s.M_
    scale(d.u, beta, 0, Delta, s.m)
    # G += r^T g, after the deferred term   g_u = k G   g_k = u G^T
    gather(back.G, s.D, s.m, 2, back.a, back.b, k, d.u, d.g_u, d.g_k)
    dot(d.g_beta, 0, d.g_u, Delta, s.m)
    scale(g_Delta, beta, 0, d.g_u, s.m)
    # g_r = g A'^T, A' = A + k^T u   g_k -= g_Delta A^T
    memcpy(d.both, g, s.M_ * sizeof(real))
    along_rows(before, s.D, s.m, 2, d.both, d.g_r, d.along - d.g_r)
    add_correction(d.g_r, d.u, g, s.m, k, s.d)
    subtract(d.g_k, d.g_k, d.along, s.d)
    # G -= k^T g_Delta, deferred
    negate(back.a, k, s.d)
    memcpy(back.b, g_Delta, s.M_ * sizeof(real))
    back.is_deferred = True


# Entries of the working memory of a DeltaBack, and the same laid out from `room` on.
cdef inline Py_ssize_t room_of_delta_back(const Sizes *s) noexcept nogil:
    return 3 * s.D_ + 4 * s.M_ + LANES


cdef inline DeltaBack delta_back_in(real *room, const Sizes *s) noexcept nogil:
    cdef DeltaBack d
    d.both, d.g_r = room, room + 2 * s.M_
    d.along, d.g_k = d.g_r + s.D_, d.g_r + 2 * s.D_
    d.g_u, d.u = d.g_k + s.D_, d.g_k + s.D_ + s.M_
    d.g_beta = d.u + s.M_
    return d


# OUT: v_bar = k A (M_), Delta = v - v_bar (M_), u = beta Delta (M_).
cdef inline void delta_of(real *Delta, real *u, const real *A, const real *k, const real *values,
                          const real *beta, const Sizes *s) noexcept nogil:
    multiply(A, s.D, s.m, k, Delta)
    subtract(Delta, values, Delta, s.m)
    scale(u, beta, 0, Delta, s.m)


# The output of a step: it is written, and becomes the last one, but at padding, where zero is written.
cdef inline void put_output(real *out, real *last, const View *y, const View *mask, Py_ssize_t t,
                            const Sizes *s) noexcept nogil:
    put_where_padding(out, last, s.d, mask, t)
    memcpy(last, out, s.D_ * sizeof(real))
    fill_where_padding(out, 0, s.d, mask, t)
    write_row(y, t * y.outer, out, s.D)


# OUT: g, the gradient of the output of a step and of what the next step made of it; zero at padding.
cdef inline void gradient_of_output(real *g, const real *of_last, const View *grad_y, const View *mask,
                                    Py_ssize_t t, const Sizes *s) noexcept nogil:
    read_row(g, grad_y, t * grad_y.outer, s.D)
    add(g, of_last, s.d)
    fill_where_padding(g, 0, s.d, mask, t)
