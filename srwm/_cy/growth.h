/* How much a matrix may have grown within a segment. Backward undoes its updates. That leaves an error in
   proportion to the largest matrix of the segment. If the matrix grew much, its early entries are lost in
   that error; then backward recomputes them from the matrix saved at the start of the segment.

   Forward measures growth by a few sums a step. They are vectors, whose lanes are added up at the end. */
#ifndef SRWM_GROWTH_H
#define SRWM_GROWTH_H

#include <float.h>

#include "gates.h"
#include "growth_limits.h"

#ifdef SRWM_DOUBLE
#define LARGEST DBL_MAX
#else
#define LARGEST FLT_MAX
#endif

INLINE int is_any(vector_bits mask) {
    real_bits lanes[VECTOR_BYTES / sizeof(real)];
    real_bits any = 0;
    memcpy(lanes, &mask, sizeof lanes);
    for (ptrdiff_t i = 0; i < LANES; i++) any |= lanes[i];
    return any != 0;
}

/* sum (one vector) += a^2. */
static void add_squares(real *sum, const real *a, ptrdiff_t width) {
    vector total = load(sum);
    for (ptrdiff_t j = 0; j < width; j++) {
        vector a_j = load(a + j * LANES);
        total += a_j * a_j;
    }
    store(sum, total);
}

/* Whether any of n blocks may have grown by more than GROWTH. Updates add at most the sum of their norms,
   which is at most sqrt(steps * the sum of their squares). `start` is the sum of squares of the block at
   the start. */
static int has_grown(const real *updates, const real *start, ptrdiff_t n, ptrdiff_t steps) {
    const real limit = (real)((GROWTH - 1) * (GROWTH - 1)) / (real)steps;
    int grown = 0;
    for (ptrdiff_t i = 0; i < n; i++)
        grown |= is_any(is_less(splat(limit) * sum_of(load(start + i * LANES)),
                                sum_of(load(updates + i * LANES))));
    return grown;
}

/* A step of the delta rule multiplies S by I - beta k^T k, which is the factor |1 - beta k^2| along k, and
   adds beta k^T v. PRODUCT is the product of the factors above 1. UPDATES is the sum of the squares of the
   updates. START is the square of what S held when it was first updated, (v_bar^2 + Delta^2) / k^2;
   infinity until then. */
enum { PRODUCT, UPDATES, START, DELTA_GROWTHS };

static void measure_step(real *growth, const real *beta, const real *k, ptrdiff_t d, const real *v_bar,
                         const real *Delta, const real *u, ptrdiff_t o) {
    vector k_2 = dot_of(k, k, d), along = splat(1) - factor(beta, 0) * k_2, u_2 = splat(0);
    along = select_bits(is_less(along, splat(0)), -along, along);
    along = select_bits(is_less(splat(1), along), along, splat(1));
    store(growth + PRODUCT * LANES, load(growth + PRODUCT * LANES) * along);
    for (ptrdiff_t j = 0; j < o; j++) {
        vector u_j = load(u + j * LANES);
        u_2 += u_j * u_j;
    }
    store(growth + UPDATES * LANES, load(growth + UPDATES * LANES) + k_2 * u_2);
    int is_any_open = 0;
    for (ptrdiff_t i = 0; i < SEQUENCES; i++) is_any_open |= growth[START * LANES + i] > LARGEST;
    if (is_any_open) {
        vector start = load(growth + START * LANES);
        vector_bits is_open = is_less(splat(LARGEST), start);
        vector Delta_2 = dot_of(Delta, Delta, o), v_bar_2 = dot_of(v_bar, v_bar, o);
        vector_bits begins = is_open & is_less(splat(0), k_2 * sum_of(u_2));
        store(growth + START * LANES, select_bits(begins, (Delta_2 + v_bar_2) / k_2, start));
    }
}

static int has_delta_grown(const real *growth) {
    vector limit = splat((real)ADDED_GROWTH * ADDED_GROWTH) * load(growth + START * LANES);
    return is_any(is_less(splat(GROWTH), load(growth + PRODUCT * LANES)) |
                  is_less(limit, sum_of(load(growth + UPDATES * LANES))));
}

#endif
