// The two roles that a thread has in a backward pass.
//
// Sums along columns (k G) want whole columns in a thread, sums along rows (G u, W g) whole rows. In the
// one role a thread owns parts of rows of the state W and of its gradient G, and a row's LANES lanes add
// up by shuffles; in the other it owns parts of columns of a second G, which gets the same updates.
//
//   SRWM_LANES         neighbouring lanes that share a row of W and G
//   SRWM_HELD_ROWS     groups of four columns of a row's part in registers, the others in memory
//   SRWM_SPLIT         neighbouring lanes that share a column of G
//   SRWM_HELD_COLUMNS  groups of four rows of a column's part in registers, the others in memory
#ifndef SRWM_ROLES_CUH
#define SRWM_ROLES_CUH

#include "team.cuh"

constexpr int LANES = SRWM_LANES, SPLIT = SRWM_SPLIT;
constexpr int COLUMNS_AT_ONCE = TEAM / SPLIT, COLUMNS = (M + COLUMNS_AT_ONCE - 1) / COLUMNS_AT_ONCE;
constexpr int M_ = up_to(M, 4 * LANES); // entries of a vector over columns, padded with zeros
constexpr int D_ = up_to(D, 4 * SPLIT); // entries of a vector over rows, padded with zeros

// Line 0 is W's, line 1 is G's: both are multiplied by the same vectors.
typedef Part<2, M_ / (4 * LANES), SRWM_HELD_ROWS> Rows;
typedef Part<COLUMNS, D_ / (4 * SPLIT), SRWM_HELD_COLUMNS> Columns;
static_assert(TEAM / LANES >= D, "rows without a thread");

// Which sequences share a weight, and in which pieces its gradient is summed.
struct Pieces {
    long long pieces;  // for each weight its chunks of sequences
    long long chunks;  // of a weight
    long long run;     // sequences of a chunk
    long long sharing; // sequences of a weight
};

// Where the thread's entries are.
struct Place {
    int rank;
    __device__ __forceinline__ int row() const { return rank / LANES; }
    __device__ __forceinline__ int column_of_group(int g) const { return 4 * (g * LANES + rank % LANES); }
    __device__ __forceinline__ int column(int j) const { return j * COLUMNS_AT_ONCE + rank / SPLIT; }
    __device__ __forceinline__ int row_of_group(int g) const { return 4 * (g * SPLIT + rank % SPLIT); }
};

// One line of `rows` = f(d, c, entry) for entries of the matrix, 0 beyond.
template <int line, class F>
__device__ __forceinline__ void each_of_rows(Rows &rows, Place at, F f) {
    rows.change([&](int g, real (&e)[2][4]) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int d = at.row(), c = at.column_of_group(g) + i;
            e[line][i] = d < D && c < M ? f(d, c, e[line][i]) : real(0);
        }
    });
}

// W = a matrix (D, M).
__device__ __forceinline__ void set_W(Rows &rows, Place at, const real *W) {
    each_of_rows<0>(rows, at, [&](int d, int c, real) { return W[d * M + c]; });
}

// W = f(d, c).
template <class F>
__device__ __forceinline__ void set_W(Rows &rows, Place at, F f) {
    each_of_rows<0>(rows, at, [&](int d, int c, real) { return f(d, c); });
}

// G in both its forms = f(d, c).
template <class F>
__device__ __forceinline__ void set_G(Rows &rows, Columns &columns, Place at, F f) {
    each_of_rows<1>(rows, at, [&](int d, int c, real) { return f(d, c); });
    columns.change([&](int g, real (&e)[COLUMNS][4]) {
#pragma unroll
        for (int j = 0; j < COLUMNS; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int d = at.row_of_group(g) + i, c = at.column(j);
                e[j][i] = d < D && c < M ? f(d, c) : real(0);
            }
    });
}

// gW (D, M) = or += G; every entry has one thread, at every call the same.
__device__ __forceinline__ void add_G(Rows &rows, Place at, real *gW, bool first) {
    each_of_rows<1>(rows, at, [&](int d, int c, real g) {
        real *to = gW + d * M + c;
        *to = g + (first ? real(0) : *to);
        return g;
    });
}

// Sums over columns: out[c] of the thread's columns = sum over d of a[d] G[d, c].
__device__ __forceinline__ void multiply_G(const Columns &columns, Place at, const real *a, real (&out)[COLUMNS]) {
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) out[j] = 0;
    columns.read([&](int g, const real (&e)[COLUMNS][4]) {
        real a_[4];
        load4(a + at.row_of_group(g), a_);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) out[j] += a_[i] * e[j][i];
    });
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) out[j] = sum_over<SPLIT>(out[j]);
}

// The state before step `end`: from the last one kept before it, or the initial one where there is none
// or a later reset, by doing the updates since again. initial(d, c), kept(segment), update(t, d, c).
template <class I, class S, class U>
__device__ __forceinline__ void replay(Rows &rows, Place at, long long end, const bool *reset, long long reset_row,
                                       I initial, S kept, U update) {
    long long begin = (end - 1) / SEGMENT * SEGMENT, after = begin / SEGMENT - 1;
    for (long long t = begin; reset != nullptr && t < end; t++)
        if (reset[t * reset_row]) begin = t, after = -1;
    if (after < 0) set_W(rows, at, initial);
    else set_W(rows, at, kept(after));
    for (long long t = begin; t < end; t++)
        each_of_rows<0>(rows, at, [&](int d, int c, real w) { return w + update(t, d, c); });
}

#endif
