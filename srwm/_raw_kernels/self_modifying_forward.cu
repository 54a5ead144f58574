// Forward pass of the memory that modifies itself. Steps: writer.cuh; the loops over sequences and steps:
// replayed.cuh.
#include "writer.cuh"

namespace arg {
enum { x, W, state, reset, mask, VIEWS };
}

// y (N, L, DO), W_next (N, D, M) and saved (N, L * ROW + segments * D * M) are contiguous. state, reset, mask, W_next and saved
// may be null. working: SRWM_WORKING entries for each thread group of the grid.
extern "C" __global__ void __launch_bounds__(GROUP * GROUPS, SRWM_BLOCKS)
    self_modifying_forward(
        const storage *__restrict__ x, const storage *__restrict__ W, const state_storage *__restrict__ state,
        const bool *__restrict__ reset, const bool *__restrict__ mask, storage *__restrict__ y,
        state_storage *__restrict__ W_next, real *__restrict__ saved, real *__restrict__ working,
        const ReplayedForward<arg::VIEWS> s) {
    OF_FORWARD(arg::VIEWS);
    WriterForward<SelfModifying<false>> op = {{{W, arg::W}, {state, arg::state}}, {reset, arg::reset}, {mask, arg::mask}, W_next, nullptr,
                                {x, arg::x}, {}, y, vectors, s.settings};
    run_forward(op, s.sizes, A, spare_row, saved, rank, first, start);
}
