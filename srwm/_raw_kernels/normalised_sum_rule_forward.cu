// Forward pass of the sum rule with a denominator. Steps: sum_rule.cuh; the loops over sequences and steps: replayed.cuh.
#include "sum_rule.cuh"

namespace arg {
enum { q, k, v, S, z, state_0, state_1, reset, VIEWS };
}

// y (N, L, DO), S_next (N, D, DO), z_next (N, D) and saved (N, segments * (D * DO + D)) are contiguous. S, z, the states,
// reset, S_next, z_next and saved may be null. working: SRWM_WORKING entries for each thread group of the grid.
extern "C" __global__ void __launch_bounds__(GROUP * GROUPS, SRWM_BLOCKS)
    normalised_sum_rule_forward(const storage *__restrict__ q, const storage *__restrict__ k,
                                const storage *__restrict__ v, const storage *__restrict__ S,
                                const storage *__restrict__ z, const state_storage *__restrict__ state_0,
                                const state_storage *__restrict__ state_1, const bool *__restrict__ reset,
                                storage *__restrict__ y, state_storage *__restrict__ S_next,
                                state_storage *__restrict__ z_next, real *__restrict__ saved,
                                real *__restrict__ working, const ReplayedForward<arg::VIEWS> s) {
    OF_FORWARD(arg::VIEWS);
    SumForward op = {{{S, arg::S}, {state_0, arg::state_0}, {z, arg::z}, {state_1, arg::state_1}},
                     {reset, arg::reset}, {}, S_next, z_next, {q, arg::q}, {k, arg::k}, {v, arg::v}, y, vectors,
                     s.settings};
    run_forward(op, s.sizes, A, spare_row, saved, rank, first, start);
}
