// Forward pass of the self-referential weight matrix: one launch, the loop over time inside.
//
// A thread owns whole columns of W, so steps 1, 3 and 5 need no sum across threads: the vectors over
// rows (x, q, k) come to all threads from shared memory, 16 bytes at a time. W is swept twice a step:
// for step 3, and for step 5 together with step 1 of the step to come.
// In small teams each warp does step 2 for itself, so that a step has one barrier: the one behind which
// the gates are read. In large ones two warps do it for all, which takes a second.
#include "columns.cuh"
#include "gates.cuh"

constexpr int GATES = 2 * D_ + 4; // q^ | k^ | b^, the first two padded with what no maximum is
constexpr bool EACH_WARP = D <= 64 && WARPS <= 16;
constexpr int SHARERS = EACH_WARP ? 32 : TEAM;       // threads with one copy of x, q and k
constexpr int LANES_OF_SOFTMAX = EACH_WARP ? 16 : 32; // of each of the two
constexpr int LOGITS = (D + LANES_OF_SOFTMAX - 1) / LANES_OF_SOFTMAX;
constexpr int INPUTS = (D + SHARERS - 1) / SHARERS;
static_assert(COLUMNS * TEAM >= M, "columns without a thread");
static_assert(EACH_WARP || WARPS >= 2, "one warp for q, one for k");

namespace arg {
enum { x, W, state, reset, VIEWS };
}

// Where the gate of column c >= Q is among them.
__device__ __forceinline__ int gate_of(int c) { return c - Q + (c >= K) * (D_ - D) + (c >= BETA) * (D_ - D); }

// y (N, L, DO), W_next (N, D, M) or null, saved (N, L * TRACE + segments * D * M) or null: contiguous.
// state and reset may be null. rest (SRWM_REST for each team of the grid). Dynamic shared memory: Columns::SHARED
// for each team, and W if cached.
extern "C" __global__ void __launch_bounds__(TEAM * TEAMS, SRWM_BLOCKS)
    srwm_forward(const storage *__restrict__ x, const storage *__restrict__ W,
                 const state_storage *__restrict__ state, const bool *__restrict__ reset, storage *__restrict__ y,
                 state_storage *__restrict__ W_next, real *__restrict__ saved, real *__restrict__ rest,
                 const ForwardSizes<arg::VIEWS> s) {
    constexpr int COPIES = TEAM * TEAMS / SHARERS;
    extern __shared__ __align__(16) real shared_rest[];
    // Two of the gates: a warp may be a step ahead of one that still reads.
    __shared__ __align__(16) real gates_of_team[TEAMS][2][GATES];
    // exp(q^ - max), exp(k^ - max), and x of the step to come.
    __shared__ __align__(16) real vectors[COPIES][3][D_];
    __shared__ real per_sum[2]; // one over the sums of the first two, where two warps do step 2 for all
    __shared__ long long start_of_team[TEAMS][arg::VIEWS];

    const int thread = opaque((int)threadIdx.x); // which is slow to ask for again
    const int team = thread / TEAM, rank = thread % TEAM, lane = thread % 32;
    const int sharer = thread % SHARERS, copy = thread / SHARERS;
    const long long first = (long long)blockIdx.x * TEAMS + team, together = (long long)gridDim.x * TEAMS;
    real *const exp_q = vectors[copy][0], *const exp_k = vectors[copy][1], *const x_shared = vectors[copy][2];
    long long *const start = start_of_team[team];
    Columns w(rest + first * Columns::REST, shared_rest + team * Columns::SHARED, rank);
    storage *const common = reinterpret_cast<storage *>(shared_rest + TEAMS * Columns::SHARED);
    int which = 0; // of the two gates
    int rate[COLUMNS]; // of each column, among the gates
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) rate[j] = opaque(2 * D_ + rate_of(column(rank, j)));

    if (CACHEABLE && s.cached) copy_for_block(common, W, s.views[arg::W]);
    if (sharer < D_ - D) exp_q[D + sharer] = exp_k[D + sharer] = x_shared[D + sharer] = 0;
    for (int i = rank; i < 4 * (D_ - D); i += TEAM) gates_of_team[team][i % 2][i / 2 % 2 * D_ + D + i / 4] = LOWEST;

    for (long long n = first; n < s.sequences; n += together) {
        TEAM_SYNC(); // all is read of the sequence before
        if (rank < arg::VIEWS) start[rank] = start_of(n, s.lead, s.views[rank]);
        TEAM_SYNC();

        real next_x[INPUTS]; // fetched a step before it is published, so that memory is never waited for
        // What walks through memory a step at a time, so that nothing is multiplied on the way.
        const storage *x_t = x + start[arg::x];
        storage *y_t = y + n * s.steps * DO;
        real *trace = saved + n * (s.steps * TRACE + s.segments * (D * M));
        auto fetch_x = [&](bool advances) {
            // Past the last step the last one again: a load that depends on nothing is not waited for here.
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
            if (CACHEABLE && s.cached) return Source<storage>{common, M, 1};
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
            real *const gates = gates_of_team[team][which];
            which ^= 1;

            // 1  o = x_t W, which the sweep before has left
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                int c = column(rank, j);
                if (c < Q) narrow(o[j], y_t[c]);
                else if (c < M) gates[gate_of(c)] = o[j];
            }
            TEAM_SYNC();

            // 2  q = softmax(q^), k = softmax(k^), each times its sum so far; beta = sigmoid(b^)
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
                if constexpr (D <= 16) { // each lane for itself: sooner done than by shuffles
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

            // 3  Delta = (q - k) W.  The sums of the softmaxes are added up by the way: a shuffle's result takes
            // as long to come as a few groups.
            constexpr int LEVELS = 5; // four within 16 lanes, and the other's sum
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
            real per_q, per_k; // one over these sums
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
                        if (d < D) trace[half * D + d] = exps[p] * sum;
                    }
                }
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) {
                    int c = column(rank, j);
                    if (c == 0 || c == Q || c == K || c == BETA) trace[2 * D - 2 * D_ + rate[j]] = beta[j];
                }
            }

            // 4  u = beta * Delta; here also what 1 / sum is still owed to k
            real u[COLUMNS];
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                int c = column(rank, j);
                real Delta = along_q[j] * per_q - along_k[j] * per_k;
                if (saved != nullptr && c < M) trace[2 * D + 4 + c] = Delta;
                u[j] = c < M ? beta[j] * Delta * per_k : real(0);
                o[j] = 0;
            }

            // 5  W <- W + k^T u, and step 1 of the step to come
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
            trace += TRACE;
            const bool ends_segment = (t + 1) % SEGMENT == 0 || t + 1 == s.steps;
            if (saved != nullptr && ends_segment && t / SEGMENT < s.segments)
                write_columns(w, trace + (s.steps - 1 - t) * TRACE + t / SEGMENT * (D * M), rank);
            if (t + 1 < s.steps && resets().before(t + 1)) {
                read_columns(w, initial(), rank);
                multiply_x();
            }
        }
        if (W_next != nullptr) write_columns(w, W_next + n * D * M, rank);
    }
}
