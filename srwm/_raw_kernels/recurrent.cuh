// What the two recurrences with fast weights share: the delta rule on a state of a matrix and a vector, the last output.
#ifndef SRWM_RECURRENT_CUH
#define SRWM_RECURRENT_CUH

#include "replayed.cuh"

static_assert(M == D && DO == D, "their matrices are square");

// Column c of  Delta = v - k A   u = beta Delta   A <- A + k^T u  -> r A, with the new A. OUT: Delta.
__device__ __forceinline__ real delta_column(real *A, const real *k, const real *r, real v, real beta, int c, real &Delta) {
    Delta = v - product(k, A, c);
    const real u = beta * Delta;
    real sum[2] = {0, 0};
    auto add = [&](int i, real &e, real k_d, real r_d) { sum[i % 2] += r_d * (e += k_d * u); };
    change_column(A, c, add, k, r);
    return sum[0] + sum[1];
}

// The vectors of a step backward, each (D) but the last.
struct DeltaVectors {
    real *r, *k, *Delta, *g, *u, *g_u, *g_v, *g_r, *g_k, *along, *sums;
    __device__ __forceinline__ DeltaVectors(real *from) {
        real **const all[] = {&r, &k, &Delta, &g, &u, &g_u, &g_v, &g_r, &g_k, &along, &sums};
#pragma unroll
        for (int i = 0; i < 11; i++) *all[i] = from + i * D_;
    }
    static constexpr int ENTRIES = 10 * D_ + 4;
    __device__ __forceinline__ real *end() const { return sums + 4; }
};

// Backward through that: r, k, Delta and g, the gradient of the outputs r A, are there. OUT: g_v, sums[2], the gradient of
// beta, and g_r and g_k without  g_r += sums[0] k   g_k += sums[1] k - along. Ends with a barrier.
__device__ __forceinline__ void delta_step_backward(int rank, const real *before, real *G, const DeltaVectors &of, real beta) {
    // G += r^T g   g_u = k G   g_v = beta g_u   G -= k^T g_v
    each(rank, M, [&](int c) {
        const real g = of.g[c];
        real sum[2] = {0, 0};
        auto add = [&](int i, real &e, real r_d, real k_d) { sum[i % 2] += k_d * (e += r_d * g); };
        change_column(G, c, add, of.r, of.k);
        const real g_u = sum[0] + sum[1], g_v = beta * g_u;
        change_column(G, c, [&](int, real &e, real k_d) { e -= k_d * g_v; }, of.k);
        of.u[c] = beta * of.Delta[c], of.g_u[c] = g_u, of.g_v[c] = g_v;
    });
    GROUP_SYNC();
    // g_r = g A'^T, where A' = A + k^T u.  g_k = u G^T with the G before k^T g_v was subtracted, less g_v A^T
    along_rows<LANES_OF_STACK>(rank, before, of.g, M, [&](int d, real sum) { of.g_r[d] = sum; });
    along_rows<LANES_OF_STACK>(rank, before, of.g_v, M, [&](int d, real sum) { of.along[d] = sum; });
    along_rows<LANES_OF_STATE>(rank, G, of.u, M, [&](int d, real sum) { of.g_k[d] = sum; });
    if (rank < 32) {
        const real u_g = dot_of_warp(rank, of.u, of.g, M), u_g_v = dot_of_warp(rank, of.u, of.g_v, M);
        const real g_beta = dot_of_warp(rank, of.g_u, of.Delta, M);
        if (rank == 0) of.sums[0] = u_g, of.sums[1] = u_g_v, of.sums[2] = g_beta;
    }
    GROUP_SYNC();
}

#endif
