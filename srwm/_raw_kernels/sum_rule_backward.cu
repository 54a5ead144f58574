// Backward pass of the sum rule. Steps: sum_rule.cuh; the loops over sequences and steps: replayed.cuh.
#include "sum_rule.cuh"

namespace arg {
enum { q, k, v, S, state, reset, saved, grad_y, grad_S_next, gq, gk, gv, gS, gstate, VIEWS };
}

// gq, gk (..., L, D), gv (..., L, DO) and gstate (..., D, DO): every entry is written. gS (chunks, D, DO): for each chunk
// of sequences that share a matrix, the sum of their gradients, in the order of the sequences. S, state, reset, grad_y,
// grad_S_next, gS and gstate may be null. working: SRWM_WORKING entries for each thread group of the grid.
extern "C" __global__ void __launch_bounds__(GROUP * GROUPS, SRWM_BLOCKS)
    sum_rule_backward(const storage *__restrict__ q, const storage *__restrict__ k, const storage *__restrict__ v,
                      const storage *__restrict__ S, const state_storage *__restrict__ state,
                      const bool *__restrict__ reset, const real *__restrict__ saved, const storage *__restrict__ grad_y,
                      const state_storage *__restrict__ grad_S_next, SRWM_GRADIENT *__restrict__ gq,
                      SRWM_GRADIENT *__restrict__ gk, SRWM_GRADIENT *__restrict__ gv, real *gS,
                      SRWM_STATE_GRADIENT *__restrict__ gstate, real *working,
                      const ReplayedBackward<arg::VIEWS> s) {
    OF_BACKWARD(arg::VIEWS);
    SumBackward op = {{{S, arg::S}, {state, arg::state}}, {reset, arg::reset}, {}, {grad_S_next, arg::grad_S_next}, {},
                      {q, arg::q}, {k, arg::k}, {v, arg::v}, {grad_y, arg::grad_y},
                      {gq, arg::gq}, {gk, arg::gk}, {gv, arg::gv}, vectors, s.settings};
    run_backward(op, s.sizes, G, stack, {saved, arg::saved}, {gS, arg::gS}, {}, {gstate, arg::gstate}, {}, rank, first,
                 start);
}
