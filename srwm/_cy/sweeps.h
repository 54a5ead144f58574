/* Sweeps over a matrix that stays in cache: each pass does as much as it can with each load and store.

   A matrix has `rows` rows of `width` vectors. A vector over its columns has the layout of a row; a vector
   over its rows has a factor for each row (lanes.h). Letters as in the operators' definitions: k, q, beta,
   Delta, u, G. Deferred updates are `terms` products a_i^T b_i; the a_i are contiguous in `a`, the b_i in
   `b`. A store takes longer than the products that share its load, so a matrix is written only every second
   step. */
#ifndef SRWM_SWEEPS_H
#define SRWM_SWEEPS_H

#include "lanes.h"

/* Columns of a block, in vectors. Two sums for each vector, and the rows of the terms, must fit into
   registers. Without terms, there are more sums than needed to hide the latency of a multiply-add. */
#if REGISTERS == 32
#define PRODUCT_BLOCK 8
#define UPDATE_BLOCK 4
#elif defined(SRWM_MANY)
#define PRODUCT_BLOCK 4
#define UPDATE_BLOCK 2
#else
#define PRODUCT_BLOCK 5 /* a row's factors are broadcast here: they take one register each */
#define UPDATE_BLOCK 2
#endif

/* Rows taken at a time if there are also sums along the rows. */
#define PRODUCT_ROWS 4
#define UPDATE_ROWS (REGISTERS / 8)

#define MOST_TERMS 4

/* Splits `width` vectors of columns into blocks of n vectors, n at most `block`, and calls f(n) for each;
   the block begins at vector c. The blocks are as equal as possible: sums in narrow blocks wait for each
   other. */
#define OVER_COLUMNS(width, block, f)                                       \
    do {                                                                     \
        if ((width) == 0) break; /* this member has no columns */ \
        const ptrdiff_t parts = ((width) + (block) - 1) / (block);           \
        const ptrdiff_t least = (width) / parts, wider = (width) % parts;    \
        for (ptrdiff_t part = 0, c = 0; part < parts; part++)                \
            switch (least + (part < wider)) {                                \
                case 8: f(8); c += 8; break;                                 \
                case 7: f(7); c += 7; break;                                 \
                case 6: f(6); c += 6; break;                                 \
                case 5: f(5); c += 5; break;                                 \
                case 4: f(4); c += 4; break;                                 \
                case 3: f(3); c += 3; break;                                 \
                case 2: f(2); c += 2; break;                                 \
                default: f(1); c += 1; break;                                \
            }                                                                \
    } while (0)

/* A += the terms;  p = r A;  z = x A  on `block` vectors of columns. Narrow blocks add up two rows at a
   time in separate sums: otherwise each addition would wait for the previous one. */
INLINE void multiply_block(real *A, ptrdiff_t rows, ptrdiff_t width, const int block, const int terms,
                           const real *a, const real *b, const real *r, const real *x, real *p, real *z) {
    vector b_row[2][8], p_sum[2][8], z_sum[2][8];
    const int together = terms == 0 && block <= 2 ? 2 : 1;
    UNROLL for (int j = 0; j < block; j++) {
        UNROLL for (int i = 0; i < terms; i++) b_row[i][j] = load(b + (i * width + j) * LANES);
        UNROLL for (int i = 0; i < together; i++) p_sum[i][j] = z_sum[i][j] = splat(0);
    }
    ptrdiff_t d = 0;
    for (; d + together <= rows; d += together) {
        UNROLL for (int n = 0; n < together; n++) {
            real *row = A + (d + n) * width * LANES;
            vector a_d[2], r_d = factor(r, d + n), x_d = factor(x, d + n);
            UNROLL for (int i = 0; i < terms; i++) a_d[i] = factor(a + i * vectors_for(rows) * LANES, d + n);
            UNROLL for (int j = 0; j < block; j++) {
                vector w = load(row + j * LANES);
                UNROLL for (int i = 0; i < terms; i++) w += a_d[i] * b_row[i][j];
                KEEP(w);
                if (terms > 0) store(row + j * LANES, w);
                p_sum[n][j] += r_d * w;
                z_sum[n][j] += x_d * w;
            }
        }
    }
    if (d < rows) { /* the last row of an odd number; there are no terms */
        UNROLL for (int j = 0; j < block; j++) {
            vector w = load(A + d * width * LANES + j * LANES);
            p_sum[0][j] += factor(r, d) * w;
            z_sum[0][j] += factor(x, d) * w;
        }
    }
    UNROLL for (int j = 0; j < block; j++) {
        store(p + j * LANES, together == 2 ? p_sum[0][j] + p_sum[1][j] : p_sum[0][j]);
        store(z + j * LANES, together == 2 ? z_sum[0][j] + z_sum[1][j] : z_sum[0][j]);
    }
}

/* p (width) = r A;  z (width) = x A. */
static void multiply_twice(real *A, ptrdiff_t rows, ptrdiff_t width, const real *r, const real *x, real *p,
                           real *z) {
#define STRIP(block) \
    multiply_block(A + c * LANES, rows, width, block, 0, NULL, NULL, r, x, p + c * LANES, z + c * LANES)
    OVER_COLUMNS(width, PRODUCT_BLOCK, STRIP);
#undef STRIP
}

/* A (rows, width) += the terms (1 or 2);  p (width) = r A;  z (width) = x A,  with the new A. */
static void update_and_multiply(real *A, ptrdiff_t rows, ptrdiff_t width, int terms, const real *a,
                                const real *b, const real *r, const real *x, real *p, real *z) {
#define STRIP(block, terms)                                                                             \
    multiply_block(A + c * LANES, rows, width, block, terms, a, b + c * LANES, r, x, p + c * LANES, \
                   z + c * LANES)
#define STRIP_1(block) STRIP(block, 1)
#define STRIP_2(block) STRIP(block, 2)
    if (terms == 1)
        OVER_COLUMNS(width, UPDATE_BLOCK, STRIP_1);
    else
        OVER_COLUMNS(width, UPDATE_BLOCK, STRIP_2);
#undef STRIP_2
#undef STRIP_1
#undef STRIP
}

/* z = x A  on `block` vectors of columns. */
INLINE void multiply_once_block(const real *A, ptrdiff_t rows, ptrdiff_t width, const int block,
                                const real *x, real *z) {
    vector z_sum[8];
    UNROLL for (int j = 0; j < block; j++) z_sum[j] = splat(0);
    for (ptrdiff_t d = 0; d < rows; d++) {
        const real *row = A + d * width * LANES;
        vector x_d = factor(x, d);
        UNROLL for (int j = 0; j < block; j++) z_sum[j] += x_d * load(row + j * LANES);
    }
    UNROLL for (int j = 0; j < block; j++) store(z + j * LANES, z_sum[j]);
}

/* z (width) = x A. */
static void multiply(const real *A, ptrdiff_t rows, ptrdiff_t width, const real *x, real *z) {
#define STRIP(block) multiply_once_block(A + c * LANES, rows, width, block, x, z + c * LANES)
    OVER_COLUMNS(width, 8, STRIP);
#undef STRIP
}

INLINE void update_by(real *A, ptrdiff_t rows, ptrdiff_t width, const int terms, const real *a,
                      const real *b) {
    for (ptrdiff_t d = 0; d < rows; d++) {
        real *row = A + d * width * LANES;
        vector a_d[MOST_TERMS];
        UNROLL for (int i = 0; i < terms; i++) a_d[i] = factor(a + i * vectors_for(rows) * LANES, d);
        for (ptrdiff_t j = 0; j < width; j++) {
            vector w = load(row + j * LANES);
            UNROLL for (int i = 0; i < terms; i++) w += a_d[i] * load(b + (i * width + j) * LANES);
            store(row + j * LANES, w);
        }
    }
}

/* A (rows, width) += the terms (1, 2 or 4; with 0 terms A does not change). */
static void update(real *A, ptrdiff_t rows, ptrdiff_t width, int terms, const real *a, const real *b) {
    if (terms == 1)
        update_by(A, rows, width, 1, a, b);
    else if (terms == 2)
        update_by(A, rows, width, 2, a, b);
    else if (terms == 4)
        update_by(A, rows, width, 4, a, b);
}

/* G += the terms on `together` rows from row d on;  g_u += k G;  g_k = G u. */
INLINE void multiply_rows(real *G, ptrdiff_t rows, ptrdiff_t width, ptrdiff_t d, const int together,
                          const int terms, const real *a, const real *b, const real *k, const real *u,
                          real *g_u, real *g_k) {
    vector a_d[MOST_TERMS][4], k_d[4], sum[4];
    UNROLL for (int n = 0; n < together; n++) {
        UNROLL for (int i = 0; i < terms; i++) a_d[i][n] = factor(a + i * vectors_for(rows) * LANES, d + n);
        k_d[n] = factor(k, d + n);
        sum[n] = splat(0);
    }
    for (ptrdiff_t j = 0; j < width; j++) {
        vector u_j = load(u + j * LANES), g_u_j = load(g_u + j * LANES);
        UNROLL for (int n = 0; n < together; n++) {
            real *entry = G + ((d + n) * width + j) * LANES;
            /* two short chains of additions: a step would wait for one long chain */
            vector g = load(entry), rest = splat(0);
            UNROLL for (int i = 0; i < terms; i += 2) {
                g += a_d[i][n] * load(b + (i * width + j) * LANES);
                rest += a_d[i + 1][n] * load(b + ((i + 1) * width + j) * LANES);
            }
            if (terms > 0) g += rest;
            KEEP(g);
            if (terms > 0) store(entry, g);
            g_u_j += k_d[n] * g;
            sum[n] += g * u_j;
        }
        store(g_u + j * LANES, g_u_j);
    }
#ifndef SRWM_MANY
    if (together == 4) {
        sum_lanes_of_4(sum[0], sum[1], sum[2], sum[3], g_k + d);
        return;
    }
#endif
    UNROLL for (int n = 0; n < together; n++) put_factor(g_k, d + n, sum_of(sum[n]));
}

/* All rows: `together` at a time, then the rest one by one. */
#define OVER_ROWS(together, terms)                                                              \
    do {                                                                                        \
        ptrdiff_t d = 0;                                                                        \
        for (; d + (together) <= rows; d += (together))                                         \
            multiply_rows(G, rows, width, d, together, terms, a, b, k, u, g_u, g_k);            \
        for (; d < rows; d++) multiply_rows(G, rows, width, d, 1, terms, a, b, k, u, g_u, g_k); \
    } while (0)

/* G (rows, width) += the terms (0, 2 or 4);  g_u (width) = k G;  g_k (rows) = G u,  with the new G. */
static void update_and_multiply_both(real *G, ptrdiff_t rows, ptrdiff_t width, int terms, const real *a,
                                     const real *b, const real *k, const real *u, real *g_u, real *g_k) {
    memset(g_u, 0, (size_t)(width * LANES) * sizeof(real));
    if (terms == 0)
        OVER_ROWS(PRODUCT_ROWS, 0);
    else if (terms == 2)
        OVER_ROWS(UPDATE_ROWS, 2);
    else
        OVER_ROWS(UPDATE_ROWS, 4);
}

/* A (rows, width), with rows `apart` entries apart -> its transpose (columns, out_width). Each column of A
   becomes a row, also the columns of padding. */
static void transpose(real *out, ptrdiff_t out_width, const real *A, ptrdiff_t apart, ptrdiff_t rows,
                      ptrdiff_t width) {
#ifdef SRWM_MANY
    for (ptrdiff_t d = 0; d < rows; d++)
        for (ptrdiff_t j = 0; j < width; j++)
            store(out + (j * out_width + d) * LANES, load(A + d * apart + j * LANES));
#else
    for (ptrdiff_t d = 0; d < rows; d += LANES)
        for (ptrdiff_t j = 0; j < width; j++) {
            vector block[VECTOR_BYTES / sizeof(real)];
            UNROLL for (ptrdiff_t i = 0; i < LANES; i++)
                block[i] = d + i < rows ? load(A + (d + i) * apart + j * LANES) : splat(0);
            transpose_lanes(block);
            UNROLL for (ptrdiff_t i = 0; i < LANES; i++)
                store(out + ((j * LANES + i) * out_width + d / LANES) * LANES, block[i]);
        }
#endif
}

#endif
