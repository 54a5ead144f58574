// Forward pass of the self-referential weight matrix: one launch, with the loop over time inside.
//
// A thread owns whole columns of W, so steps 1, 3 and 5 need no sums across threads. All threads read the vectors over
// rows (x, q, k) from shared memory, 16 bytes at a time. A step sweeps W twice: for step 3, and for step 5 together
// with step 1 of the next step. In small thread groups every warp computes step 2. A step then has one barrier, between
// writing and reading the gates. In large groups two warps compute step 2 for all, which takes a second barrier.
#include "columns.cuh"
#include "gates.cuh"

constexpr int GATES = 2 * D_ + 4; // q^ | k^ | b^; the padding of q^ and k^ is LOWEST
constexpr bool EACH_WARP = D <= 64 && WARPS <= 16;
constexpr int SHARERS = EACH_WARP ? 32 : GROUP; // threads that share one copy of x, q and k
constexpr int LANES_OF_SOFTMAX = EACH_WARP ? 16 : 32; // lanes that compute a softmax
constexpr int LOGITS = (D + LANES_OF_SOFTMAX - 1) / LANES_OF_SOFTMAX;
constexpr int INPUTS = (D + SHARERS - 1) / SHARERS;
static_assert(COLUMNS * GROUP >= M, "columns without a thread");
static_assert(EACH_WARP || WARPS >= 2, "one warp for q, one for k");

namespace arg {
enum { x, W, state, reset, VIEWS };
}

// The index of column c >= Q among the gates.
__device__ __forceinline__ int gate_of(int c) { return c - Q + (c >= K) * (D_ - D) + (c >= BETA) * (D_ - D); }

// y (N, L, DO), W_next (N, D, M) and saved (N, L * SAVED_OF_STEP + segments * D * M) are contiguous. state, reset,
// W_next and saved may be null. working: SRWM_WORKING entries for each thread group of the grid. Dynamic shared memory:
// Columns::SHARED entries for each thread group, then the copy of W.
extern "C" __global__ void __launch_bounds__(GROUP * GROUPS, SRWM_BLOCKS)
    srwm_forward(const storage *__restrict__ x, const storage *__restrict__ W,
                 const state_storage *__restrict__ state, const bool *__restrict__ reset, storage *__restrict__ y,
                 state_storage *__restrict__ W_next, real *__restrict__ saved, real *__restrict__ working,
                 const ForwardSizes<arg::VIEWS> s) {
    constexpr int COPIES = GROUP * GROUPS / SHARERS;
    extern __shared__ __align__(16) real shared_of_block[];
    // Double buffer: a warp may write the next step's gates while another warp still reads this step's.
    __shared__ __align__(16) real gates_of_group[GROUPS][2][GATES];
    // exp(q^ - max), exp(k^ - max), and x of the next step.
    __shared__ __align__(16) real vectors[COPIES][3][D_];
    __shared__ real per_sum[2]; // 1 / the sums of the exps of q^ and k^, if two warps compute step 2 for all
    __shared__ long long start_of_group[GROUPS][arg::VIEWS];

    const int thread = opaque((int)threadIdx.x); // reading threadIdx again is slow
    const int group = thread / GROUP, rank = thread % GROUP, lane = thread % 32;
    const int sharer = thread % SHARERS, copy = thread / SHARERS;
    const long long first = (long long)blockIdx.x * GROUPS + group, together = (long long)gridDim.x * GROUPS;
    real *const exp_q = vectors[copy][0], *const exp_k = vectors[copy][1], *const x_shared = vectors[copy][2];
    long long *const start = start_of_group[group];
    Columns w(working + first * Columns::WORKING, shared_of_block + group * Columns::SHARED, rank);
    storage *const block_copy = reinterpret_cast<storage *>(shared_of_block + GROUPS * Columns::SHARED);
    int buffer = 0; // of the gates
    int rate[COLUMNS]; // the index of each column's rate among the gates
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) rate[j] = opaque(2 * D_ + rate_of(column(rank, j)));

    if (CACHEABLE && s.cached) copy_for_block(block_copy, W, s.views[arg::W]);
    if (sharer < D_ - D) exp_q[D + sharer] = exp_k[D + sharer] = x_shared[D + sharer] = 0;
    for (int i = rank; i < 4 * (D_ - D); i += GROUP) gates_of_group[group][i % 2][i / 2 % 2 * D_ + D + i / 4] = LOWEST;

    for (long long n = first; n < s.sequences; n += together) {
        GROUP_SYNC(); // all threads have finished reading the previous sequence
        if (rank < arg::VIEWS) start[rank] = start_of(n, s.lead, s.views[rank]);
        GROUP_SYNC();

        real next_x[INPUTS]; // prefetched one step early, so that no thread waits for memory
        // These pointers advance with the steps, so that the loop multiplies no addresses.
        const storage *x_t = x + start[arg::x];
        storage *y_t = y + n * s.steps * DO;
        real *saved_t = saved + n * (s.steps * SAVED_OF_STEP + s.segments * (D * M));
        auto fetch_x = [&](bool advances) {
            // After the last step it loads that step again: no thread waits here for an unconditional load.
            if (advances) x_t += s.views[arg::x].row;
#pragma unroll
            for (int p = 0; p < INPUTS; p++) {
                int d = p * SHARERS + sharer;
                next_x[p] = widen(x_t[(d < D ? d : 0) * s.views[arg::x].entry]);
            }
        };
        auto publish_x = [&] {
#pragma unroll
            for (int p = 0; p < INPUTS; p++)
                if (p * SHARERS + sharer < D) x_shared[p * SHARERS + sharer] = next_x[p];
        };
        real o[COLUMNS];
        auto multiply_x = [&] {
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) o[j] = 0;
            w.read([&](int g, real (&e)[COLUMNS][4]) {
                real a[4];
                load4(x_shared + g * 4, a);
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < COLUMNS; j++) o[j] += a[i] * e[j][i];
            });
        };

        auto initial = [&] {
            if (CACHEABLE && s.cached) return Source<storage>{block_copy, M, 1};
            return source_of(W, start[arg::W], s.views[arg::W]);
        };
        auto resets = [&] { return resets_of(reset, start[arg::reset], s.views[arg::reset]); };
        if (starts_with_state(state, resets(), s.steps))
            read_columns(w, source_of(state, start[arg::state], s.views[arg::state]), rank);
        else read_columns(w, initial(), rank);
        if (s.steps > 0) {
            fetch_x(false);
            publish_x();
            fetch_x(s.steps > 1);
        }
        SHARERS_SYNC(EACH_WARP);
        if (s.steps > 0) multiply_x();

        for (long long t = 0; t < s.steps; t++) {
            real *const gates = gates_of_group[group][buffer];
            buffer ^= 1;

            // 1  o = x_t W, computed by the sweep of the previous step
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                int c = column(rank, j);
                if (c < Q) narrow(o[j], y_t[c]);
                else if (c < M) gates[gate_of(c)] = o[j];
            }
            GROUP_SYNC();

            // 2  q = softmax(q^), k = softmax(k^), both not yet multiplied by 1 / sum; beta = sigmoid(b^)
            const int half = (EACH_WARP ? lane : rank) / LANES_OF_SOFTMAX; // 0: q, 1: k
            real exps[LOGITS] = {}, sum = 0, beta[COLUMNS];
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) beta[j] = sigmoid(gates[rate[j]]);
            if (half < 2) {
                real *const to = half == 0 ? exp_q : exp_k;
                real highest = LOWEST;
#pragma unroll
                for (int p = 0; p < LOGITS; p++) {
                    int d = p * LANES_OF_SOFTMAX + lane % LANES_OF_SOFTMAX;
                    exps[p] = d < D ? gates[half * D_ + d] : LOWEST;
                    highest = fmax(highest, exps[p]);
                }
                if constexpr (D <= 16) { // each lane reads all entries, which is faster than shuffles
                    real all[4] = {LOWEST, LOWEST, LOWEST, LOWEST};
#pragma unroll
                    for (int g = 0; g < D_; g += 4) {
                        real a[4];
                        load4(gates + half * D_ + g, a);
#pragma unroll
                        for (int i = 0; i < 4; i++) all[i] = fmax(all[i], a[i]);
                    }
                    highest = fmax(fmax(all[0], all[1]), fmax(all[2], all[3]));
                } else {
                    highest = max_over<LANES_OF_SOFTMAX>(highest);
                }
#pragma unroll
                for (int p = 0; p < LOGITS; p++) {
                    int d = p * LANES_OF_SOFTMAX + lane % LANES_OF_SOFTMAX;
                    exps[p] = exp(exps[p] - highest);
                    if (d < D) to[d] = exps[p], sum += exps[p];
                }
                if constexpr (!EACH_WARP) {
                    sum = inverse(sum_over<LANES_OF_SOFTMAX>(sum));
                    if (lane == 0) per_sum[half] = sum;
                }
            }
            publish_x();
            fetch_x(t + 2 < s.steps);
            SHARERS_SYNC(EACH_WARP);

            // 3  Delta = (q - k) W. The sums of the softmaxes are computed in the same loop, because a shuffle takes as
            // long as a few quads.
            constexpr int LEVELS = 5; // four for the sum over 16 lanes, and one to get the sum of the other softmax
            real along_q[COLUMNS] = {}, along_k[COLUMNS] = {}, others = 0;
            auto level = [&](int l) {
                if (l > 0 && l < LEVELS) sum += others;
                if (l < LEVELS) others = __shfl_xor_sync(ALL_LANES, sum, l + 1 < LEVELS ? 8 >> l : 16);
            };
            w.read([&](int g, real (&e)[COLUMNS][4]) {
                if (EACH_WARP && g < LEVELS) level(g);
                real a[4], b[4];
                load4(exp_q + g * 4, a);
                load4(exp_k + g * 4, b);
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < COLUMNS; j++) {
                        along_q[j] += a[i] * e[j][i];
                        along_k[j] += b[i] * e[j][i];
                    }
            });
            real per_q, per_k; // 1 / the two sums
            if constexpr (EACH_WARP) {
#pragma unroll
                for (int l = D_ / 4; l < LEVELS; l++) level(l);
                sum = inverse(sum), others = inverse(others);
                per_q = half == 0 ? sum : others, per_k = half == 0 ? others : sum;
            } else {
                per_q = per_sum[0], per_k = per_sum[1];
            }
            if (saved != nullptr) {
                if (half < 2 && (!EACH_WARP || rank < 32)) {
#pragma unroll
                    for (int p = 0; p < LOGITS; p++) {
                        int d = p * LANES_OF_SOFTMAX + lane % LANES_OF_SOFTMAX;
                        if (d < D) saved_t[half * D + d] = exps[p] * sum;
                    }
                }
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) {
                    int c = column(rank, j);
                    if (c == 0 || c == Q || c == K || c == BETA) saved_t[2 * D - 2 * D_ + rate[j]] = beta[j];
                }
            }

            // 4  u = beta * Delta. exp_k is not normalised, so u takes the factor 1 / sum, too.
            real u[COLUMNS];
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                int c = column(rank, j);
                real Delta = along_q[j] * per_q - along_k[j] * per_k;
                if (saved != nullptr && c < M) saved_t[2 * D + 4 + c] = Delta;
                u[j] = c < M ? beta[j] * Delta * per_k : real(0);
                o[j] = 0;
            }

            // 5  W <- W + k^T u, and step 1 of the next step
            w.change([&](int g, real (&e)[COLUMNS][4]) {
                real a[4], b[4];
                load4(x_shared + g * 4, a);
                load4(exp_k + g * 4, b);
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < COLUMNS; j++) {
                        e[j][i] += b[i] * u[j];
                        o[j] += a[i] * e[j][i];
                    }
            });

            y_t += DO;
            saved_t += SAVED_OF_STEP;
            const bool ends_segment = (t + 1) % SEGMENT == 0 || t + 1 == s.steps;
            if (saved != nullptr && ends_segment && t / SEGMENT < s.segments)
                write_columns(w, saved_t + (s.steps - 1 - t) * SAVED_OF_STEP + t / SEGMENT * (D * M), rank);
            if (t + 1 < s.steps && resets().before(t + 1)) {
                read_columns(w, initial(), rank);
                multiply_x();
            }
        }
        if (W_next != nullptr) write_columns(w, W_next + n * D * M, rank);
    }
}
