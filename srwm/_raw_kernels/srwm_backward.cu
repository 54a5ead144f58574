// Backward pass of the self-referential weight matrix: one launch, the loop over time inside.
//
// W before a step comes back by undoing step 5 from what forward kept; G is the gradient of W after the
// step at hand. A step has three barriers: behind g_u (and with it u, g_Delta, g_beta's terms), behind
// the two dot products of the softmaxes, behind g_o. Who owns what: roles.cuh.
//
//   SRWM_SHARED_VECTORS   1: the vectors over columns are in shared memory; 0: in the working memory
#include "gates.cuh"
#include "roles.cuh"

constexpr int STAGED = 3 * D + 4; // [ q | k | x | beta ] of a step
constexpr int STAGED_BY_EACH = (STAGED + TEAM - 1) / TEAM;
constexpr int ADDING = WARPS < 4 ? 8 : 32; // lanes that add up a block of columns
constexpr int LARGEST_BLOCK = DO > D ? DO : D > 4 ? D : 4;
constexpr bool SHARED_VECTORS = SRWM_SHARED_VECTORS;
constexpr int VECTORS = 5; // over columns: u, g_o, two of g_Delta, g_u * Delta
static_assert(Rows::REST + Columns::REST + (SHARED_VECTORS ? 0 : VECTORS * M_) == SRWM_REST,
              "working memory of another size");

enum { X, W0, RESET, KEPT, GRAD_Y, GRAD_W, GX, VIEWS };

struct BackwardSizes {
    Pieces gW;
    long long steps, segments;
    Axes lead;
    View views[VIEWS];
};

// gx (..., L, D): every entry is written. gW (pieces, D, M): the gradient of one weight summed over one
// chunk of the sequences that share it, in their order. reset and grad_W_next may be null.
// rest (SRWM_REST for each team of the grid).
extern "C" __global__ void __launch_bounds__(TEAM * TEAMS, SRWM_BLOCKS)
    srwm_backward(const storage *__restrict__ x, const storage *__restrict__ W, const bool *__restrict__ reset,
                  const real *__restrict__ kept, const storage *__restrict__ grad_y,
                  const storage *__restrict__ grad_W_next, SRWM_GX *__restrict__ gx, real *gW, real *rest,
                  const BackwardSizes s) {
    __shared__ __align__(16) real vectors_of_team[TEAMS][SHARED_VECTORS ? VECTORS : 1][SHARED_VECTORS ? M_ : 4];
    // Two of what is written before a barrier and read after the last one of the step before.
    __shared__ __align__(16) real staged_of_team[TEAMS][2][3 * D_ + 4]; // q | k | x | beta
    __shared__ long long start_of_team[TEAMS][VIEWS];
    __shared__ real dots_of_warp[TEAMS * WARPS][2];                     // <g_q, q>, <g_k, k>

    const int team = threadIdx.x / TEAM;
    const Place at = {(int)threadIdx.x % TEAM};
    const long long first = (long long)blockIdx.x * TEAMS + team, together = (long long)gridDim.x * TEAMS;
    real *const rest_of_team = rest + first * SRWM_REST;
    Rows rows(rest_of_team, at.rank);
    Columns columns(rest_of_team + Rows::REST, at.rank);
    real *const vectors = SHARED_VECTORS ? vectors_of_team[team][0] : rest_of_team + Rows::REST + Columns::REST;
    real *const u = vectors, *const g_o = vectors + M_, *const g_Delta_of_2 = vectors + 2 * M_;
    real *const g_u_Delta = vectors + 4 * M_;
    long long *const start = start_of_team[team];
    int which = 0; // of what there are two

    for (int i = at.rank; i < VECTORS * (M_ - M); i += TEAM) vectors[i / (M_ - M) * M_ + M + i % (M_ - M)] = 0;
    for (int i = at.rank; i < 6 * (D_ - D); i += TEAM)
        staged_of_team[team][i % 2][i / 2 % 3 * D_ + D + i / 6] = 0;

    for (long long piece = first; piece < s.gW.pieces; piece += together) {
        real *const gW_piece = gW + piece * (D * M);
        const long long chunk = piece % s.gW.chunks, n_0 = piece / s.gW.chunks * s.gW.sharing;
        const long long end = chunk * s.gW.run + s.gW.run;
        bool first_of_gW = true;

        for (long long i = chunk * s.gW.run; i < end && i < s.gW.sharing; i++) {
            const long long n = n_0 + i;
            TEAM_SYNC(); // all is read of the sequence before
            if (at.rank < VIEWS) start[at.rank] = start_of(n, s.lead, s.views[at.rank]);
            TEAM_SYNC();

            // What a step reads from memory is fetched a step before, a column's own share by its
            // threads; what all threads want of it two steps before, and staged in shared memory.
            real next[STAGED_BY_EACH], next_beta[COLUMNS], next_Delta[COLUMNS], next_g_y[COLUMNS];
            // Each walks back through memory a step at a time, so that nothing is multiplied on the way.
            const real *vectors_trace = kept + start[KEPT] + s.steps * TRACE, *columns_trace = vectors_trace;
            const storage *x_t = x + start[X] + s.steps * s.views[X].row;
            const storage *g_y_t = grad_y + start[GRAD_Y] + s.steps * s.views[GRAD_Y].row;
            SRWM_GX *gx_t = gx + start[GX] + s.steps * D;
            auto fetch_vectors = [&] {
                const real *const trace = vectors_trace -= TRACE;
                x_t -= s.views[X].row;
#pragma unroll
                for (int p = 0; p < STAGED_BY_EACH; p++) {
                    int e = p * TEAM + at.rank;
                    // Loads that depend on nothing, not even on whether they are wanted: none is waited for.
                    real of_trace = trace[e < 2 * D ? e : e < 3 * D ? 0 : e < STAGED ? e - D : 0];
                    storage of_x = x_t[(2 * D <= e && e < 3 * D ? e - 2 * D : 0) * s.views[X].entry];
                    next[p] = 2 * D <= e && e < 3 * D ? widen(of_x) : of_trace;
                }
            };
            auto fetch_columns = [&] {
                const real *const trace = columns_trace -= TRACE;
                g_y_t -= s.views[GRAD_Y].row;
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) {
                    int c = at.column(j) < M ? at.column(j) : 0;
                    next_beta[j] = trace[2 * D + rate_of(c)];
                    next_Delta[j] = trace[2 * D + 4 + c];
                    next_g_y[j] = widen(g_y_t[(c < DO ? c : 0) * s.views[GRAD_Y].entry]);
                }
            };
            auto stage = [&](real *staged) {
#pragma unroll
                for (int p = 0; p < STAGED_BY_EACH; p++) {
                    int e = p * TEAM + at.rank;
                    if (e < STAGED) staged[e < 3 * D ? e / D * D_ + e % D : 3 * D_ + e - 3 * D] = next[p];
                }
            };
            auto state_kept = [&](long long segment) {
                return kept + start[KEPT] + s.steps * TRACE + segment * (D * M);
            };
            auto replay_before = [&](long long t) {
                const long long row = opaque(s.views[W0].row), entry = opaque(s.views[W0].entry);
                const storage *const W_n = W + start[W0];
                replay(
                    rows, at, t, reset == nullptr ? nullptr : reset + start[RESET], s.views[RESET].row,
                    [&](int d, int c) { return real(widen(W_n[d * row + c * entry])); }, state_kept,
                    [&](long long step, int d, int c) {
                        const real *trace = kept + start[KEPT] + step * TRACE;
                        return trace[D + d] * (trace[2 * D + rate_of(c)] * trace[2 * D + 4 + c]);
                    });
            };

            if (grad_W_next == nullptr) {
                set_G(rows, columns, at, [](int, int) { return real(0); });
            } else {
                const storage *const G_n = grad_W_next + start[GRAD_W];
                const long long row = opaque(s.views[GRAD_W].row), entry = opaque(s.views[GRAD_W].entry);
                set_G(rows, columns, at, [&](int d, int c) { return real(widen(G_n[d * row + c * entry])); });
            }
            if (s.steps > 0) {
                if ((s.steps - 1) / SEGMENT < s.segments)
                    set_W(rows, at, state_kept(s.segments - 1));
                else
                    replay_before(s.steps);
                fetch_vectors();
                fetch_columns();
                stage(staged_of_team[team][which]);
                if (s.steps > 1) fetch_vectors();
                TEAM_SYNC();
            }

            for (long long t = s.steps - 1; t >= 0; t--) {
                const real *const q = staged_of_team[team][which], *const k = q + D_, *const x_now = k + D_;
                const real *const beta = x_now + D_;
                real *const g_Delta = g_Delta_of_2 + which * M_;
                real g_y[COLUMNS];
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) g_y[j] = next_g_y[j];

                // 5'  g_u = k G
                real g_u[COLUMNS], g_Delta_c[COLUMNS];
                multiply_G(columns, at, k, g_u);
                // 4'  g_Delta = beta * g_u
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) {
                    int c = at.column(j);
                    g_Delta_c[j] = c < M ? next_beta[j] * g_u[j] : real(0);
                    if (c < M && at.rank % SPLIT == 0) {
                        u[c] = next_beta[j] * next_Delta[j];
                        g_Delta[c] = g_Delta_c[j];
                        g_u_Delta[c] = g_u[j] * next_Delta[j];
                    }
                }
                if (t > 0) fetch_columns();
                TEAM_SYNC();

                // 5 undone: W before the step.  3'  g_d = W g_Delta^T   5'  g_k = G u^T
                const int d = at.row();
                const real q_d = d < D ? q[d] : real(0), k_d = d < D ? k[d] : real(0), x_d = d < D ? x_now[d] : real(0);
                real g_q = 0, g_k = 0;
                rows.change([&](int g, real (&e)[2][4]) {
                    real a[4], b[4];
                    load4(u + at.column_of_group(g), a);
                    load4(g_Delta + at.column_of_group(g), b);
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        e[0][i] -= k_d * a[i];
                        g_q += e[0][i] * b[i];
                        g_k += e[1][i] * a[i];
                    }
                });
                real of_row[2] = {g_q, g_k};
                sum_all_over<LANES>(of_row);
                g_q = of_row[0], g_k = of_row[1] - g_q;
                // 4'  g_beta: ADDING lanes for each block of columns. Its sum goes with the two dot products.
                const int j = at.rank / ADDING % 4, lane = at.rank % ADDING;
                const int begin = j == 0 ? 0 : j == 1 ? Q : j == 2 ? K : BETA;
                const int after = j == 0 ? Q : j == 1 ? K : j == 2 ? BETA : M;
                real sums[3] = {g_q * q_d, g_k * k_d, 0};
#pragma unroll 4
                for (int i = 0; i < (LARGEST_BLOCK + ADDING - 1) / ADDING; i++) {
                    int c = begin + i * ADDING + lane;
                    sums[2] += c < after ? g_u_Delta[c] : real(0);
                }
                sum_all_over<ADDING == 32 ? 32 / LANES : 1, LANES>(sums);
                if constexpr (ADDING == 32) {
                    sums[2] = sum_over<LANES>(sums[2]);
                } else {
                    real dots[2] = {sums[0], sums[1]};
                    sum_all_over<32 / LANES, LANES>(dots);
                    sums[0] = dots[0], sums[1] = dots[1], sums[2] = sum_over<ADDING>(sums[2]);
                }
                real dot_q = sums[0], dot_k = sums[1];
                if constexpr (WARPS > 1) {
                    if (threadIdx.x % 32 == 0) {
                        dots_of_warp[threadIdx.x / 32][0] = dot_q;
                        dots_of_warp[threadIdx.x / 32][1] = dot_k;
                    }
                }
                // 2'  of it
                if (at.rank < 4 * ADDING && lane == 0) g_o[BETA + j] = sums[2] * beta[j] * (1 - beta[j]);
#pragma unroll
                for (int j = 0; j < COLUMNS; j++)
                    if (at.column(j) < DO && at.rank % SPLIT == 0) g_o[at.column(j)] = g_y[j];
                if (t > 0) stage(staged_of_team[team][which ^ 1]);
                if (t > 1) fetch_vectors();
                if constexpr (WARPS > 1) {
                    TEAM_SYNC();
                    dot_q = dot_k = 0;
#pragma unroll
                    for (int warp = 0; warp < WARPS; warp++) {
                        dot_q += dots_of_warp[warp][0];
                        dot_k += dots_of_warp[warp][1];
                    }
                }
                // 2'  g_q^ = q * (g_q - <g_q, q>), g_k^ likewise
                if (d < D && at.rank % LANES == 0) {
                    g_o[Q + d] = q_d * (g_q - dot_q);
                    g_o[K + d] = k_d * (g_k - dot_k);
                }
                TEAM_SYNC();

                // 1'  g_x = W g_o^T   3', 1'  G += (q - k)^T g_Delta + x_t^T g_o
                real g_x = 0;
                rows.change([&](int g, real (&e)[2][4]) {
                    real a[4], b[4];
                    load4(g_o + at.column_of_group(g), a);
                    load4(g_Delta + at.column_of_group(g), b);
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        g_x += e[0][i] * a[i];
                        e[1][i] += (q_d - k_d) * b[i] + x_d * a[i];
                    }
                });
                g_x = sum_over<LANES>(g_x);
                gx_t -= D;
                if (d < D && at.rank % LANES == 0) narrow(g_x, gx_t[d]);
                real g_o_c[COLUMNS];
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) g_o_c[j] = at.column(j) < M ? g_o[at.column(j)] : real(0);
                columns.change([&](int g, real (&e)[COLUMNS][4]) {
                    real q_[4], k_[4], x_[4];
                    load4(q + at.row_of_group(g), q_);
                    load4(k + at.row_of_group(g), k_);
                    load4(x_now + at.row_of_group(g), x_);
#pragma unroll
                    for (int i = 0; i < 4; i++)
#pragma unroll
                        for (int j = 0; j < COLUMNS; j++)
                            e[j][i] += (q_[i] - k_[i]) * g_Delta_c[j] + x_[i] * g_o_c[j];
                });
                which ^= 1;

                if (t > 0 && reset != nullptr && reset[start[RESET] + t * s.views[RESET].row]) {
                    add_G(rows, at, gW_piece, first_of_gW);
                    first_of_gW = false;
                    set_G(rows, columns, at, [](int, int) { return real(0); });
                    if (t % SEGMENT != 0) replay_before(t);
                }
                if (t > 0 && t % SEGMENT == 0) set_W(rows, at, state_kept(t / SEGMENT - 1));
            }
            add_G(rows, at, gW_piece, first_of_gW);
            first_of_gW = false;
        }
    }
}
