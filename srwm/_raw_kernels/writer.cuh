// Matrices that write themselves: what the memory that modifies itself, with and without a query from outside, and the
// self-referential weight matrix whose output reads another input have in common. Letters and numbered steps:
// srwm/reference/self_modifying.py, srwm/reference/srwm_read.py.
//
// A step reads o = x W, makes of it a key k, a vector r, rates, a retention alpha and what reads the output, and computes
//
//     y = read W_y   Delta = r W   u = rates Delta   W <- alpha W + k^T u,   all with the W before the step.
//
// For the memory r is a v - c k, and there is one rate; for the self-referential matrix r is q - k with a rate for each
// block, and alpha is 1. What differs stands in `SelfModifying` and `SelfReferential`.
//
// Saved of a step: [ k : D | r : D | read : D | Delta : M | scalars ]. The scalars of the memory are the rate, its slope,
// alpha, and the two factors of the gradient through the normalisation of k; those of the self-referential matrix are
// beta : 4, then q : D.
#ifndef SRWM_WRITER_CUH
#define SRWM_WRITER_CUH

#include "replayed.cuh"

constexpr int M_ = up_to(M, 4);
enum { OF_K = 0, OF_R = D, OF_READ = 2 * D, OF_DELTA = 3 * D, OF_SCALARS = 3 * D + M };
enum { RATE, SLOPE, ALPHA, PER, ALONG };
enum { SETTING_A, SETTING_C, SETTING_KEYS, SETTING_RATE, SETTING_RATE_SCALE, SETTING_EPS };

// The vectors of a step: x, k, r, read, q (D), o (M), scalars (8); backward also g_k, g_r, g_read (D), and u, g_u, g_Delta,
// g_y, g_W (M).
struct WriterVectors {
    real *x, *k, *r, *read, *q, *o, *scalars, *g_k, *g_r, *g_read, *u, *g_u, *g_Delta, *g_y, *g_W;
    __device__ __forceinline__ WriterVectors(real *from) {
        x = from, k = x + D_, r = k + D_, read = r + D_, q = read + D_, o = q + D_, scalars = o + M_;
        g_k = scalars + 8, g_r = g_k + D_, g_read = g_r + D_;
        u = g_read + D_, g_u = u + M_, g_Delta = g_u + M_, g_y = g_Delta + M_, g_W = g_y + M_;
    }
};

// The memory that modifies itself, with columns [ y : DO | k : D | v : D | eta : 1 | alpha : 1 | q : D ]; the last block
// only if the query does not come from outside.
template <bool OUTSIDE>
struct SelfModifying {
    static constexpr int K = DO, V = DO + D, ETA = DO + 2 * D, ALPHA_HAT = ETA + 1, Q = ETA + 2;
    static constexpr bool READS_OUTSIDE = OUTSIDE, RETAINS = true;
    static_assert(M == DO + (OUTSIDE ? 2 : 3) * D + 2, "M is Do + 3 D + 2, or Do + 2 D + 2 with a query from outside");

    __device__ static __forceinline__ real rate(const real *scalars, int) { return scalars[RATE]; }

    // 2  k, r, the scalars and read. It ends without a barrier.
    __device__ static __forceinline__ void gates(int rank, const WriterVectors &at, bool is_real, const double *settings) {
        const real *const o = at.o;
        const int lane = rank % 32;
        if (rank < 32) {
            if (settings[SETTING_KEYS] == 0) {
                const real length = sqrt(dot_of_warp(lane, o + K, o + K, D)), eps = real(settings[SETTING_EPS]);
                const bool is_short = length <= eps;
                const real per = 1 / (is_short ? eps : length);
                for (int d = lane; d < D; d += 32) at.k[d] = o[K + d] * per;
                if (lane == 0) at.scalars[PER] = per, at.scalars[ALONG] = is_short ? 0 : 1;
            } else {
                softmax_of_warp(lane, at.k, o + K, 0);
                if (lane == 0) at.scalars[PER] = at.scalars[ALONG] = 0;
            }
            const real a = real(settings[SETTING_A]), c = real(settings[SETTING_C]);
            for (int d = lane; d < D; d += 32) at.r[d] = a * o[V + d] - c * at.k[d];
        }
        if (rank == GROUP - 1) {
            const real scale = real(settings[SETTING_RATE_SCALE]), eta = o[ETA], sigma = sigmoid(eta);
            const bool is_softplus = settings[SETTING_RATE] == 0;
            const real softplus = (eta > 0 ? eta : real(0)) + log1p(exp(-fabs(eta)));
            at.scalars[RATE] = is_real ? scale * (is_softplus ? softplus : sigma) : real(0);
            at.scalars[SLOPE] = is_real ? scale * (is_softplus ? sigma : sigma * (1 - sigma)) : real(0);
            at.scalars[ALPHA] = is_real ? sigmoid(o[ALPHA_HAT]) : real(1);
        }
        if (!OUTSIDE) each(rank, D, [&](int d) { at.read[d] = o[(OUTSIDE ? 0 : Q) + d]; });
    }

    __device__ static __forceinline__ void save_scalars(int rank, real *to, const WriterVectors &at) {
        each(rank, 5, [&](int i) { to[i] = at.scalars[i]; });
    }
    __device__ static __forceinline__ void load_scalars(int rank, const real *from, const WriterVectors &at) {
        each(rank, 5, [&](int i) { at.scalars[i] = from[i]; });
    }

    // 2', of g_k without the part of r, g_r, g_read, g_u and g_W: g_o, and 3' of what r is made of. `g_W` are the parts of
    // <G, W> of each column.
    __device__ static __forceinline__ void gates_backward(int rank, real *g_o, const WriterVectors &at,
                                                          const real *Delta, const double *settings) {
        const real a = real(settings[SETTING_A]), c = real(settings[SETTING_C]);
        const int lane = rank % 32;
        if (is_of_warp(rank, 0)) {
            for (int d = lane; d < D; d += 32) at.g_k[d] -= c * at.g_r[d];
            if (settings[SETTING_KEYS] == 0) {
                const real along = at.scalars[ALONG] * dot_of_warp(lane, at.g_k, at.k, D);
                for (int d = lane; d < D; d += 32)
                    g_o[K + d] = at.scalars[PER] * (at.g_k[d] - along * at.k[d]);
            } else {
                softmax_backward_of_warp(lane, g_o + K, at.g_k, at.k);
            }
        }
        if (is_of_warp(rank, 1)) {
            real g_alpha = 0;
            for (int j = lane; j < M; j += 32) g_alpha += at.g_W[j];
            g_alpha = sum_over<32>(g_alpha);
            const real g_eta = dot_of_warp(lane, at.g_u, Delta, M), alpha = at.scalars[ALPHA];
            if (lane == 0) {
                g_o[ETA] = g_eta * at.scalars[SLOPE];
                g_o[ALPHA_HAT] = g_alpha * alpha * (1 - alpha);
            }
        }
        each(rank, D, [&](int d) {
            g_o[V + d] = a * at.g_r[d];
            if (!OUTSIDE) g_o[(OUTSIDE ? 0 : Q) + d] = at.g_read[d];
        });
    }
};

// The self-referential weight matrix, with columns [ y : DO | q : D | k : D | beta : 4 ].
struct SelfReferential {
    static constexpr int Q = DO, K = DO + D, BETA = DO + 2 * D;
    static constexpr bool READS_OUTSIDE = true, RETAINS = false;

    __device__ static __forceinline__ real rate(const real *scalars, int c) {
        return scalars[(c >= Q) + (c >= K) + (c >= BETA)];
    }

    __device__ static __forceinline__ void gates(int rank, const WriterVectors &at, bool, const double *) {
        if (is_of_warp(rank, 0)) softmax_of_warp(rank % 32, at.q, at.o + Q, 0);
        if (is_of_warp(rank, 1)) softmax_of_warp(rank % 32, at.k, at.o + K, 0);
        if (rank < 4) at.scalars[rank] = sigmoid(at.o[BETA + rank]);
        GROUP_SYNC();
        each(rank, D, [&](int d) { at.r[d] = at.q[d] - at.k[d]; });
    }

    __device__ static __forceinline__ void save_scalars(int rank, real *to, const WriterVectors &at) {
        each(rank, 4 + D, [&](int i) { to[i] = i < 4 ? at.scalars[i] : at.q[i - 4]; });
    }
    __device__ static __forceinline__ void load_scalars(int rank, const real *from, const WriterVectors &at) {
        each(rank, 4 + D, [&](int i) { (i < 4 ? at.scalars[i] : at.q[i - 4]) = from[i]; });
    }

    __device__ static __forceinline__ void gates_backward(int rank, real *g_o, const WriterVectors &at,
                                                          const real *Delta, const double *) {
        const int lane = rank % 32;
        if (is_of_warp(rank, 0)) softmax_backward_of_warp(lane, g_o + Q, at.g_r, at.q);
        if (is_of_warp(rank, 1)) {
            for (int d = lane; d < D; d += 32) at.g_k[d] -= at.g_r[d];
            softmax_backward_of_warp(lane, g_o + K, at.g_k, at.k);
            constexpr int starts[] = {0, Q, K, BETA, M};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const real g = dot_of_warp(lane, at.g_u + starts[j], Delta + starts[j], starts[j + 1] - starts[j]);
                if (lane == 0) g_o[BETA + j] = g * at.scalars[j] * (1 - at.scalars[j]);
            }
        }
    }
};

template <class Kind>
struct WriterForward {
    States states;
    Array<const bool> reset, mask;
    state_storage *next, *next_vector;
    Array<const storage> x, reader;
    storage *y;
    real *vectors;
    const double *settings;

    __device__ __forceinline__ void step(int rank, real *A, real *row, long long index, long long t, const Sequence &of,
                                         const Flags &flags) const {
        const WriterVectors at(vectors);
        const bool is_real = !flags.padding(t);
        each(rank, D, [&](int d) {
            at.x[d] = is_real ? of.entry(x, t, d) : real(0);
            if (Kind::READS_OUTSIDE) at.read[d] = is_real ? of.entry(reader, t, d) : real(0);
        });
        GROUP_SYNC();
        // 1, but for the columns of y
        each(rank, M - DO, [&](int i) { at.o[DO + i] = product(at.x, A, DO + i); });
        GROUP_SYNC();
        Kind::gates(rank, at, is_real, settings);
        GROUP_SYNC();
        Kind::save_scalars(rank, row + OF_SCALARS, at);
        each(rank, D, [&](int d) {
            row[OF_K + d] = at.k[d], row[OF_R + d] = at.r[d], row[OF_READ + d] = at.read[d];
        });
        // 3 to 5
        each(rank, M, [&](int c) {
            const real Delta = product(at.r, A, c), u = Kind::rate(at.scalars, c) * Delta;
            row[OF_DELTA + c] = Delta;
            if (c < DO) narrow(is_real ? product(at.read, A, c) : real(0), y[index * DO + c]);
            const real alpha = Kind::RETAINS ? at.scalars[ALPHA] : real(1);
            change_column(A, c, [&](int, real &e, real k_d) { e = alpha * e + k_d * u; }, at.k);
        });
    }
};

template <class Kind>
struct WriterBackward {
    States states;
    Array<const bool> reset, mask;
    Array<const state_storage> grad_next, grad_next_vector;
    Array<const storage> x, grad_y;
    Array<SRWM_GRADIENT> gx, g_reader;
    real *vectors;
    const double *settings;

    __device__ __forceinline__ void begin_chunk(int, const Chunks &, long long, const Sequence &) const {}
    __device__ __forceinline__ void end_chunk(int) const {}

    __device__ __forceinline__ real key(const real *row, long long, int d, const Sequence &, const Flags &) const {
        return row[OF_K + d];
    }
    __device__ __forceinline__ real change(const real *row, long long, int c, const Sequence &) const {
        return Kind::rate(row + OF_SCALARS, c) * row[OF_DELTA + c];
    }
    __device__ __forceinline__ real retention(const real *row) const {
        return Kind::RETAINS ? row[OF_SCALARS + ALPHA] : real(1);
    }

    __device__ __forceinline__ void step(int rank, const real *before, real *G, const real *row, long long t,
                                         const Sequence &of, const Flags &flags) const {
        const WriterVectors at(vectors);
        real *const g_o = at.o;
        const bool is_real = !flags.padding(t);
        Kind::load_scalars(GROUP - 1 - rank, row + OF_SCALARS, at); // by other warps, if there are any
        each(rank, D > DO ? D : DO, [&](int i) { // all is read before any is written
            const bool is_row = i < D, is_output = i < DO && is_real && grad_y.first != nullptr;
            const real k_i = is_row ? row[OF_K + i] : real(0), r_i = is_row ? row[OF_R + i] : real(0);
            const real read_i = is_row ? row[OF_READ + i] : real(0);
            const real x_i = is_row && is_real ? of.entry(x, t, i) : real(0);
            const real g_i = is_output ? of.entry(grad_y, t, i) : real(0);
            if (is_row) at.k[i] = k_i, at.r[i] = r_i, at.read[i] = read_i, at.x[i] = x_i;
            if (i < DO) at.g_y[i] = g_i, g_o[i] = 0;
        });
        GROUP_SYNC();
        // 5'  g_u = k G, and <G, W> of each column   4'  g_Delta = rates g_u
        each(rank, M, [&](int c) {
            real g_u = 0, g_W = 0;
            const real *of_G = G + c, *of_W = before + c;
#pragma unroll 8
            for (int d = 0; d < D; d++, of_G += LD, of_W += LD) {
                g_u += at.k[d] * *of_G;
                if (Kind::RETAINS) g_W += *of_G * *of_W;
            }
            const real rate = Kind::rate(at.scalars, c);
            at.u[c] = rate * row[OF_DELTA + c], at.g_u[c] = g_u, at.g_Delta[c] = rate * g_u, at.g_W[c] = g_W;
        });
        GROUP_SYNC();
        // 5'  g_k = G u^T   4'  g_r = g_Delta W^T   3'  g_read = g_y W_y^T
        along_rows<LANES_OF_STATE>(rank, G, at.u, M, [&](int d, real sum) { at.g_k[d] = sum; });
        along_rows<LANES_OF_STACK>(rank, before, at.g_Delta, M, [&](int d, real sum) { at.g_r[d] = sum; });
        along_rows<LANES_OF_STACK>(rank, before, at.g_y, DO, [&](int d, real sum) {
            at.g_read[d] = sum;
            if (Kind::READS_OUTSIDE) narrow(sum, of.part(g_reader)[t * D + d]);
        });
        GROUP_SYNC();
        Kind::gates_backward(rank, g_o, at, row + OF_DELTA, settings);
        GROUP_SYNC();
        // 1'  g_x = g_o W^T   5', 4', 3', 1'  G = alpha G + r^T g_Delta + read^T g_y + x^T g_o
        along_rows<LANES_OF_STACK>(rank, before, g_o, M, [&](int d, real sum) { narrow(sum, of.part(gx)[t * D + d]); });
        each(rank, M, [&](int c) {
            const real alpha = Kind::RETAINS ? at.scalars[ALPHA] : real(1);
            const real g_Delta = at.g_Delta[c], g_y = c < DO ? at.g_y[c] : real(0), g = g_o[c];
            auto add = [&](int, real &e, real r_d, real read_d, real x_d) {
                e = alpha * e + r_d * g_Delta + read_d * g_y + x_d * g;
            };
            change_column(G, c, add, at.r, at.read, at.x);
        });
    }
};

#endif
