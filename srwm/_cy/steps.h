/* Sweeps and operations of a step, for the operators whose backward pass recomputes the matrices. Shapes and
   letters as in sweeps.h and gates.h. Here updates are not deferred: each step writes the matrix, since
   backward needs it before every step. */
#ifndef SRWM_STEPS_H
#define SRWM_STEPS_H

#include "gates.h"
#include "sweeps.h"
#include "views.h"

#define ADVANCE_BLOCK (REGISTERS / 4)
#define STEPS_AT_ONCE 16 /* at most, that are read and written together */
#define STEPS_OF_SWEEP 4  /* whose rows fit into registers */

/* out = alpha A + k^T u;  y = q out,  on `block` vectors of columns. */
INLINE void advance_block(real *out, const real *A, ptrdiff_t rows, ptrdiff_t width, const int block,
                          const int retains, const int reads, const real *alpha, const real *k,
                          const real *u, const real *q, real *y) {
    vector u_j[8], sum[8], kept = retains ? factor(alpha, 0) : splat(1);
    UNROLL for (int j = 0; j < block; j++) u_j[j] = load(u + j * LANES), sum[j] = splat(0);
    for (ptrdiff_t d = 0; d < rows; d++) {
        vector k_d = factor(k, d), q_d = reads ? factor(q, d) : splat(0);
        UNROLL for (int j = 0; j < block; j++) {
            vector w = load(A + (d * width + j) * LANES);
            w = retains ? kept * w + k_d * u_j[j] : w + k_d * u_j[j];
            KEEP(w);
            store(out + (d * width + j) * LANES, w);
            if (reads) sum[j] += q_d * w;
        }
    }
    if (reads) UNROLL for (int j = 0; j < block; j++) store(y + j * LANES, sum[j]);
}

/* out (rows, width) = alpha A + k^T u;  y (width) = q out. Without alpha (NULL) it is 1; without q, there is
   no y. `out` may be A. */
static void advance(real *out, const real *A, ptrdiff_t rows, ptrdiff_t width, const real *alpha,
                    const real *k, const real *u, const real *q, real *y) {
#define STRIP(block, retains, reads)                                                                  \
    advance_block(out + c * LANES, A + c * LANES, rows, width, block, retains, reads, alpha, k,       \
                  u + c * LANES, q, reads ? y + c * LANES : NULL)
#define STRIP_RETAINS(block) STRIP(block, 1, 0)
#define STRIP_READS(block) STRIP(block, 0, 1)
#define STRIP_ADDS(block) STRIP(block, 0, 0)
    if (alpha != NULL)
        OVER_COLUMNS(width, ADVANCE_BLOCK, STRIP_RETAINS);
    else if (q != NULL)
        OVER_COLUMNS(width, ADVANCE_BLOCK, STRIP_READS);
    else
        OVER_COLUMNS(width, ADVANCE_BLOCK, STRIP_ADDS);
#undef STRIP_ADDS
#undef STRIP_READS
#undef STRIP_RETAINS
#undef STRIP
}

/* A step that reads after it writes:  A += of_u k^T u;  y = of_y q A.  `steps` of them in turn, on `block`
   vectors of columns. Each entry of A is loaded and stored once for all of them. */
INLINE void write_and_read_some(real *A, ptrdiff_t rows, ptrdiff_t width, const int block, const int steps,
                                Rows k, Rows u, real of_u, Rows q, Rows y, real of_y) {
    vector u_i[STEPS_OF_SWEEP][2], sum[STEPS_OF_SWEEP][2];
    UNROLL for (int i = 0; i < steps; i++)
        UNROLL for (int j = 0; j < block; j++) {
            u_i[i][j] = splat(of_u) * load(u.at + i * u.apart + j * LANES);
            sum[i][j] = splat(0);
        }
    for (ptrdiff_t d = 0; d < rows; d++) {
        vector w[2];
        UNROLL for (int j = 0; j < block; j++) w[j] = load(A + (d * width + j) * LANES);
        UNROLL for (int i = 0; i < steps; i++) {
            vector k_d = factor(k.at + i * k.apart, d), q_d = factor(q.at + i * q.apart, d);
            UNROLL for (int j = 0; j < block; j++) {
                w[j] += k_d * u_i[i][j];
                sum[i][j] += q_d * w[j];
            }
        }
        UNROLL for (int j = 0; j < block; j++) store(A + (d * width + j) * LANES, w[j]);
    }
    UNROLL for (int i = 0; i < steps; i++)
        UNROLL for (int j = 0; j < block; j++)
            store(y.at + i * y.apart + j * LANES, splat(of_y) * sum[i][j]);
}

/* The same for any number of steps. */
INLINE void write_and_read_block(real *A, ptrdiff_t rows, ptrdiff_t width, const int block, int steps, Rows k,
                                 Rows u, real of_u, Rows q, Rows y, real of_y) {
    for (; steps >= STEPS_OF_SWEEP; steps -= STEPS_OF_SWEEP) {
        write_and_read_some(A, rows, width, block, STEPS_OF_SWEEP, k, u, of_u, q, y, of_y);
        k.at += STEPS_OF_SWEEP * k.apart, u.at += STEPS_OF_SWEEP * u.apart;
        q.at += STEPS_OF_SWEEP * q.apart, y.at += STEPS_OF_SWEEP * y.apart;
    }
    switch (steps) {
        case 3: write_and_read_some(A, rows, width, block, 3, k, u, of_u, q, y, of_y); break;
        case 2: write_and_read_some(A, rows, width, block, 2, k, u, of_u, q, y, of_y); break;
        case 1: write_and_read_some(A, rows, width, block, 1, k, u, of_u, q, y, of_y);
    }
}

/* For i = 0 to steps - 1 in turn:  A (rows, width) += of_u k_i^T u_i;  y_i = of_y q_i A. */
static void write_and_read(real *A, ptrdiff_t rows, ptrdiff_t width, int steps, Rows k, Rows u, real of_u,
                           Rows q, Rows y, real of_y) {
    ptrdiff_t j = 0;
    for (; j + 2 <= width; j += 2, u.at += 2 * LANES, y.at += 2 * LANES)
        write_and_read_block(A + j * LANES, rows, width, 2, steps, k, u, of_u, q, y, of_y);
    if (j < width) write_and_read_block(A + j * LANES, rows, width, 1, steps, k, u, of_u, q, y, of_y);
}

/* out_i = A b_i^T for `n` vectors b_i, on `together` rows from row d on. */
INLINE void along_some_rows(const real *A, ptrdiff_t width, ptrdiff_t d, const int together, const int n,
                            const real *b, real *out, ptrdiff_t apart) {
    vector sum[2][4];
    UNROLL for (int i = 0; i < n; i++) UNROLL for (int m = 0; m < together; m++) sum[i][m] = splat(0);
    for (ptrdiff_t j = 0; j < width; j++) {
        vector b_j[2];
        UNROLL for (int i = 0; i < n; i++) b_j[i] = load(b + (i * width + j) * LANES);
        UNROLL for (int m = 0; m < together; m++) {
            vector a = load(A + ((d + m) * width + j) * LANES);
            UNROLL for (int i = 0; i < n; i++) sum[i][m] += a * b_j[i];
        }
    }
    UNROLL for (int i = 0; i < n; i++) {
#ifndef SRWM_MANY
        if (together == 4) {
            sum_lanes_of_4(sum[i][0], sum[i][1], sum[i][2], sum[i][3], out + i * apart + d);
            continue;
        }
#endif
        UNROLL for (int m = 0; m < together; m++) put_factor(out + i * apart, d + m, sum_of(sum[i][m]));
    }
}

/* out_i (rows) = A b_i^T for n = 1 or 2 vectors b_i (width), which follow each other; the out_i are `apart`
   entries apart. */
static void along_rows(const real *A, ptrdiff_t rows, ptrdiff_t width, int n, const real *b, real *out,
                       ptrdiff_t apart) {
    ptrdiff_t d = 0;
    for (; d + 4 <= rows; d += 4)
        if (n == 1)
            along_some_rows(A, width, d, 4, 1, b, out, apart);
        else
            along_some_rows(A, width, d, 4, 2, b, out, apart);
    for (; d < rows; d++)
        if (n == 1)
            along_some_rows(A, width, d, 1, 1, b, out, apart);
        else
            along_some_rows(A, width, d, 1, 2, b, out, apart);
}

/* G = alpha G + the terms on `together` rows from row d on;  g_u += k G;  g_k = G u;  total += G W. */
INLINE void gather_some_rows(real *G, ptrdiff_t rows, ptrdiff_t width, ptrdiff_t d, const int together,
                             const int terms, const int retains, const real *alpha, const real *a,
                             const real *b, const real *k, const real *u, real *g_u, real *g_k, const real *W,
                             vector *total) {
    vector a_d[3][2], k_d[2], sum[2], kept = retains ? factor(alpha, 0) : splat(1), of_W = splat(0);
    UNROLL for (int m = 0; m < together; m++) {
        UNROLL for (int i = 0; i < terms; i++) a_d[i][m] = factor(a + i * vectors_for(rows) * LANES, d + m);
        k_d[m] = factor(k, d + m);
        sum[m] = splat(0);
    }
    for (ptrdiff_t j = 0; j < width; j++) {
        vector u_j = load(u + j * LANES), g_u_j = load(g_u + j * LANES);
        UNROLL for (int m = 0; m < together; m++) {
            real *entry = G + ((d + m) * width + j) * LANES;
            vector g = load(entry);
            if (retains) g *= kept;
            UNROLL for (int i = 0; i < terms; i++) g += a_d[i][m] * load(b + (i * width + j) * LANES);
            KEEP(g);
            store(entry, g);
            g_u_j += k_d[m] * g;
            sum[m] += g * u_j;
            if (retains) of_W += g * load(W + ((d + m) * width + j) * LANES);
        }
        store(g_u + j * LANES, g_u_j);
    }
    UNROLL for (int m = 0; m < together; m++) put_factor(g_k, d + m, sum_of(sum[m]));
    *total += of_W;
}

#define OVER_PAIRS(terms, retains)                                                                           \
    do {                                                                                                     \
        ptrdiff_t d = 0;                                                                                     \
        for (; d + 2 <= rows; d += 2)                                                                        \
            gather_some_rows(G, rows, width, d, 2, terms, retains, alpha, a, b, k, u, g_u, g_k, W, &total);  \
        if (d < rows)                                                                                        \
            gather_some_rows(G, rows, width, d, 1, terms, retains, alpha, a, b, k, u, g_u, g_k, W, &total);  \
    } while (0)

/* G (rows, width) += the terms (2 or 3);  g_u (width) = k G;  g_k (rows) = G u,  with the new G. */
static void gather(real *G, ptrdiff_t rows, ptrdiff_t width, int terms, const real *a, const real *b,
                   const real *k, const real *u, real *g_u, real *g_k) {
    const real *alpha = NULL, *W = NULL;
    vector total = splat(0);
    memset(g_u, 0, (size_t)(width * LANES) * sizeof(real));
    if (terms == 2)
        OVER_PAIRS(2, 0);
    else
        OVER_PAIRS(3, 0);
}

/* G (rows, width) = alpha G + the 3 terms;  g_u (width) = k G;  g_k (rows) = G u;  factor 0 of g_alpha = the
   sum of G W over all entries,  with the new G. */
static void gather_retained(real *G, ptrdiff_t rows, ptrdiff_t width, const real *alpha, const real *a,
                            const real *b, const real *k, const real *u, real *g_u, real *g_k, const real *W,
                            real *g_alpha) {
    vector total = splat(0);
    memset(g_u, 0, (size_t)(width * LANES) * sizeof(real));
    OVER_PAIRS(3, 1);
    put_factor(g_alpha, 0, sum_of(total));
}

/* G (rows, width) = alpha G + `terms` terms (1 or 3); alpha may be NULL: 1. */
static void add_terms(real *G, ptrdiff_t rows, ptrdiff_t width, int terms, const real *alpha, const real *a,
                      const real *b) {
    vector kept = alpha == NULL ? splat(1) : factor(alpha, 0);
    for (ptrdiff_t d = 0; d < rows; d++)
        for (ptrdiff_t j = 0; j < width; j++) {
            real *entry = G + (d * width + j) * LANES;
            vector g = kept * load(entry);
            for (int i = 0; i < terms; i++)
                g += factor(a + i * vectors_for(rows) * LANES, d) * load(b + (i * width + j) * LANES);
            store(entry, g);
        }
}

/* out += s_i a, where s_i is factor i of s. */
static void add_scaled(real *out, const real *s, ptrdiff_t i, const real *a, ptrdiff_t width) {
    add_scaled_by(out, factor(s, i), a, width);
}

static void add(real *out, const real *a, ptrdiff_t width) {
    for (ptrdiff_t j = 0; j < width; j++) store(out + j * LANES, load(out + j * LANES) + load(a + j * LANES));
}

/* out = s a, for a number s. */
static void multiply_by(real *out, real s, const real *a, ptrdiff_t width) {
    for (ptrdiff_t j = 0; j < width; j++) store(out + j * LANES, splat(s) * load(a + j * LANES));
}

/* out = a / (n + eps) with n, factor 0 of a vector; its inverse is left in `per`. */
static void divide(real *out, real *per, const real *a, const real *n, real eps, ptrdiff_t width) {
    vector inverse = splat(1) / (factor(n, 0) + splat(eps));
    put_factor(per, 0, inverse);
    for (ptrdiff_t j = 0; j < width; j++) store(out + j * LANES, inverse * load(a + j * LANES));
}

/* out = exp(a) / (sum of exp(a) + eps). `padding` as for softmaxes. All is divided by exp(highest), where
   that is above 1, so that no exp overflows; a softmax (eps = 0) by exp(highest) in any case. */
static void softmax(real *out, const real *a, const real *padding, real eps, ptrdiff_t width) {
    vector highest = load_but_padding(a, padding, 0), sum = splat(0);
    for (ptrdiff_t j = 1; j < width; j++) highest = larger(highest, load_but_padding(a, padding, j));
    highest = highest_of(highest);
    if (eps > 0) highest = larger(highest, splat(0));
    for (ptrdiff_t j = 0; j < width; j++) {
        vector e[1] = {load_but_padding(a, padding, j) - highest};
        exp_nonpositive(e, 1);
        store(out + j * LANES, e[0]);
        sum += e[0];
    }
    vector least[1] = {-highest};
    if (eps > 0) exp_nonpositive(least, 1);
    vector inverse = splat(1) / (sum_of(sum) + splat(eps) * least[0]);
    for (ptrdiff_t j = 0; j < width; j++) store(out + j * LANES, inverse * load(out + j * LANES));
}

/* tanh(a). Near 0, where 1 - exp(-2 |a|) would lose digits, by a continued fraction (Lambert). */
static void tanhs(real *out, const real *a, ptrdiff_t width) {
    for (ptrdiff_t j = 0; j < width; j++) {
        vector x = load(a + j * LANES), z = x * x, e[1];
        vector_bits negative = is_less(x, splat(0));
        vector size = select_bits(negative, -x, x);
        e[0] = splat(-2) * size;
        exp_nonpositive(e, 1);
        vector far = (splat(1) - e[0]) / (splat(1) + e[0]);
        vector top = splat(135135) + z * (splat(17325) + z * (splat(378) + z));
        vector bottom = splat(135135) + z * (splat(62370) + z * (splat(3150) + z * splat(28)));
        vector near = size * top / bottom;
        vector positive = select_bits(is_less(size, splat((real)0.25)), near, far);
        store(out + j * LANES, select_bits(negative, -positive, positive));
    }
}

/* out = g (1 - r^2): the gradient through r = tanh(.). */
static void tanh_backward(real *out, const real *g, const real *r, ptrdiff_t width) {
    for (ptrdiff_t j = 0; j < width; j++) {
        vector r_j = load(r + j * LANES);
        store(out + j * LANES, load(g + j * LANES) * (splat(1) - r_j * r_j));
    }
}

/* For each sequence:  rate = s f(a),  slope = s f'(a),  where f is a softplus or a sigmoid. */
static void rates_of(real *rate, real *slope, const real *a, real s, int is_softplus) {
    for (ptrdiff_t i = 0; i < SEQUENCES; i++) {
        double x = a[i], e = exp(-fabs(x)), sigma = (x < 0 ? e : 1) / (1 + e);
        rate[i] = s * (real)(is_softplus ? (x > 0 ? x : 0) + log1p(e) : sigma);
        slope[i] = s * (real)(is_softplus ? sigma : sigma * (1 - sigma));
    }
}

/* k = a / max(|a|, eps). The gradient of a is per (g - along <g, k> k), with these two factors. */
static void unit(real *k, real *per, real *along, const real *a, real eps, ptrdiff_t width) {
    vector squared = dot_of(a, a, width);
    real lengths[VECTOR_BYTES / sizeof(real)];
    store(lengths, squared);
    for (ptrdiff_t i = 0; i < SEQUENCES; i++) {
        real length = (real)sqrt(lengths[i]);
        along[i] = !(length <= eps);
        per[i] = 1 / (length <= eps ? eps : length);
    }
    scale(k, per, 0, a, width);
}

/* out = per (g - along <g, k> k): the gradient through `unit`. */
static void unit_backward(real *out, const real *g, const real *k, const real *per, const real *along,
                          ptrdiff_t width) {
    vector inverse = factor(per, 0), projected = factor(along, 0) * dot_of(g, k, width);
    for (ptrdiff_t j = 0; j < width; j++)
        store(out + j * LANES, inverse * (load(g + j * LANES) - projected * load(k + j * LANES)));
}

/* Whether step t of any sequence is padding. */
INLINE int any_padding(const View *mask, ptrdiff_t t) {
    if (mask->data[0] == NULL) return 0;
    for (ptrdiff_t i = 0; i < SEQUENCES; i++)
        if (is_padding(mask, t, i)) return 1;
    return 0;
}

/* out = a, or the number `a`, `width` vectors, for the sequences of which step t is padding. */
static void put_where_padding(real *out, const real *a, ptrdiff_t width, const View *mask, ptrdiff_t t) {
    if (!any_padding(mask, t)) return;
    for (ptrdiff_t i = 0; i < SEQUENCES; i++)
        if (is_padding(mask, t, i))
            for (ptrdiff_t j = 0; j < width * LANES / STRIDE; j++) out[j * STRIDE + i] = a[j * STRIDE + i];
}

static void fill_where_padding(real *out, real a, ptrdiff_t width, const View *mask, ptrdiff_t t) {
    if (!any_padding(mask, t)) return;
    for (ptrdiff_t i = 0; i < SEQUENCES; i++)
        if (is_padding(mask, t, i))
            for (ptrdiff_t j = 0; j < width * LANES / STRIDE; j++) out[j * STRIDE + i] = a;
}

/* As read_row, but zeros for the sequences of which step t is padding: NaN may be there. */
static void read_real_row(real *columns, const View *a, ptrdiff_t at, ptrdiff_t n, const View *mask,
                          ptrdiff_t t) {
    read_row(columns, a, at, n);
    fill_where_padding(columns, 0, vectors_for(n), mask, t);
}

/* One entry of each sequence; zero where step t is padding. */
static void read_real_entry(real *entry, const View *a, ptrdiff_t at, const View *mask, ptrdiff_t t) {
    for (ptrdiff_t i = 0; i < SEQUENCES; i++)
        entry[i] = is_padding(mask, t, i) ? 0 : read_entry(a->data[i] + at, a->kind);
}

static void write_entries(const View *a, ptrdiff_t at, const real *entry) {
    if (a->data[0] == NULL) return;
    for (ptrdiff_t i = 0; i < SEQUENCES; i++) write_entry(a->data[i] + at, a->kind, entry[i]);
}

#endif
