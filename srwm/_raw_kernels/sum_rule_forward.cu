// Forward pass of the sum rule. Steps: sum_rule.cuh; the loops over sequences and steps: replayed.cuh.
#include "sum_rule.cuh"

namespace arg {
enum { q, k, v, S, state, reset, VIEWS };
}

// y (N, L, DO), S_next (N, D, DO) and saved (N, segments * D * DO) are contiguous. S, state, reset, S_next and saved may
// be null. working: SRWM_WORKING entries for each thread group of the grid.
extern "C" __global__ void __launch_bounds__(GROUP * GROUPS, SRWM_BLOCKS)
    sum_rule_forward(const storage *__restrict__ q, const storage *__restrict__ k, const storage *__restrict__ v,
                     const storage *__restrict__ S, const state_storage *__restrict__ state,
                     const bool *__restrict__ reset, storage *__restrict__ y, state_storage *__restrict__ S_next,
                     real *__restrict__ saved, real *__restrict__ working, const ReplayedForward<arg::VIEWS> s) {
    OF_FORWARD(arg::VIEWS);
    SumForward op = {{{S, arg::S}, {state, arg::state}}, {reset, arg::reset}, {}, S_next, nullptr,
                     {q, arg::q}, {k, arg::k}, {v, arg::v}, y, vectors, s.settings};
    run_forward(op, s.sizes, A, spare_row, saved, rank, first, start);
}
