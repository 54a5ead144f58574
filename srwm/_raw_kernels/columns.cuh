// The columns of the matrix that a thread owns in a forward pass: `first`, `first` + GROUP, and so on.
//
//   SRWM_COLUMNS   columns of a thread
//   SRWM_HELD      quads of rows in registers
//   SRWM_NEAR      quads before these, in shared memory; the ones before those are in working memory
#ifndef SRWM_COLUMNS_CUH
#define SRWM_COLUMNS_CUH

#include "group.cuh"

constexpr int COLUMNS = SRWM_COLUMNS;
constexpr int D_ = up_to(D, 4); // padded size of a vector over rows; the padding is zero

typedef Part<COLUMNS, D_ / 4, SRWM_HELD, SRWM_NEAR> Columns;
static_assert(Columns::WORKING == SRWM_WORKING, "working memory of another size");

// The number of the thread's column j.
__device__ __forceinline__ int column(int first, int j) { return j * GROUP + first; }

template <class T>
__device__ __forceinline__ void read_columns(Columns &matrix, Source<T> from, int first) {
    matrix.change([&](int g, real (&e)[COLUMNS][4]) {
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            const int c = column(first, j);
            // One pointer moves down the column: a pointer for each entry would take registers from the matrix.
            const T *at = from.first + opaque(g * 4 * from.row + c * from.entry);
#pragma unroll
            for (int i = 0; i < 4; i++, at += from.row)
                e[j][i] = g * 4 + i < D && c < M ? widen(*at) : real(0);
            one_at_a_time();
        }
    });
}

template <class T>
__device__ __forceinline__ void write_columns(Columns &matrix, T *out, int first) {
    matrix.read([&](int g, real (&e)[COLUMNS][4]) {
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            const int c = column(first, j);
            T *at = out + opaque(g * 4 * M + c);
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (g * 4 + i < D && c < M) narrow(e[j][i], at[i * M]);
            one_at_a_time();
        }
    });
}

#endif
