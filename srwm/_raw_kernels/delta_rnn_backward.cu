// Backward pass of the Delta RNN. Steps: srwm/reference/delta_rnn.py; the loops over sequences and steps: replayed.cuh.
#include "recurrent.cuh"

namespace arg {
enum { z, k, v, beta, R, h, state_0, state_1, reset, mask, saved, grad_y, grad_R_next, grad_h_next, gz, gk, gv, gbeta, gR, gh, gstate_0, gstate_1, VIEWS };
}

struct Backward {
    States states;
    Array<const bool> reset, mask;
    Array<const state_storage> grad_next, grad_next_vector;
    Array<const storage> k, grad_y;
    Array<SRWM_GRADIENT> gz, gk, gv, gbeta;
    real *vectors;
    bool is_version_1;

    __device__ __forceinline__ void begin_chunk(int, const Chunks &, long long, const Sequence &) const {}
    __device__ __forceinline__ void end_chunk(int) const {}

    __device__ __forceinline__ real key(const real *, long long t, int d, const Sequence &of, const Flags &flags) const {
        return flags.padding(t) ? real(0) : of.entry(k, t, d);
    }
    __device__ __forceinline__ real change(const real *row, long long, int c, const Sequence &) const {
        return row[3 * D] * row[c];
    }
    __device__ __forceinline__ real retention(const real *) const { return 1; }

    __device__ __forceinline__ void step(int rank, const real *before, real *G, const real *row, long long t,
                                         const Sequence &of, const Flags &flags) const {
        const DeltaVectors at(vectors);
        real *const h = at.end(), *const w = G + MATRIX; // w: gradient of the last output
        const real beta = row[3 * D];
        const bool is_real = !flags.padding(t);
        // 4'  g = g_h + w
        each(rank, D, [&](int d) {
            at.Delta[d] = row[d], at.r[d] = row[D + d], h[d] = row[2 * D + d];
            at.k[d] = is_real ? of.entry(k, t, d) : real(0);
            const real g_y = grad_y.first == nullptr || !is_real ? real(0) : of.entry(grad_y, t, d);
            at.g[d] = is_real ? g_y + w[d] : real(0);
        });
        GROUP_SYNC();
        if (is_version_1) {
            if (rank < 32) softmax_backward_of_warp(rank, at.g, at.g, h);
            GROUP_SYNC();
        }
        // 3', 1'
        delta_step_backward(rank, before, G, at, beta);
        // 2'
        if (is_of_warp(rank, 1)) {
            for (int d = rank % 32; d < D; d += 32) at.g_r[d] += at.sums[0] * at.k[d];
            if (!is_version_1) softmax_backward_of_warp(rank % 32, at.g_r, at.g_r, at.r);
            if (is_real)
                for (int d = rank % 32; d < D; d += 32) w[d] = at.g_r[d];
        }
        each(rank, D, [&](int d) {
            narrow(at.g[d], of.part(gz)[t * D + d]);
            narrow(at.g_k[d] + at.sums[1] * at.k[d] - at.along[d], of.part(gk)[t * D + d]);
            narrow(at.g_v[d], of.part(gv)[t * D + d]);
        });
        if (rank == 0) narrow(is_real ? at.sums[2] : real(0), of.part(gbeta)[t]);
    }
};

// gz, gk, gv (..., L, D), gbeta (..., L), gstate_0 (..., D, D) and gstate_1 (..., D): every entry is written. gR (chunks, D,
// D), gh (chunks, D): for each chunk of sequences that share both, the sum of their gradients, in the order of the
// sequences. z, v and beta are not read. R, h, the states, flags, incoming gradients and those of R, h and the states may be
// null. working: SRWM_WORKING entries for each thread group of the grid.
extern "C" __global__ void __launch_bounds__(GROUP * GROUPS, SRWM_BLOCKS)
    delta_rnn_backward(const storage *__restrict__ z, const storage *__restrict__ k, const storage *__restrict__ v,
                       const storage *__restrict__ beta, const storage *__restrict__ R, const storage *__restrict__ h,
                       const state_storage *__restrict__ state_0, const state_storage *__restrict__ state_1,
                       const bool *__restrict__ reset, const bool *__restrict__ mask, const real *__restrict__ saved,
                       const storage *__restrict__ grad_y, const state_storage *__restrict__ grad_R_next,
                       const state_storage *__restrict__ grad_h_next, SRWM_GRADIENT *__restrict__ gz,
                       SRWM_GRADIENT *__restrict__ gk, SRWM_GRADIENT *__restrict__ gv,
                       SRWM_GRADIENT *__restrict__ gbeta, real *gR, real *gh,
                       SRWM_STATE_GRADIENT *__restrict__ gstate_0, SRWM_STATE_GRADIENT *__restrict__ gstate_1,
                       real *working, const ReplayedBackward<arg::VIEWS> s) {
    OF_BACKWARD(arg::VIEWS);
    Backward op = {{{R, arg::R}, {state_0, arg::state_0}, {h, arg::h}, {state_1, arg::state_1}},
                   {reset, arg::reset}, {mask, arg::mask},
                   {grad_R_next, arg::grad_R_next}, {grad_h_next, arg::grad_h_next}, {k, arg::k}, {grad_y, arg::grad_y},
                   {gz, arg::gz}, {gk, arg::gk}, {gv, arg::gv}, {gbeta, arg::gbeta}, vectors, s.settings[0] == 0};
    run_backward(op, s.sizes, G, stack, {saved, arg::saved}, {gR, arg::gR}, {gh, arg::gh}, {gstate_0, arg::gstate_0},
                 {gstate_1, arg::gstate_1}, rank, first, start);
}
