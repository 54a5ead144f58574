/* What the lanes of a vector are. The same code is compiled in two layouts.

   One sequence at a time (the default): lanes are neighbouring columns. A vector over n columns is
   padded with zeros to whole vectors; a row's factor is one number, the same for all lanes.

   LANES sequences side by side (SRWM_MANY): lane i of everything belongs to sequence i. A vector over
   n columns is n vectors, without padding; factors differ from lane to lane, and a sum over columns
   needs no other lane. This layout is for many small heads.

   In both layouts n columns take `vectors_for(n)` vectors, and their factor i is `factor(a, i)`. */
#ifndef SRWM_LANES_H
#define SRWM_LANES_H

#include "vectors.h"

#ifdef SRWM_MANY
#define SEQUENCES LANES
#define SEQUENCES_AT_MOST (VECTOR_BYTES / sizeof(real)) /* a constant expression, for the sizes of arrays */
#else
#define SEQUENCES ((ptrdiff_t)1)
#define SEQUENCES_AT_MOST 1
#endif

/* Entries from one factor to the next. */
#define STRIDE SEQUENCES

INLINE ptrdiff_t vectors_for(ptrdiff_t n) { return (n * SEQUENCES + LANES - 1) / LANES; }

#ifdef SRWM_MANY
INLINE vector factor(const real *a, ptrdiff_t i) { return load(a + i * LANES); }
INLINE void put_factor(real *a, ptrdiff_t i, vector v) { store(a + i * LANES, v); }
/* Sum and maximum over the lanes of one sequence. Each of its lanes gets the result. */
INLINE vector sum_of(vector a) { return a; }
INLINE vector highest_of(vector a) { return a; }
#else
INLINE vector factor(const real *a, ptrdiff_t i) { return splat(a[i]); }
INLINE void put_factor(real *a, ptrdiff_t i, vector v) { memcpy(a + i, &v, sizeof *a); }
INLINE vector sum_of(vector a) { return splat(sum_lanes(a)); }
INLINE vector highest_of(vector a) { return splat(max_lanes(a)); }
#endif

#endif
