// The columns of the matrix that a thread owns in a forward pass: every TEAM-th, from `first` on.
//
//   SRWM_COLUMNS   columns of a thread
//   SRWM_HELD      groups of four rows of them in registers
//   SRWM_NEAR      groups before these in shared memory; others are in the working memory
#ifndef SRWM_COLUMNS_CUH
#define SRWM_COLUMNS_CUH

#include "team.cuh"

constexpr int COLUMNS = SRWM_COLUMNS;
constexpr int D_ = up_to(D, 4); // entries of a vector over rows, padded with zeros

typedef Part<COLUMNS, D_ / 4, SRWM_HELD, SRWM_NEAR> Columns;
static_assert(Columns::REST == SRWM_REST, "working memory of another size");

// The last argument of a forward kernel whose arrays have so many views.
template <int n>
struct ForwardSizes {
    long long sequences, steps, segments;
    long long cached; // whether all sequences begin with one matrix, of which a block has a copy
    Axes lead;
    View views[n];
};

// Column j of the thread.
__device__ __forceinline__ int column(int first, int j) { return j * TEAM + first; }

template <class T>
__device__ __forceinline__ void read_columns(Columns &matrix, Source<T> from, int first) {
    matrix.change([&](int g, real (&e)[COLUMNS][4]) {
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            const int c = column(first, j);
            // One address goes down the column: each on its own they would take the registers of the matrix.
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
