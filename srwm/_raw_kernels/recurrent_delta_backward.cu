// Backward pass of the Recurrent Delta Net. Steps: srwm/reference/recurrent_delta.py; the loops over sequences and steps:
// replayed.cuh.
#include "recurrent.cuh"

namespace arg {
enum { q, k, v, b, R_q, R_k, R_v, r_b, S, y, state_0, state_1, reset, mask, saved, grad_y, grad_S_next, grad_y_next, gq, gk, gv, gb, gR_q, gR_k, gR_v, gr_b, gS, gy, gstate_0, gstate_1, VIEWS };
}

constexpr int OF_R = 3 * D + 1; // columns of the recurrent weights together: [ R_q | R_k | R_v | r_b ]

struct Backward {
    States states;
    Array<const bool> reset, mask;
    Array<const state_storage> grad_next, grad_next_vector;
    Array<const storage> R[3], r_b, grad_y;
    Array<SRWM_GRADIENT> g_inputs[3], gb;
    Array<real> gR[3], gr_b;
    real *vectors, *sums; // sums (D, OF_R): the gradient of the recurrent weights
    real *of_chunk[4];

    __device__ __forceinline__ void begin_chunk(int rank, const Chunks &chunks, long long chunk, const Sequence &of) {
#pragma unroll
        for (int i = 0; i < 3; i++) of_chunk[i] = part_of_chunk(chunks, chunk, of, gR[i], D * D);
        of_chunk[3] = part_of_chunk(chunks, chunk, of, gr_b, D);
        each(rank, D * OF_R, [&](int i) { sums[i] = 0; });
    }

    __device__ __forceinline__ void end_chunk(int rank) const {
        each(rank, D * OF_R, [&](int i) {
            const int d = i / OF_R, block = i % OF_R / D, c = i % OF_R % D;
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (j == block && of_chunk[j] != nullptr) of_chunk[j][j < 3 ? d * D + c : d] = sums[i];
        });
    }

    __device__ __forceinline__ real key(const real *row, long long, int d, const Sequence &, const Flags &) const {
        return row[D + d];
    }
    __device__ __forceinline__ real change(const real *row, long long, int c, const Sequence &) const {
        return row[4 * D] * row[2 * D + c];
    }
    __device__ __forceinline__ real retention(const real *) const { return 1; }

    __device__ __forceinline__ void step(int rank, const real *before, real *G, const real *row, long long t,
                                         const Sequence &of, const Flags &flags) const {
        const DeltaVectors at(vectors);
        real *const r = at.end(), *const g_o = r + D_, *const e = G + MATRIX; // e: gradient of the last output
        const real beta = row[4 * D];
        const bool is_real = !flags.padding(t);
        // 5'  g = g_y + e
        each(rank, D, [&](int d) {
            at.r[d] = row[d], at.k[d] = row[D + d], at.Delta[d] = row[2 * D + d], r[d] = row[3 * D + d];
            const real g_y = grad_y.first == nullptr || !is_real ? real(0) : of.entry(grad_y, t, d);
            at.g[d] = is_real ? g_y + e[d] : real(0);
        });
        GROUP_SYNC();
        // 5', 4', 3'
        delta_step_backward(rank, before, G, at, beta);
        // 2'
        if (is_of_warp(rank, 0)) {
            for (int d = rank % 32; d < D; d += 32) at.g_r[d] += at.sums[0] * at.k[d];
            softmax_backward_of_warp(rank % 32, g_o, at.g_r, at.r);
        }
        if (is_of_warp(rank, 1)) {
            for (int d = rank % 32; d < D; d += 32) at.g_k[d] += at.sums[1] * at.k[d] - at.along[d];
            softmax_backward_of_warp(rank % 32, g_o + D, at.g_k, at.k);
        }
        each(rank, D, [&](int d) { g_o[2 * D + d] = at.g_v[d]; });
        if (rank == GROUP - 1) g_o[3 * D] = at.sums[2] * beta * (1 - beta);
        GROUP_SYNC();
        each(rank, OF_R, [&](int i) {
            const real g = g_o[i];
            sweep<true, OF_R>(sums + i, sums + i, [&](int, real &e, real r_d) { e += r_d * g; }, r);
            const int block = i / D, c = i % D;
#pragma unroll
            for (int j = 0; j < 3; j++)
                if (j == block) narrow(g, of.part(g_inputs[j])[t * D + c]);
            if (block == 3) narrow(g, of.part(gb)[t]);
        });
        // 1'
        sum_rows<lanes_of_row_in(false), 1>(
            rank, D,
            [&](int d, int c) {
                real sum = 0;
#pragma unroll
                for (int j = 0; j < 3; j++) sum += g_o[j * D + c] * of.entry(R[j], d, c);
                return sum;
            },
            [&](int d, real sum) {
                if (is_real) e[d] = (sum + g_o[3 * D] * of.entry(r_b, d, 0)) * (1 - r[d] * r[d]);
            });
    }
};

// gq, gk, gv (..., L, D), gb (..., L), gstate_0 (..., D, D) and gstate_1 (..., D): every entry is written. gR_q, gR_k, gR_v,
// gS (chunks, D, D), gr_b, gy (chunks, D): for each chunk of sequences that share all of these, the sum of their
// gradients, in the order of the sequences. q, k, v and b are not read. S, y, the states, flags, incoming gradients and
// those of all but the inputs may be null. working: SRWM_WORKING entries for each thread group of the grid.
extern "C" __global__ void __launch_bounds__(GROUP * GROUPS, SRWM_BLOCKS)
    recurrent_delta_backward(
        const storage *__restrict__ q, const storage *__restrict__ k, const storage *__restrict__ v,
        const storage *__restrict__ b, const storage *__restrict__ R_q, const storage *__restrict__ R_k,
        const storage *__restrict__ R_v, const storage *__restrict__ r_b, const storage *__restrict__ S,
        const storage *__restrict__ y, const state_storage *__restrict__ state_0,
        const state_storage *__restrict__ state_1, const bool *__restrict__ reset, const bool *__restrict__ mask,
        const real *__restrict__ saved, const storage *__restrict__ grad_y,
        const state_storage *__restrict__ grad_S_next, const state_storage *__restrict__ grad_y_next,
        SRWM_GRADIENT *__restrict__ gq, SRWM_GRADIENT *__restrict__ gk, SRWM_GRADIENT *__restrict__ gv,
        SRWM_GRADIENT *__restrict__ gb, real *gR_q, real *gR_k, real *gR_v, real *gr_b, real *gS, real *gy,
        SRWM_STATE_GRADIENT *__restrict__ gstate_0, SRWM_STATE_GRADIENT *__restrict__ gstate_1, real *working,
        const ReplayedBackward<arg::VIEWS> s) {
    OF_BACKWARD(arg::VIEWS);
    Backward op = {{{S, arg::S}, {state_0, arg::state_0}, {y, arg::y}, {state_1, arg::state_1}},
                   {reset, arg::reset}, {mask, arg::mask},
                   {grad_S_next, arg::grad_S_next}, {grad_y_next, arg::grad_y_next},
                   {{R_q, arg::R_q}, {R_k, arg::R_k}, {R_v, arg::R_v}}, {r_b, arg::r_b}, {grad_y, arg::grad_y},
                   {{gq, arg::gq}, {gk, arg::gk}, {gv, arg::gv}}, {gb, arg::gb},
                   {{gR_q, arg::gR_q}, {gR_k, arg::gR_k}, {gR_v, arg::gR_v}}, {gr_b, arg::gr_b}, vectors, sums};
    run_backward(op, s.sizes, G, stack, {saved, arg::saved}, {gS, arg::gS}, {gy, arg::gy}, {gstate_0, arg::gstate_0},
                 {gstate_1, arg::gstate_1}, rank, first, start);
}
