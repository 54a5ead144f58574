// Forward pass of the delta rule: one launch, the loop over time inside.
//
// A thread owns whole columns of S, and no column knows of another: a team is a warp with 32 COLUMNS
// columns of one sequence, which shares q and k alone. No barrier of the block. Steps: srwm/_delta_reference.py.
#include "columns.cuh"

constexpr int INPUTS = (D + 31) / 32;
constexpr int TILE = 32 * COLUMNS, TILES = (M + TILE - 1) / TILE; // of columns
static_assert(WARPS == 1, "a team is a warp");

namespace arg {
enum { q, k, v, beta, S, state, reset, VIEWS };
}

// y (N, L, DO), S_next (N, D, DO) or null, saved (N, L * DO + segments * D * DO) or null: contiguous.
// S, state and reset may be null. rest (SRWM_REST for each team of the grid). Dynamic shared memory:
// Columns::SHARED for each team, and S if cached.
extern "C" __global__ void __launch_bounds__(TEAM * TEAMS, SRWM_BLOCKS)
    delta_forward(const storage *__restrict__ q, const storage *__restrict__ k, const storage *__restrict__ v,
                  const storage *__restrict__ beta, const storage *__restrict__ S,
                  const state_storage *__restrict__ state, const bool *__restrict__ reset, storage *__restrict__ y,
                  state_storage *__restrict__ S_next, real *__restrict__ saved, real *__restrict__ rest,
                  const ForwardSizes<arg::VIEWS> s) {
    extern __shared__ __align__(16) real shared_rest[];
    __shared__ __align__(16) real vectors[TEAMS][2][2][D_]; // q, k; two of each: one is written while one is read
    __shared__ long long start_of_team[TEAMS][arg::VIEWS];

    const int team = threadIdx.x / TEAM, rank = threadIdx.x % TEAM;
    const long long first = (long long)blockIdx.x * TEAMS + team, together = (long long)gridDim.x * TEAMS;
    Columns matrix(rest + first * Columns::REST, shared_rest + team * Columns::SHARED, rank);
    long long *const start = start_of_team[team];
    storage *const common = reinterpret_cast<storage *>(shared_rest + TEAMS * Columns::SHARED);
    int which = 0;

    if (CACHEABLE && s.cached) copy_for_block(common, S, s.views[arg::S]);
    if (rank < D_ - D)
        for (int i = 0; i < 4; i++) vectors[team][i / 2][i % 2][D + rank] = 0;

    for (long long item = first; item < s.sequences * TILES; item += together) {
        const long long n = item / TILES;
        const int c_0 = item % TILES * TILE + rank;
        TEAM_SYNC(); // all is read of the sequence before
        if (rank < arg::VIEWS) start[rank] = start_of(n, s.lead, s.views[rank]);
        TEAM_SYNC();

        // Of the step to come, so that memory is never waited for: loads that depend on nothing, not even
        // on whether they are wanted.
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
            if (CACHEABLE && s.cached) return Source<storage>{common, M, 1};
            return source_of(S, start[arg::S], s.views[arg::S]);
        };
        auto resets = [&] { return resets_of(reset, start[arg::reset], s.views[arg::reset]); };
        if (starts_with_state(state, resets(), s.steps))
            read_columns(matrix, source_of(state, start[arg::state], s.views[arg::state]), c_0);
        else read_columns(matrix, initial(), c_0);
        if (s.steps > 0) fetch(0);
        for (long long t = 0; t < s.steps; t++) {
            real *const q_t = vectors[team][which][0], *const k_t = vectors[team][which][1];
            which ^= 1;
#pragma unroll
            for (int p = 0; p < INPUTS; p++)
                if (p * 32 + rank < D) q_t[p * 32 + rank] = next_q[p], k_t[p * 32 + rank] = next_k[p];
            real v_t[COLUMNS], beta_t = next_beta;
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) v_t[j] = next_v[j];
            TEAM_SYNC();
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
