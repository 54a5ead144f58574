// Forward pass of the self-referential weight matrix whose output reads another input. Steps: writer.cuh; the loops over sequences and steps:
// replayed.cuh.
#include "writer.cuh"

namespace arg {
enum { x, W, read, state, reset, VIEWS };
}

// y (N, L, DO), W_next (N, D, M) and saved (N, L * ROW + segments * D * M) are contiguous. state, reset, W_next and saved
// may be null. working: SRWM_WORKING entries for each thread group of the grid.
extern "C" __global__ void __launch_bounds__(GROUP * GROUPS, SRWM_BLOCKS)
    srwm_read_forward(
        const storage *__restrict__ x, const storage *__restrict__ W, const storage *__restrict__ read,
        const state_storage *__restrict__ state, const bool *__restrict__ reset, storage *__restrict__ y,
        state_storage *__restrict__ W_next, real *__restrict__ saved, real *__restrict__ working,
        const ReplayedForward<arg::VIEWS> s) {
    OF_FORWARD(arg::VIEWS);
    WriterForward<SelfReferential> op = {{{W, arg::W}, {state, arg::state}}, {reset, arg::reset}, {}, W_next, nullptr,
                                {x, arg::x}, {read, arg::read}, y, vectors, s.settings};
    run_forward(op, s.sizes, A, spare_row, saved, rank, first, start);
}
