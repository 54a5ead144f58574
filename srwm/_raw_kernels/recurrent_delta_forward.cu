// Forward pass of the Recurrent Delta Net. Steps: srwm/reference/recurrent_delta.py; the loops over sequences and steps:
// replayed.cuh. Saved of a step: [ q : D | k : D | Delta : D | r : D | beta : 1 ].
#include "recurrent.cuh"

namespace arg {
enum { q, k, v, b, R_q, R_k, R_v, r_b, S, y, state_0, state_1, reset, mask, VIEWS };
}

struct Forward {
    States states;
    Array<const bool> reset, mask;
    state_storage *next, *next_vector;
    Array<const storage> inputs[3], b, R[3], r_b;
    storage *outputs;
    real *vectors;

    __device__ __forceinline__ void step(int rank, real *A, real *row, long long index, long long t, const Sequence &of,
                                         const Flags &flags) const {
        real *const q = vectors, *const k = q + D_, *const r = k + D_, *const o = r + D_; // o: [ q^ | k^ | v | b^ ]
        real *const last = A + MATRIX;
        const bool is_real = !flags.padding(t);
        // 1
        each(rank, D, [&](int d) { row[3 * D + d] = r[d] = tanh(last[d]); });
        GROUP_SYNC();
        // 2
        each(rank, 3 * D + 1, [&](int i) {
            const int block = i / D, c = i % D;
            // No index into an array: that would be one in memory.
            auto of_block = [&](const Array<const storage> (&a)[3], Array<const storage> last) {
                return block == 0 ? a[0] : block == 1 ? a[1] : block == 2 ? a[2] : last;
            };
            const Column<const storage> column = of.column(of_block(R, r_b), c);
            real sum[2] = {0, 0};
#pragma unroll 8
            for (int d = 0; d < D; d++) sum[d % 2] += r[d] * column.entry(d);
            real all = sum[0] + sum[1];
            if (is_real) all += of.entry(of_block(inputs, b), t, c);
            if (block == 3) row[4 * D] = all = is_real ? sigmoid(all) : real(0); // beta
            o[i] = all;
        });
        GROUP_SYNC();
        if (is_of_warp(rank, 0)) softmax_of_warp(rank % 32, q, o, 0);
        if (is_of_warp(rank, 1)) softmax_of_warp(rank % 32, k, o + D, 0);
        GROUP_SYNC();
        // 3 to 5
        each(rank, D, [&](int c) {
            real Delta;
            const real y = delta_column(A, k, q, o[2 * D + c], o[3 * D], c, Delta);
            row[c] = q[c], row[D + c] = k[c], row[2 * D + c] = Delta;
            narrow(is_real ? y : real(0), outputs[index * D + c]);
            if (is_real) last[c] = y;
        });
    }
};

// outputs (N, L, D), S_next (N, D, D), y_next (N, D) and saved (N, L * (4 D + 1) + segments * D * D) are contiguous. S, y,
// the states, flags, S_next, y_next and saved may be null. working: SRWM_WORKING entries for each thread group of the grid.
extern "C" __global__ void __launch_bounds__(GROUP * GROUPS, SRWM_BLOCKS)
    recurrent_delta_forward(const storage *__restrict__ q, const storage *__restrict__ k,
                            const storage *__restrict__ v, const storage *__restrict__ b,
                            const storage *__restrict__ R_q, const storage *__restrict__ R_k,
                            const storage *__restrict__ R_v, const storage *__restrict__ r_b,
                            const storage *__restrict__ S, const storage *__restrict__ y,
                            const state_storage *__restrict__ state_0, const state_storage *__restrict__ state_1,
                            const bool *__restrict__ reset, const bool *__restrict__ mask,
                            storage *__restrict__ outputs, state_storage *__restrict__ S_next,
                            state_storage *__restrict__ y_next, real *__restrict__ saved, real *__restrict__ working,
                            const ReplayedForward<arg::VIEWS> s) {
    OF_FORWARD(arg::VIEWS);
    Forward op = {{{S, arg::S}, {state_0, arg::state_0}, {y, arg::y}, {state_1, arg::state_1}},
                  {reset, arg::reset}, {mask, arg::mask}, S_next, y_next,
                  {{q, arg::q}, {k, arg::k}, {v, arg::v}}, {b, arg::b},
                  {{R_q, arg::R_q}, {R_k, arg::R_k}, {R_v, arg::R_v}}, {r_b, arg::r_b}, outputs, vectors};
    run_forward(op, s.sizes, A, spare_row, saved, rank, first, start);
}
