// Backward pass of the delta rule: one launch, the loop over time inside.
//
// S before a step comes back by undoing step 4 from what forward kept; G is the gradient of S after the
// step at hand, without step 5' of that step. One barrier a step, behind g_u and its kin. Who owns what:
// roles.cuh, where W is S.
//
//   SRWM_SHARED_VECTORS   1: the vectors over columns are in shared memory; 0: in the working memory
#include "roles.cuh"

constexpr int STAGED = 2 * D + 1; // [ q | k | beta ] of a step
constexpr int STAGED_BY_EACH = (STAGED + TEAM - 1) / TEAM;
constexpr bool SHARED_VECTORS = SRWM_SHARED_VECTORS;
constexpr int VECTORS = 6; // over columns: two each of u, g_Delta and g_y: one is written while the last is still read
static_assert(Rows::REST + Columns::REST + (SHARED_VECTORS ? 0 : VECTORS * M_) == SRWM_REST,
              "working memory of another size");

enum { QUERY, KEY, RATE, S0, RESET, KEPT, GRAD_Y, GRAD_S, GQ, GK, GV, GRATE, VIEWS };

struct DeltaBackwardSizes {
    Pieces gS;
    long long steps, segments;
    Axes lead;
    View views[VIEWS];
};

// gq, gk (..., L, D), gv (..., L, DO), gbeta (..., L): every entry is written. gS (pieces, D, DO): the
// gradient of one initial state summed over one chunk of the sequences that share it, in their order.
// reset and grad_S_next may be null. rest (SRWM_REST for each team of the grid).
extern "C" __global__ void __launch_bounds__(TEAM * TEAMS, SRWM_BLOCKS)
    delta_backward(const storage *__restrict__ q, const storage *__restrict__ k, const storage *__restrict__ beta,
                   const storage *__restrict__ S, const bool *__restrict__ reset, const real *__restrict__ kept,
                   const storage *__restrict__ grad_y, const storage *__restrict__ grad_S_next,
                   SRWM_GX *__restrict__ gq, SRWM_GX *__restrict__ gk, SRWM_GX *__restrict__ gv,
                   SRWM_GX *__restrict__ gbeta, real *gS, real *rest, const DeltaBackwardSizes s) {
    __shared__ __align__(16) real vectors_of_team[TEAMS][SHARED_VECTORS ? VECTORS : 1][SHARED_VECTORS ? M_ : 4];
    __shared__ long long start_of_team[TEAMS][VIEWS];
    __shared__ real g_beta_of_warp[TEAMS * WARPS][2];
    // Three: the step to come is staged while one thread reads this step's and another the last's.
    __shared__ __align__(16) real staged_of_team[TEAMS][3][2 * D_ + 4]; // q | k | beta

    const int team = threadIdx.x / TEAM;
    const Place at = {(int)threadIdx.x % TEAM};
    const long long first = (long long)blockIdx.x * TEAMS + team, together = (long long)gridDim.x * TEAMS;
    real *const rest_of_team = rest + first * SRWM_REST;
    Rows rows(rest_of_team, at.rank);
    Columns columns(rest_of_team + Rows::REST, at.rank);
    real *const vectors = SHARED_VECTORS ? vectors_of_team[team][0] : rest_of_team + Rows::REST + Columns::REST;
    long long *const start = start_of_team[team];
    int which = 0, stage_of_step = 0;

    for (int i = at.rank; i < VECTORS * (M_ - M); i += TEAM) vectors[i / (M_ - M) * M_ + M + i % (M_ - M)] = 0;
    for (int i = at.rank; i < 6 * (D_ - D); i += TEAM) staged_of_team[team][i % 3][i / 3 % 2 * D_ + D + i / 6] = 0;

    for (long long piece = first; piece < s.gS.pieces; piece += together) {
        real *const gS_piece = gS + piece * (D * M);
        const long long chunk = piece % s.gS.chunks, n_0 = piece / s.gS.chunks * s.gS.sharing;
        const long long end = chunk * s.gS.run + s.gS.run;
        bool first_of_gS = true;

        for (long long i = chunk * s.gS.run; i < end && i < s.gS.sharing; i++) {
            const long long n = n_0 + i;
            TEAM_SYNC(); // all is read of the sequence before
            if (at.rank < VIEWS) start[at.rank] = start_of(n, s.lead, s.views[at.rank]);
            TEAM_SYNC();
            auto entry_of = [&](int array, long long t, int i) {
                return start[array] + t * s.views[array].row + i * s.views[array].entry;
            };

            // What a step reads from memory is fetched a step before, a column's own share by its
            // threads; what all threads want of it two steps before, and staged in shared memory.
            real next[STAGED_BY_EACH], next_Delta[COLUMNS], next_g_y[COLUMNS];
            auto fetch_vectors = [&](long long t) {
#pragma unroll
                for (int p = 0; p < STAGED_BY_EACH; p++) {
                    int e = p * TEAM + at.rank;
                    next[p] = e < D       ? widen(q[entry_of(QUERY, t, e)])
                              : e < 2 * D ? widen(k[entry_of(KEY, t, e - D)])
                              : e < STAGED ? widen(beta[entry_of(RATE, t, 0)])
                                           : real(0);
                }
            };
            auto fetch_columns = [&](long long t) {
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) {
                    int c = at.column(j);
                    next_Delta[j] = c < M ? kept[start[KEPT] + t * M + c] : real(0);
                    next_g_y[j] = c < M ? widen(grad_y[entry_of(GRAD_Y, t, c)]) : real(0);
                }
            };
            auto stage = [&](real *staged) {
#pragma unroll
                for (int p = 0; p < STAGED_BY_EACH; p++) {
                    int e = p * TEAM + at.rank;
                    if (e < STAGED) staged[e < 2 * D ? e / D * D_ + e % D : 2 * D_] = next[p];
                }
            };
            auto state_kept = [&](long long segment) { return kept + start[KEPT] + (s.steps + segment * D) * M; };
            auto replay_before = [&](long long t) {
                const long long row = opaque(s.views[S0].row), entry = opaque(s.views[S0].entry);
                const storage *const S_n = S + start[S0];
                replay(
                    rows, at, t, reset == nullptr ? nullptr : reset + start[RESET], s.views[RESET].row,
                    [&](int d, int c) { return real(widen(S_n[d * row + c * entry])); }, state_kept,
                    [&](long long step, int d, int c) {
                        real k_d = widen(k[entry_of(KEY, step, d)]), beta_t = widen(beta[entry_of(RATE, step, 0)]);
                        return k_d * (beta_t * kept[start[KEPT] + step * M + c]);
                    });
            };

            if (grad_S_next == nullptr) {
                set_G(rows, columns, at, [](int, int) { return real(0); });
            } else {
                const storage *const G_n = grad_S_next + start[GRAD_S];
                const long long row = opaque(s.views[GRAD_S].row), entry = opaque(s.views[GRAD_S].entry);
                set_G(rows, columns, at, [&](int d, int c) { return real(widen(G_n[d * row + c * entry])); });
            }
            if (s.steps > 0) {
                if ((s.steps - 1) / SEGMENT < s.segments)
                    set_W(rows, at, state_kept(s.segments - 1));
                else
                    replay_before(s.steps);
                fetch_vectors(s.steps - 1);
                fetch_columns(s.steps - 1);
                stage(staged_of_team[team][stage_of_step]);
                if (s.steps > 1) fetch_vectors(s.steps - 2);
                TEAM_SYNC();
            }

            for (long long t = s.steps - 1; t >= 0; t--) {
                const real *const q_t = staged_of_team[team][stage_of_step], *const k_t = q_t + D_;
                const real beta_t = k_t[D_];
                real *const u = vectors + which * M_, *const g_Delta = u + 2 * M_, *const g_y = g_Delta + 2 * M_;

                // 5'  G += q^T g_y   4'  g_u = k G, which is k (G before) + <k, q> g_y
                real g_u[COLUMNS], g_Delta_c[COLUMNS], g_y_c[COLUMNS], g_beta = 0;
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) g_y_c[j] = next_g_y[j];
                columns.change([&](int g, real (&e)[COLUMNS][4]) {
                    real q_[4];
                    load4(q_t + at.row_of_group(g), q_);
#pragma unroll
                    for (int i = 0; i < 4; i++)
#pragma unroll
                        for (int j = 0; j < COLUMNS; j++) e[j][i] += q_[i] * g_y_c[j];
                });
                multiply_G(columns, at, k_t, g_u);
                // 3'  g_beta = g_u . Delta   g_Delta = beta g_u   2'  g_v = g_Delta
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) {
                    g_Delta_c[j] = beta_t * g_u[j];
                    int c = at.column(j);
                    if (c < M && at.rank % SPLIT == 0) {
                        u[c] = beta_t * next_Delta[j];
                        g_Delta[c] = g_Delta_c[j];
                        g_y[c] = g_y_c[j];
                        g_beta += g_u[j] * next_Delta[j];
                        narrow(g_Delta_c[j], gv[start[GV] + t * M + c]);
                    }
                }
                g_beta = sum_over<32>(g_beta);
                if (threadIdx.x % 32 == 0) g_beta_of_warp[threadIdx.x / 32][which] = g_beta;
                stage_of_step = (stage_of_step + 1) % 3;
                if (t > 0) {
                    stage(staged_of_team[team][stage_of_step]);
                    fetch_columns(t - 1);
                }
                if (t > 1) fetch_vectors(t - 2);
                TEAM_SYNC();

                if (at.rank == 0) {
                    g_beta = 0;
                    for (int warp = 0; warp < WARPS; warp++) g_beta += g_beta_of_warp[team * WARPS + warp][which];
                    narrow(g_beta, gbeta[start[GRATE] + t]);
                }
                // 5'  g_q = g_y S'^T   4 undone: S before the step   4'  g_k = u G^T   1'  g_k -= g_Delta S^T
                // G -= k^T g_Delta
                const int d = at.row();
                const real q_d = d < D ? q_t[d] : real(0), k_d = d < D ? k_t[d] : real(0);
                real g_q = 0, g_k = 0;
                rows.change([&](int g, real (&e)[2][4]) {
                    real a[4], b[4], y_[4];
                    load4(u + at.column_of_group(g), a);
                    load4(g_Delta + at.column_of_group(g), b);
                    load4(g_y + at.column_of_group(g), y_);
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        g_q += e[0][i] * y_[i];
                        e[1][i] += q_d * y_[i];
                        e[0][i] -= k_d * a[i];
                        g_k += e[1][i] * a[i] - e[0][i] * b[i];
                        e[1][i] -= k_d * b[i];
                    }
                });
                real of_row[2] = {g_q, g_k};
                sum_all_over<LANES>(of_row);
                g_q = of_row[0], g_k = of_row[1];
                if (d < D && at.rank % LANES == 0) {
                    narrow(g_q, gq[start[GQ] + t * D + d]);
                    narrow(g_k, gk[start[GK] + t * D + d]);
                }
                columns.change([&](int g, real (&e)[COLUMNS][4]) {
                    real k_[4];
                    load4(k_t + at.row_of_group(g), k_);
#pragma unroll
                    for (int i = 0; i < 4; i++)
#pragma unroll
                        for (int j = 0; j < COLUMNS; j++) e[j][i] -= k_[i] * g_Delta_c[j];
                });
                which ^= 1;

                if (t > 0 && reset != nullptr && reset[entry_of(RESET, t, 0)]) {
                    add_G(rows, at, gS_piece, first_of_gS);
                    first_of_gS = false;
                    set_G(rows, columns, at, [](int, int) { return real(0); });
                    if (t % SEGMENT != 0) replay_before(t);
                }
                if (t > 0 && t % SEGMENT == 0) set_W(rows, at, state_kept(t / SEGMENT - 1));
            }
            add_G(rows, at, gS_piece, first_of_gS);
            first_of_gS = false;
        }
    }
}
