// Forward pass of the Delta RNN. Steps: srwm/reference/delta_rnn.py; the loops over sequences and steps: replayed.cuh. Saved
// of a step: [ Delta : D | s : D | h : D | beta : 1 ].
#include "recurrent.cuh"

namespace arg {
enum { z, k, v, beta, R, h, state_0, state_1, reset, mask, VIEWS };
}

struct Forward {
    States states;
    Array<const bool> reset, mask;
    state_storage *next, *next_vector;
    Array<const storage> z, k, v, rates;
    storage *y;
    real *vectors;
    bool is_version_1;

    __device__ __forceinline__ void step(int rank, real *A, real *row, long long index, long long t, const Sequence &of,
                                         const Flags &flags) const {
        real *const k_t = vectors, *const reads = k_t + D_, *const o = reads + D_; // reads: s of the numbered steps
        real *const last = A + MATRIX;
        const bool is_real = !flags.padding(t);
        const real beta = is_real ? of.entry(rates, t, 0) : real(0);
        // 2
        each(rank, D, [&](int d) {
            k_t[d] = is_real ? of.entry(k, t, d) : real(0);
            if (is_version_1) reads[d] = last[d];
        });
        if (!is_version_1 && is_of_warp(rank, 1)) softmax_of_warp(rank % 32, reads, last, real(1e-6));
        GROUP_SYNC();
        auto end = [&](int d, real h) {
            row[2 * D + d] = h;
            narrow(is_real ? h : real(0), y[index * D + d]);
            if (is_real) last[d] = h;
        };
        // 1, 3
        each(rank, D, [&](int c) {
            real Delta;
            const real v_c = is_real ? of.entry(v, t, c) : real(0);
            const real read = delta_column(A, k_t, reads, v_c, beta, c, Delta);
            const real sum = read + (is_real ? of.entry(z, t, c) : real(0));
            row[c] = Delta, row[D + c] = reads[c];
            if (is_version_1) o[c] = sum;
            else end(c, sum);
        });
        if (rank == 0) row[3 * D] = beta;
        // 4
        if (is_version_1) {
            GROUP_SYNC();
            if (rank < 32) {
                softmax_of_warp(rank, o, o, 0);
                for (int d = rank; d < D; d += 32) end(d, o[d]);
            }
        }
    }
};

// y (N, L, D), R_next (N, D, D), h_next (N, D) and saved (N, L * (3 D + 1) + segments * D * D) are contiguous. R, h, the
// states, flags, R_next, h_next and saved may be null. working: SRWM_WORKING entries for each thread group of the grid.
extern "C" __global__ void __launch_bounds__(GROUP * GROUPS, SRWM_BLOCKS)
    delta_rnn_forward(const storage *__restrict__ z, const storage *__restrict__ k, const storage *__restrict__ v,
                      const storage *__restrict__ beta, const storage *__restrict__ R, const storage *__restrict__ h,
                      const state_storage *__restrict__ state_0, const state_storage *__restrict__ state_1,
                      const bool *__restrict__ reset, const bool *__restrict__ mask, storage *__restrict__ y,
                      state_storage *__restrict__ R_next, state_storage *__restrict__ h_next, real *__restrict__ saved,
                      real *__restrict__ working, const ReplayedForward<arg::VIEWS> s) {
    OF_FORWARD(arg::VIEWS);
    Forward op = {{{R, arg::R}, {state_0, arg::state_0}, {h, arg::h}, {state_1, arg::state_1}},
                  {reset, arg::reset}, {mask, arg::mask}, R_next, h_next,
                  {z, arg::z}, {k, arg::k}, {v, arg::v}, {beta, arg::beta}, y, vectors, s.settings[0] == 0};
    run_forward(op, s.sizes, A, spare_row, saved, rank, first, start);
}
