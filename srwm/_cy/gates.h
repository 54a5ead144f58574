/* Operations of a step on vectors over columns: sums, softmax, sigmoid. Widths are in vectors. */
#ifndef SRWM_GATES_H
#define SRWM_GATES_H

#include "lanes.h"

/* a . b, in every lane. */
INLINE vector dot_of(const real *a, const real *b, ptrdiff_t width) {
    vector sum[2] = {splat(0), splat(0)}; /* with one, each addition would wait for the previous one */
    ptrdiff_t j = 0;
    for (; j + 2 <= width; j += 2) {
        sum[0] += load(a + j * LANES) * load(b + j * LANES);
        sum[1] += load(a + (j + 1) * LANES) * load(b + (j + 1) * LANES);
    }
    if (j < width) sum[0] += load(a + j * LANES) * load(b + j * LANES);
    return sum_of(sum[0] + sum[1]);
}

INLINE void add_scaled_by(real *z, vector s, const real *b, ptrdiff_t width) {
    for (ptrdiff_t j = 0; j < width; j++) store(z + j * LANES, load(z + j * LANES) + s * load(b + j * LANES));
}

/* z (width) += (x . k) u: the correction of z = x W for a deferred update k^T u of W. x and k have `over`
   vectors. */
static void add_correction(real *z, const real *x, const real *k, ptrdiff_t over, const real *u,
                        ptrdiff_t width) {
    add_scaled_by(z, dot_of(x, k, over), u, width);
}

/* out = a - b. */
static void subtract(real *out, const real *a, const real *b, ptrdiff_t width) {
    for (ptrdiff_t j = 0; j < width; j++) store(out + j * LANES, load(a + j * LANES) - load(b + j * LANES));
}

/* out = -a. */
static void negate(real *out, const real *a, ptrdiff_t width) {
    for (ptrdiff_t j = 0; j < width; j++) store(out + j * LANES, -load(a + j * LANES));
}

/* out = s_i a, where s_i is factor i of s. */
static void scale(real *out, const real *s, ptrdiff_t i, const real *a, ptrdiff_t width) {
    vector s_i = factor(s, i);
    for (ptrdiff_t j = 0; j < width; j++) store(out + j * LANES, s_i * load(a + j * LANES));
}

/* z = x W and Delta = r W, for a W without `terms` deferred updates. Adds the corrections
   z += of_z . b   Delta += of_Delta . b,  with rows b that are `b_apart` entries apart. Then computes
   u = beta_i Delta, and the correction of z for the update of this step:  z += coming u. of_z, of_Delta and
   coming have a factor for each update. */
INLINE void finish_block(real *Delta, real *u, real *z, const real *beta, ptrdiff_t i, const int terms,
                         const real *b, ptrdiff_t b_apart, const real *of_Delta, const real *of_z,
                         const real *coming, ptrdiff_t width) {
    vector beta_i = factor(beta, i), x_k = factor(coming, 0);
    for (ptrdiff_t j = 0; j < width; j++) {
        vector Delta_j = load(Delta + j * LANES), z_j = load(z + j * LANES);
        for (int n = 0; n < terms; n++) {
            vector b_j = load(b + n * b_apart + j * LANES);
            Delta_j += factor(of_Delta, n) * b_j;
            z_j += factor(of_z, n) * b_j;
        }
        if (terms > 0) store(Delta + j * LANES, Delta_j);
        vector u_j = beta_i * Delta_j;
        store(u + j * LANES, u_j);
        store(z + j * LANES, z_j + x_k * u_j);
    }
}

static void finish(real *Delta, real *u, real *z, const real *beta, ptrdiff_t i, int terms, const real *b,
                   ptrdiff_t b_apart, const real *of_Delta, const real *of_z, const real *coming,
                   ptrdiff_t width) {
    if (terms == 0)
        finish_block(Delta, u, z, beta, i, 0, b, b_apart, of_Delta, of_z, coming, width);
    else
        finish_block(Delta, u, z, beta, i, 1, b, b_apart, of_Delta, of_z, coming, width);
}

/* The gradients through u = beta_i Delta:  g_Delta = beta_i g_u   factor i of g_beta = g_u . Delta. First
   adds the corrections for `terms` deferred terms to g_u: the rows b, each times its factor. */
INLINE void scale_backward_block(real *g_Delta, real *g_beta, ptrdiff_t i, const real *g_u, const int terms,
                                 const real *b, ptrdiff_t b_apart, const real *corrections, const real *beta,
                                 const real *Delta, ptrdiff_t width) {
    vector beta_i = factor(beta, i), sum = splat(0);
    for (ptrdiff_t j = 0; j < width; j++) {
        vector g = load(g_u + j * LANES);
        UNROLL for (int n = 0; n < terms; n++) g += factor(corrections, n) * load(b + n * b_apart + j * LANES);
        store(g_Delta + j * LANES, beta_i * g);
        sum += g * load(Delta + j * LANES);
    }
    put_factor(g_beta, i, sum_of(sum));
}

static void scale_backward(real *g_Delta, real *g_beta, ptrdiff_t i, const real *g_u, int terms, const real *b,
                           ptrdiff_t b_apart, const real *corrections, const real *beta, const real *Delta,
                           ptrdiff_t width) {
    if (terms == 0)
        scale_backward_block(g_Delta, g_beta, i, g_u, 0, b, b_apart, corrections, beta, Delta, width);
    else
        scale_backward_block(g_Delta, g_beta, i, g_u, 2, b, b_apart, corrections, beta, Delta, width);
}

/* out_i = a . b, where out_i is factor i of out. */
static void dot(real *out, ptrdiff_t i, const real *a, const real *b, ptrdiff_t width) {
    put_factor(out, i, dot_of(a, b, width));
}

/* Vector j of a, -inf where it is padding: `padding` is 0 where a has an entry, -inf after its end. */
INLINE vector load_but_padding(const real *a, const real *padding, ptrdiff_t j) {
#ifdef SRWM_MANY
    (void)padding; /* this layout has no padding */
    return load(a + j * LANES);
#else
    return load(a + j * LANES) + load(padding + j * LANES);
#endif
}

/* out = exp(a - highest), for n vectors of q and n of k; each is also added to a sum. */
INLINE void exps_of(real *out, const real *a, const real *padding, ptrdiff_t width, const int n,
                    const vector *highest, vector *sum) {
    vector e[4];
    UNROLL for (int i = 0; i < 2 * n; i++)
        e[i] = load_but_padding(a + i / n * width * LANES, padding, i % n) - highest[i / n];
    exp_nonpositive(e, 2 * n);
    UNROLL for (int i = 0; i < 2 * n; i++) {
        store(out + (i / n * width + i % n) * LANES, e[i]);
        sum[i] += e[i];
    }
}

/* [ q | k ] = softmax of each of [ q^ | k^ ], which have `width` vectors each. Both are computed together:
   each alone is a chain of dependent operations. */
static void softmaxes(real *out, const real *a, const real *padding, ptrdiff_t width) {
    vector highest[2], sum[4] = {splat(0), splat(0), splat(0), splat(0)};
    UNROLL for (int i = 0; i < 2; i++) highest[i] = load_but_padding(a + i * width * LANES, padding, 0);
    for (ptrdiff_t j = 1; j < width; j++)
        UNROLL for (int i = 0; i < 2; i++)
            highest[i] = larger(highest[i], load_but_padding(a + i * width * LANES, padding, j));
    UNROLL for (int i = 0; i < 2; i++) highest[i] = highest_of(highest[i]);
    ptrdiff_t j = 0;
    for (; j + 2 <= width; j += 2)
        exps_of(out + j * LANES, a + j * LANES, padding + j * LANES, width, 2, highest, sum);
    vector of_last[2] = {splat(0), splat(0)};
    if (j < width) exps_of(out + j * LANES, a + j * LANES, padding + j * LANES, width, 1, highest, of_last);
    vector inverse_q = splat(1) / sum_of(sum[0] + sum[1] + of_last[0]);
    vector inverse_k = splat(1) / sum_of(sum[2] + sum[3] + of_last[1]);
    real *q = out, *k = out + width * LANES;
    for (j = 0; j < width; j++) {
        store(q + j * LANES, inverse_q * load(q + j * LANES));
        store(k + j * LANES, inverse_k * load(k + j * LANES));
    }
}

/* out = q (g - <g, q>): the gradient through q = softmax(.). */
static void softmax_backward(real *out, const real *g, const real *q, ptrdiff_t width) {
    vector along = dot_of(g, q, width);
    for (ptrdiff_t j = 0; j < width; j++)
        store(out + j * LANES, load(q + j * LANES) * (load(g + j * LANES) - along));
}

/* `n` vectors of sigmoid(a). Only exp(-|a|) is computed, which cannot overflow. */
INLINE void sigmoids_of(real *out, const real *a, const int n) {
    vector e[4];
    UNROLL for (int i = 0; i < n; i++) {
        vector v = load(a + i * LANES);
        e[i] = select_bits(is_less(v, splat(0)), v, -v);
    }
    exp_nonpositive(e, n);
    UNROLL for (int i = 0; i < n; i++) {
        vector_bits negative = is_less(load(a + i * LANES), splat(0));
        store(out + i * LANES, select_bits(negative, e[i], splat(1)) / (splat(1) + e[i]));
    }
}

/* out = sigmoid(a). */
static void sigmoid(real *out, const real *a, ptrdiff_t width) {
    ptrdiff_t j = 0;
    for (; j + 4 <= width; j += 4) sigmoids_of(out + j * LANES, a + j * LANES, 4);
    for (; j < width; j++) sigmoids_of(out + j * LANES, a + j * LANES, 1);
}

/* out = g beta (1 - beta): the gradient through beta = sigmoid(.). */
static void sigmoid_backward(real *out, const real *g, const real *beta, ptrdiff_t width) {
    for (ptrdiff_t j = 0; j < width; j++) {
        vector b = load(beta + j * LANES);
        store(out + j * LANES, load(g + j * LANES) * b * (splat(1) - b));
    }
}

#endif
