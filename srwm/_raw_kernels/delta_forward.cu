// Forward pass of the delta rule: one launch, with the loop over time inside.
//
// A thread owns whole columns of S, and columns are independent of each other. A thread group is therefore one warp,
// with 32 COLUMNS columns of one sequence. Several thread groups compute a sequence; they share only q and k. No block
// barrier is needed. Steps: srwm/reference/delta.py.
#include "columns.cuh"

constexpr int INPUTS = (D + 31) / 32;
constexpr int TILE = 32 * COLUMNS;             // columns of a thread group
constexpr int TILES = (M + TILE - 1) / TILE;   // thread groups of a sequence
static_assert(WARPS == 1, "a group is a warp");

namespace arg {
enum { q, k, v, beta, S, state, reset, VIEWS };
}

// y (N, L, DO), S_next (N, D, DO) and saved (N, L * DO + segments * D * DO) are contiguous. S, state, reset, S_next and
// saved may be null. working: SRWM_WORKING entries for each thread group of the grid. Dynamic shared memory:
// Columns::SHARED entries for each thread group, then the copy of S.
extern "C" __global__ void __launch_bounds__(GROUP * GROUPS, SRWM_BLOCKS)
    delta_forward(const storage *__restrict__ q, const storage *__restrict__ k, const storage *__restrict__ v,
                  const storage *__restrict__ beta, const storage *__restrict__ S,
                  const state_storage *__restrict__ state, const bool *__restrict__ reset, storage *__restrict__ y,
                  state_storage *__restrict__ S_next, real *__restrict__ saved, real *__restrict__ working,
                  const ForwardSizes<arg::VIEWS> s) {
    extern __shared__ __align__(16) real shared_of_block[];
    __shared__ __align__(16) real vectors[GROUPS][2][2][D_]; // double buffer of q and k
    __shared__ long long start_of_group[GROUPS][arg::VIEWS];

    const int group = threadIdx.x / GROUP, rank = threadIdx.x % GROUP;
    const long long first = (long long)blockIdx.x * GROUPS + group, together = (long long)gridDim.x * GROUPS;
    Columns matrix(working + first * Columns::WORKING, shared_of_block + group * Columns::SHARED, rank);
    long long *const start = start_of_group[group];
    storage *const block_copy = reinterpret_cast<storage *>(shared_of_block + GROUPS * Columns::SHARED);
    int buffer = 0;

    if (CACHEABLE && s.cached) copy_for_block(block_copy, S, s.views[arg::S]);
    if (rank < D_ - D)
        for (int i = 0; i < 4; i++) vectors[group][i / 2][i % 2][D + rank] = 0;

    for (long long item = first; item < s.sequences * TILES; item += together) {
        const long long n = item / TILES;
        const int c_0 = item % TILES * TILE + rank;
        GROUP_SYNC(); // all threads have finished reading the previous sequence
        if (rank < arg::VIEWS) start[rank] = start_of(n, s.lead, s.views[rank]);
        GROUP_SYNC();

        // Prefetched for the next step, so that no thread waits for memory. The loads are unconditional, even if a
        // value is not needed.
        real next_q[INPUTS], next_k[INPUTS], next_v[COLUMNS], next_beta;
        auto entry_of = [&](int array, long long t, int i) {
            return start[array] + t * s.views[array].row + i * s.views[array].entry;
        };
        auto fetch = [&](long long t) {
#pragma unroll
            for (int p = 0; p < INPUTS; p++) {
                int d = p * 32 + rank;
                next_q[p] = widen(q[entry_of(arg::q, t, d < D ? d : 0)]);
                next_k[p] = widen(k[entry_of(arg::k, t, d < D ? d : 0)]);
            }
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                int c = c_0 + 32 * j;
                next_v[j] = widen(v[entry_of(arg::v, t, c < M ? c : 0)]);
            }
            next_beta = widen(beta[entry_of(arg::beta, t, 0)]);
        };

        auto initial = [&] {
            if (CACHEABLE && s.cached) return Source<storage>{block_copy, M, 1};
            return source_of(S, start[arg::S], s.views[arg::S]);
        };
        auto resets = [&] { return resets_of(reset, start[arg::reset], s.views[arg::reset]); };
        if (starts_with_state(state, resets(), s.steps))
            read_columns(matrix, source_of(state, start[arg::state], s.views[arg::state]), c_0);
        else read_columns(matrix, initial(), c_0);
        if (s.steps > 0) fetch(0);
        for (long long t = 0; t < s.steps; t++) {
            real *const q_t = vectors[group][buffer][0], *const k_t = vectors[group][buffer][1];
            buffer ^= 1;
#pragma unroll
            for (int p = 0; p < INPUTS; p++)
                if (p * 32 + rank < D) q_t[p * 32 + rank] = next_q[p], k_t[p * 32 + rank] = next_k[p];
            real v_t[COLUMNS], beta_t = next_beta;
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) v_t[j] = next_v[j];
            GROUP_SYNC();
            fetch(t + 1 < s.steps ? t + 1 : t);
            if (t > 0 && resets().before(t)) read_columns(matrix, initial(), c_0);

            real *const saved_n = saved + n * (s.steps + s.segments * D) * M;

            // 1  v_bar = k S
            real v_bar[COLUMNS] = {}, y_t[COLUMNS] = {}, u[COLUMNS];
            matrix.read([&](int g, real (&e)[COLUMNS][4]) {
                real a[4];
                load4(k_t + g * 4, a);
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < COLUMNS; j++) v_bar[j] += a[i] * e[j][i];
            });
            // 2  Delta = v - v_bar   3  u = beta Delta
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                real Delta = v_t[j] - v_bar[j];
                u[j] = beta_t * Delta;
                if (saved != nullptr && c_0 + 32 * j < M) saved_n[t * M + c_0 + 32 * j] = Delta;
            }
            // 4  S <- S + k^T u   5  y = q S
            matrix.change([&](int g, real (&e)[COLUMNS][4]) {
                real a[4], b[4];
                load4(k_t + g * 4, a);
                load4(q_t + g * 4, b);
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < COLUMNS; j++) {
                        e[j][i] += a[i] * u[j];
                        y_t[j] += b[i] * e[j][i];
                    }
            });
#pragma unroll
            for (int j = 0; j < COLUMNS; j++)
                if (c_0 + 32 * j < M) narrow(y_t[j], y[(n * s.steps + t) * M + c_0 + 32 * j]);

            const bool ends_segment = (t + 1) % SEGMENT == 0 || t + 1 == s.steps;
            if (saved != nullptr && ends_segment && t / SEGMENT < s.segments)
                write_columns(matrix, saved_n + (s.steps + t / SEGMENT * D) * M, c_0);
        }
        if (S_next != nullptr) write_columns(matrix, S_next + n * D * M, c_0);
    }
}
