/* How much a matrix may grow within a segment if its updates are undone. The kernels of the CPU have these
   limits, and by the launch configuration those of CUDA too. */
#ifndef SRWM_GROWTH_LIMITS_H
#define SRWM_GROWTH_LIMITS_H

/* Updates are undone if the matrix grew by at most this factor. */
#define GROWTH 16

/* Updates of the delta rule are undone if they were at most this many times as large as the entries of S
   at the first update. This is more than GROWTH: an S that begins at zero always grows by its first
   updates. */
#define ADDED_GROWTH 256

#endif
