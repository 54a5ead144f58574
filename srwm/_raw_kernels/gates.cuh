// The packed self-referential weight matrix: where its blocks of columns begin, and their rates.
#ifndef SRWM_GATES_CUH
#define SRWM_GATES_CUH

#include "arrays.cuh"

// Columns of W: [ y : DO | q : D | k : D | beta : 4 ].
constexpr int Q = DO, K = DO + D, BETA = DO + 2 * D;
static_assert(M == BETA + 4, "M is Do + 2 D + 4");

// Entries saved of a step for backward: [ q : D | k : D | beta : 4 | Delta : M ].
constexpr int SAVED_OF_STEP = 2 * D + 4 + M;

// The index of the rate that scales the update of column c: 0 for y, 1 for q, 2 for k, 3 for beta.
__device__ __forceinline__ int rate_of(int c) { return (c >= Q) + (c >= K) + (c >= BETA); }

// For very negative a, exp(-a) is infinite and the result is 0.
__device__ __forceinline__ real sigmoid(real a) { return inverse(1 + exp(-a)); }

#endif
