// The sum rule, with and without a denominator. Letters and numbered steps: srwm/reference/sum_rule.py and
// srwm/reference/normalised_sum_rule.py. Nothing is saved of a step.
#ifndef SRWM_SUM_RULE_CUH
#define SRWM_SUM_RULE_CUH

#include "replayed.cuh"

constexpr bool NORMALISED = SRWM_VECTOR > 0; // by z, the vector of the state
constexpr int WIDER = D > M ? D : M;

// The factor of the outputs, and eps; without a denominator the factor is the only setting.
__device__ __forceinline__ real scale_of(const double *settings) { return real(settings[NORMALISED ? 1 : 0]); }
__device__ __forceinline__ real eps_of(const double *settings) { return NORMALISED ? real(settings[0]) : real(0); }

// The vectors of a step.
struct SumVectors {
    real *q, *k, *v, *r, *n; // (D), (D), (M), (M), (4)
    __device__ __forceinline__ SumVectors(real *from) {
        q = from, k = q + D_, v = k + D_, r = v + up_to(M, 4), n = r + up_to(M, 4);
    }
};

// Forward: steps 1 to 3. The vectors q, k and v of step t are there. write(c, y) gets the outputs.
template <class W>
__device__ __forceinline__ void sum_step(int rank, real *A, const SumVectors &of, const double *settings, W write) {
    real *const z = A + MATRIX;
    // 1  S <- S + k^T v   2  r = q S
    each(rank, M, [&](int c) {
        const real v_c = of.v[c];
        real sum[2] = {0, 0};
        auto add = [&](int i, real &e, real k_d, real q_d) { sum[i % 2] += q_d * (e += k_d * v_c); };
        change_column(A, c, add, of.k, of.q);
        const real r = sum[0] + sum[1];
        if (NORMALISED) of.r[c] = r;
        else write(c, scale_of(settings) * r);
    });
    if (NORMALISED) {
        // 1  z <- z + k   3  n = q . z + eps
        if (rank < 32) {
            real n = 0;
#pragma unroll 1
            for (int d = rank; d < D; d += 32) n += of.q[d] * (z[d] += of.k[d]);
            n = sum_over<32>(n);
            if (rank == 0) of.n[0] = n + eps_of(settings);
        }
        GROUP_SYNC();
        each(rank, M, [&](int c) { write(c, scale_of(settings) * of.r[c] / of.n[0]); });
    }
}

// Backward. Its vectors, behind those of a step: g_q, g_k (D). r is g_r here. The vectors q, k, v, and the scaled g_y in
// r, of step t are there. write_q(d, g), write_k(d, g), write_v(c, g) get the gradients.
template <class Q, class K, class V>
__device__ __forceinline__ void sum_step_backward(int rank, const real *before, real *G, const SumVectors &of,
                                                  const double *settings, Q write_q, K write_k, V write_v) {
    real *const g_z = G + MATRIX, *const g_q = of.n + 4, *const g_k = g_q + D_;
    const real *const z = before + MATRIX; // of the step before
    // 3'  n of this step, where z is z + k   2'  v . g_r, where g_r = g_y / n
    if (rank < 32) {
        real along = dot_of_warp(rank, of.v, of.r, M), n = 1;
        if (NORMALISED) n = dot_of_warp(rank, of.q, z, D) + dot_of_warp(rank, of.q, of.k, D) + eps_of(settings);
        if (rank == 0) of.n[0] = n, of.n[1] = along / n;
    }
    if (NORMALISED) GROUP_SYNC();
    // 2'  G += q^T g_r   1'  g_v = k G
    each(rank, M, [&](int c) {
        const real g_r = NORMALISED ? of.r[c] / of.n[0] : of.r[c];
        if (NORMALISED) of.r[c] = g_r;
        real sum[2] = {0, 0};
        auto add = [&](int i, real &e, real q_d, real k_d) { sum[i % 2] += k_d * (e += q_d * g_r); };
        change_column(G, c, add, of.q, of.k);
        write_v(c, sum[0] + sum[1]);
    });
    GROUP_SYNC();
    // 2'  g_q = g_r S^T, with the new S   1'  g_k = v G^T
    along_rows<LANES_OF_STACK>(rank, before, of.r, M, [&](int d, real sum) {
        const real g = sum + of.n[1] * of.k[d];
        if (NORMALISED) g_q[d] = g;
        else write_q(d, g);
    });
    along_rows<LANES_OF_STATE>(rank, G, of.v, M, [&](int d, real sum) {
        if (NORMALISED) g_k[d] = sum;
        else write_k(d, sum);
    });
    if (NORMALISED) {
        GROUP_SYNC();
        // 3'  g_n = -g_r . r / (n + eps), where g_r . r = q . g_q   2'  g_q += g_n z   g_z += g_n q   1'  g_k += g_z
        if (rank < 32) {
            const real g_n = -dot_of_warp(rank, of.q, g_q, D) / of.n[0];
#pragma unroll 1
            for (int d = rank; d < D; d += 32) {
                write_q(d, g_q[d] + g_n * (z[d] + of.k[d]));
                write_k(d, g_k[d] + (g_z[d] += g_n * of.q[d]));
            }
        }
    }
}

struct SumForward {
    States states;
    Array<const bool> reset, mask;
    state_storage *next, *next_vector;
    Array<const storage> q, k, v;
    storage *y;
    real *vectors;
    const double *settings;

    __device__ __forceinline__ void step(int rank, real *A, real *row, long long index, long long t, const Sequence &of,
                                         const Flags &flags) const {
        const SumVectors at(vectors);
        each(rank, WIDER, [&](int i) { // all is read before any is written
            const real q_i = i < D ? of.entry(q, t, i) : real(0), k_i = i < D ? of.entry(k, t, i) : real(0);
            const real v_i = i < M ? of.entry(v, t, i) : real(0);
            if (i < D) at.q[i] = q_i, at.k[i] = k_i;
            if (i < M) at.v[i] = v_i;
        });
        GROUP_SYNC();
        sum_step(rank, A, at, settings, [&](int c, real out) { narrow(out, y[index * DO + c]); });
    }
};

struct SumBackward {
    States states;
    Array<const bool> reset, mask;
    Array<const state_storage> grad_next, grad_next_vector;
    Array<const storage> q, k, v, grad_y;
    Array<SRWM_GRADIENT> gq, gk, gv;
    real *vectors;
    const double *settings;

    __device__ __forceinline__ void begin_chunk(int, const Chunks &, long long, const Sequence &) const {}
    __device__ __forceinline__ void end_chunk(int) const {}

    __device__ __forceinline__ real key(const real *, long long t, int d, const Sequence &of, const Flags &) const {
        return of.entry(k, t, d);
    }
    __device__ __forceinline__ real change(const real *, long long t, int c, const Sequence &of) const {
        return of.entry(v, t, c);
    }
    __device__ __forceinline__ real retention(const real *) const { return 1; }

    __device__ __forceinline__ void step(int rank, const real *before, real *G, const real *, long long t,
                                         const Sequence &of, const Flags &) const {
        const SumVectors at(vectors);
        each(rank, WIDER, [&](int i) {
            const real q_i = i < D ? of.entry(q, t, i) : real(0), k_i = i < D ? of.entry(k, t, i) : real(0);
            const real v_i = i < M ? of.entry(v, t, i) : real(0);
            const real g_i = i < M && grad_y.first != nullptr ? of.entry(grad_y, t, i) : real(0);
            if (i < D) at.q[i] = q_i, at.k[i] = k_i;
            if (i < M) at.v[i] = v_i, at.r[i] = scale_of(settings) * g_i;
        });
        GROUP_SYNC();
        sum_step_backward(
            rank, before, G, at, settings, [&](int d, real g) { narrow(g, of.part(gq)[t * D + d]); },
            [&](int d, real g) { narrow(g, of.part(gk)[t * D + d]); },
            [&](int c, real g) { narrow(g, of.part(gv)[t * M + c]); });
    }
};

#endif
