// Backward pass of the sum rule with a denominator. Steps: sum_rule.cuh; the loops over sequences and steps: replayed.cuh.
#include "sum_rule.cuh"

namespace arg {
enum { q, k, v, S, z, state_0, state_1, reset, saved, grad_y, grad_S_next, grad_z_next, gq, gk, gv, gS, gz, gstate_0, gstate_1, VIEWS };
}

// gq, gk (..., L, D), gv (..., L, DO), gstate_0 (..., D, DO) and gstate_1 (..., D): every entry is written. gS (chunks, D,
// DO), gz (chunks, D): for each chunk of sequences that share both, the sum of their gradients, in the order of the
// sequences. S, z, the states, reset, all incoming gradients and those of S, z and the states may be null. working:
// SRWM_WORKING entries for each thread group of the grid.
extern "C" __global__ void __launch_bounds__(GROUP * GROUPS, SRWM_BLOCKS)
    normalised_sum_rule_backward(
        const storage *__restrict__ q, const storage *__restrict__ k, const storage *__restrict__ v,
        const storage *__restrict__ S, const storage *__restrict__ z, const state_storage *__restrict__ state_0,
        const state_storage *__restrict__ state_1, const bool *__restrict__ reset, const real *__restrict__ saved,
        const storage *__restrict__ grad_y, const state_storage *__restrict__ grad_S_next,
        const state_storage *__restrict__ grad_z_next, SRWM_GRADIENT *__restrict__ gq, SRWM_GRADIENT *__restrict__ gk,
        SRWM_GRADIENT *__restrict__ gv, real *gS, real *gz, SRWM_STATE_GRADIENT *__restrict__ gstate_0,
        SRWM_STATE_GRADIENT *__restrict__ gstate_1, real *working, const ReplayedBackward<arg::VIEWS> s) {
    OF_BACKWARD(arg::VIEWS);
    SumBackward op = {{{S, arg::S}, {state_0, arg::state_0}, {z, arg::z}, {state_1, arg::state_1}},
                      {reset, arg::reset}, {}, {grad_S_next, arg::grad_S_next}, {grad_z_next, arg::grad_z_next},
                      {q, arg::q}, {k, arg::k}, {v, arg::v}, {grad_y, arg::grad_y},
                      {gq, arg::gq}, {gk, arg::gk}, {gv, arg::gv}, vectors, s.settings};
    run_backward(op, s.sizes, G, stack, {saved, arg::saved}, {gS, arg::gS}, {gz, arg::gz}, {gstate_0, arg::gstate_0},
                 {gstate_1, arg::gstate_1}, rank, first, start);
}
