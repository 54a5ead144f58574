// Backward pass of the self-referential weight matrix whose output reads another input. Steps: writer.cuh; the loops over sequences and steps:
// replayed.cuh.
#include "writer.cuh"

namespace arg {
enum { x, W, read, state, reset, saved, grad_y, grad_W_next, gx, gW, gread, gstate, VIEWS };
}

// gx, gread (..., L, D) and gstate (..., D, M): every entry is written. gW (chunks, D, M): for each chunk of sequences that share a
// matrix, the sum of their gradients, in the order of the sequences. read is not read. state, reset, grad_y, grad_W_next, gW and
// gstate may be null. working: SRWM_WORKING entries for each thread group of the grid.
extern "C" __global__ void __launch_bounds__(GROUP * GROUPS, SRWM_BLOCKS)
    srwm_read_backward(
        const storage *__restrict__ x, const storage *__restrict__ W, const storage *__restrict__ read,
        const state_storage *__restrict__ state, const bool *__restrict__ reset, const real *__restrict__ saved,
        const storage *__restrict__ grad_y, const state_storage *__restrict__ grad_W_next,
        SRWM_GRADIENT *__restrict__ gx, real *gW, SRWM_GRADIENT *__restrict__ gread,
        SRWM_STATE_GRADIENT *__restrict__ gstate, real *working, const ReplayedBackward<arg::VIEWS> s) {
    OF_BACKWARD(arg::VIEWS);
    WriterBackward<SelfReferential> op = {{{W, arg::W}, {state, arg::state}}, {reset, arg::reset}, {},
                                 {grad_W_next, arg::grad_W_next}, {}, {x, arg::x}, {grad_y, arg::grad_y},
                                 {gx, arg::gx}, {gread, arg::gread}, vectors, s.settings};
    run_backward(op, s.sizes, G, stack, {saved, arg::saved}, {gW, arg::gW}, {}, {gstate, arg::gstate}, {}, rank, first,
                 start);
}
