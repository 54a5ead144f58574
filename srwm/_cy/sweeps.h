/* Sweeps over a matrix kept in cache: every pass does as much as it can with each load and store.

   A matrix has `rows` rows of `width` vectors, each row padded with zeros to whole vectors;
   row-vector arguments over its columns are padded alike. Letters as in the operator's
   definition: k, q, beta, Delta, u, G. */
#ifndef SRWM_SWEEPS_H
#define SRWM_SWEEPS_H

#include "vectors.h"

/* Columns walked at a time, in vectors: two sums, the rank-1 row and three broadcasts must fit. */
#define BLOCK (REGISTERS / 4)

/* A += a^T b;  p = r A;  z = x A  on `block` vectors of columns. Narrow blocks take two rows at a
   time into sums of their own, or each sum would wait for the one before it. */
INLINE void update_and_multiply_block(real *A, ptrdiff_t rows, ptrdiff_t width, const int block,
                                      const real *a, const real *b, const real *r, const real *x,
                                      real *p, real *z) {
    vector b_row[BLOCK], p_sum[2][BLOCK], z_sum[2][BLOCK];
    const int together = block <= BLOCK / 2 ? 2 : 1;
    UNROLL for (int j = 0; j < block; j++) {
        b_row[j] = load(b + j * LANES);
        UNROLL for (int i = 0; i < together; i++) p_sum[i][j] = z_sum[i][j] = splat(0);
    }
    ptrdiff_t d = 0;
    for (; d + together <= rows; d += together) {
        UNROLL for (int i = 0; i < together; i++) {
            real *row = A + (d + i) * width * LANES;
            vector a_d = splat(a[d + i]), r_d = splat(r[d + i]), x_d = splat(x[d + i]);
            UNROLL for (int j = 0; j < block; j++) {
                vector w = load(row + j * LANES) + a_d * b_row[j];
                store(row + j * LANES, w);
                p_sum[i][j] += r_d * w;
                z_sum[i][j] += x_d * w;
            }
        }
    }
    for (; d < rows; d++) {
        real *row = A + d * width * LANES;
        UNROLL for (int j = 0; j < block; j++) {
            vector w = load(row + j * LANES) + splat(a[d]) * b_row[j];
            store(row + j * LANES, w);
            p_sum[0][j] += splat(r[d]) * w;
            z_sum[0][j] += splat(x[d]) * w;
        }
    }
    UNROLL for (int j = 0; j < block; j++) {
        store(p + j * LANES, together == 2 ? p_sum[0][j] + p_sum[1][j] : p_sum[0][j]);
        store(z + j * LANES, together == 2 ? z_sum[0][j] + z_sum[1][j] : z_sum[0][j]);
    }
}

/* z = x A  on `block` vectors of columns. */
INLINE void multiply_block(const real *A, ptrdiff_t rows, ptrdiff_t width, const int block,
                           const real *x, real *z) {
    vector z_sum[BLOCK];
    UNROLL for (int j = 0; j < block; j++) z_sum[j] = splat(0);
    for (ptrdiff_t d = 0; d < rows; d++) {
        const real *row = A + d * width * LANES;
        vector x_d = splat(x[d]);
        UNROLL for (int j = 0; j < block; j++) z_sum[j] += x_d * load(row + j * LANES);
    }
    UNROLL for (int j = 0; j < block; j++) store(z + j * LANES, z_sum[j]);
}

/* Calls `f(block, column)` over all columns: whole blocks, then what is left in halves. */
#define OVER_COLUMNS(width, f)                                             \
    do {                                                                   \
        ptrdiff_t column = 0, left = (width);                              \
        for (; left >= BLOCK; left -= BLOCK, column += BLOCK * LANES) f(BLOCK, column); \
        if (BLOCK > 4 && left >= 4) { f(4, column); left -= 4; column += 4 * LANES; } \
        if (left == 3) f(3, column);                                       \
        else if (left == 2) f(2, column);                                  \
        else if (left == 1) f(1, column);                                  \
    } while (0)

/* A (rows, width) += a^T b;  p (width) = r A;  z (width) = x A,  with the new A. */
static void update_and_multiply(real *A, ptrdiff_t rows, ptrdiff_t width, const real *a, const real *b,
                                const real *r, const real *x, real *p, real *z) {
#define STRIP(block, c) \
    update_and_multiply_block(A + c, rows, width, block, a, b + c, r, x, p + c, z + c)
    OVER_COLUMNS(width, STRIP);
#undef STRIP
}

/* z (width) = x A. */
static void multiply(const real *A, ptrdiff_t rows, ptrdiff_t width, const real *x, real *z) {
#define STRIP(block, c) multiply_block(A + c, rows, width, block, x, z + c)
    OVER_COLUMNS(width, STRIP);
#undef STRIP
}

/* A (rows, width) += a^T b. */
static void update(real *A, ptrdiff_t rows, ptrdiff_t width, const real *a, const real *b) {
    for (ptrdiff_t d = 0; d < rows; d++) {
        real *row = A + d * width * LANES;
        vector a_d = splat(a[d]);
        for (ptrdiff_t j = 0; j < width; j++)
            store(row + j * LANES, load(row + j * LANES) + a_d * load(b + j * LANES));
    }
}

/* G += r^T g_Delta + x^T g_o on `together` rows from row d on;  g_u += k G;  g_k = G u. */
INLINE void update_twice_and_sum_rows(real *G, ptrdiff_t width, ptrdiff_t d, const int together,
                                      const real *r, const real *g_Delta, const real *x, const real *g_o,
                                      const real *k, const real *u, real *g_u, real *g_k) {
    vector r_d[4], x_d[4], k_d[4], sum[4];
    UNROLL for (int i = 0; i < together; i++) {
        r_d[i] = splat(r[d + i]);
        x_d[i] = splat(x[d + i]);
        k_d[i] = splat(k[d + i]);
        sum[i] = splat(0);
    }
    for (ptrdiff_t j = 0; j < width; j++) {
        vector g_Delta_j = load(g_Delta + j * LANES), g_o_j = load(g_o + j * LANES);
        vector u_j = load(u + j * LANES), g_u_j = load(g_u + j * LANES);
        UNROLL for (int i = 0; i < together; i++) {
            real *entry = G + ((d + i) * width + j) * LANES;
            vector g = load(entry) + r_d[i] * g_Delta_j + x_d[i] * g_o_j;
            store(entry, g);
            g_u_j += k_d[i] * g;
            sum[i] += g * u_j;
        }
        store(g_u + j * LANES, g_u_j);
    }
    if (together == 4)
        sum_lanes_of_4(sum[0], sum[1], sum[2], sum[3], g_k + d);
    else
        UNROLL for (int i = 0; i < together; i++) g_k[d + i] = sum_lanes(sum[i]);
}

/* G (rows, width) += r^T g_Delta + x^T g_o;  g_u (width) = k G;  g_k (rows) = G u,  with the new G. */
static void update_twice_and_sum(real *G, ptrdiff_t rows, ptrdiff_t width, const real *r,
                                 const real *g_Delta, const real *x, const real *g_o, const real *k,
                                 const real *u, real *g_u, real *g_k) {
    memset(g_u, 0, (size_t)(width * LANES) * sizeof(real));
    ptrdiff_t d = 0;
    for (; d + 4 <= rows; d += 4)
        update_twice_and_sum_rows(G, width, d, 4, r, g_Delta, x, g_o, k, u, g_u, g_k);
    for (; d < rows; d++)
        update_twice_and_sum_rows(G, width, d, 1, r, g_Delta, x, g_o, k, u, g_u, g_k);
}

/* out = a, n entries: the rows here are too short for a call of memcpy to pay. */
static void copy(real *out, const real *a, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) store(out + i, load(a + i));
    for (; i < n; i++) out[i] = a[i];
}

/* a . b over `width` vectors. */
static real dot(const real *a, const real *b, ptrdiff_t width) {
    vector sum = splat(0);
    for (ptrdiff_t j = 0; j < width; j++) sum += load(a + j * LANES) * load(b + j * LANES);
    return sum_lanes(sum);
}

/* z += s b over `width` vectors. */
static void add_scaled(real *z, real s, const real *b, ptrdiff_t width) {
    vector s_all = splat(s);
    for (ptrdiff_t j = 0; j < width; j++)
        store(z + j * LANES, load(z + j * LANES) + s_all * load(b + j * LANES));
}

/* out = s a over `width` vectors. */
static void scale(real *out, real s, const real *a, ptrdiff_t width) {
    vector s_all = splat(s);
    for (ptrdiff_t j = 0; j < width; j++) store(out + j * LANES, s_all * load(a + j * LANES));
}

/* out = a - b over `width` vectors. */
static void subtract(real *out, const real *a, const real *b, ptrdiff_t width) {
    for (ptrdiff_t j = 0; j < width; j++)
        store(out + j * LANES, load(a + j * LANES) - load(b + j * LANES));
}

/* out = softmax(a) over `width` vectors; `padding` is 0 where a has an entry, -inf after its end. */
static void softmax(real *out, const real *a, const real *padding, ptrdiff_t width) {
    vector highest = load(a) + load(padding);
    for (ptrdiff_t j = 1; j < width; j++)
        highest = larger(highest, load(a + j * LANES) + load(padding + j * LANES));
    vector shift = splat(max_lanes(highest)), sum = splat(0);
    for (ptrdiff_t j = 0; j < width; j++) {
        vector e = exp_nonpositive(load(a + j * LANES) + load(padding + j * LANES) - shift);
        store(out + j * LANES, e);
        sum += e;
    }
    scale(out, 1 / sum_lanes(sum), out, width);
}

/* g <- q * (g - <g, q>): the gradient through q = softmax(.) over `width` vectors. */
static void softmax_backward(real *g, const real *q, ptrdiff_t width) {
    vector along = splat(dot(g, q, width));
    for (ptrdiff_t j = 0; j < width; j++)
        store(g + j * LANES, load(q + j * LANES) * (load(g + j * LANES) - along));
}

/* out = sigmoid(a) over `width` vectors, without overflow: exp only of -|a|. */
static void sigmoid(real *out, const real *a, ptrdiff_t width) {
    for (ptrdiff_t j = 0; j < width; j++) {
        vector v = load(a + j * LANES);
        vector_bits negative = is_less(v, splat(0));
        vector e = exp_nonpositive(select_bits(negative, v, -v));
        store(out + j * LANES, select_bits(negative, e, splat(1)) / (splat(1) + e));
    }
}

#endif
