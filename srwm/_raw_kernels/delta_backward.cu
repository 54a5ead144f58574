// Backward pass of the delta rule: one launch, with the loop over time inside.
//
// S before a step is recovered by undoing step 4 with the saved data. Where S may have grown, that would cost digits:
// its updates are added again instead, at every step from the last known S. G is the gradient of S after the step,
// before step 5' adds to it. A step has one barrier, after the warps' partial sums of g_q and g_k. tile.cuh says which
// thread owns which entries; W there is S here.
#include "tile.cuh"

constexpr int STAGED = 2 * D + 1; // [ q | k | beta ]: the inputs of a step in shared memory
constexpr int STAGED_BY_EACH = (STAGED + GROUP - 1) / GROUP;
constexpr int SHARES = WARPS > 1 ? 2 * WARPS * 2 * D_ : 0; // partial sums of each warp, of g_q and g_k; double-buffered
constexpr int SUMS = 3 * M_ + SHARES; // three vectors over columns, u, g_Delta, g_y; then the shares
constexpr int SHARED = TILES_SHARED + (SHARED_SUMS ? SUMS : 0);
static_assert(TILES_WORKING + (SHARED_SUMS ? 0 : SUMS) == SRWM_WORKING, "working memory of another size");

namespace arg {
enum { q, k, v, beta, S, state, reset, saved, grad_y, grad_S_next, gq, gk, gv, gbeta, gS, gstate, VIEWS };
}

// gq, gk (..., L, D), gv (..., L, DO), gbeta (..., L) and gstate (..., D, DO): every entry is written. gS (chunks, D,
// DO): for each chunk of sequences that share a matrix, the sum of their gradients, in the order of the sequences. S,
// state, reset, grad_y, grad_S_next, gS and gstate may be null. working: SRWM_WORKING entries for each thread group of
// the grid. Dynamic shared memory: SHARED entries for each thread group, then the copy of S.
extern "C" __global__ void __launch_bounds__(GROUP * GROUPS, SRWM_BLOCKS)
    delta_backward(const storage *__restrict__ q, const storage *__restrict__ k, const storage *__restrict__ v,
                   const storage *__restrict__ beta, const storage *__restrict__ S,
                   const state_storage *__restrict__ state,
                   const bool *__restrict__ reset, const real *__restrict__ saved,
                   const storage *__restrict__ grad_y, const state_storage *__restrict__ grad_S_next,
                   SRWM_GRADIENT *__restrict__ gq, SRWM_GRADIENT *__restrict__ gk, SRWM_GRADIENT *__restrict__ gv,
                   SRWM_GRADIENT *__restrict__ gbeta, real *gS, SRWM_STATE_GRADIENT *__restrict__ gstate, real *working,
                   const BackwardSizes<arg::VIEWS> s) {
    extern __shared__ __align__(16) real shared_of_group[];
    // Double buffer: the next step's vectors are written while this step's are read.
    __shared__ __align__(16) real staged_of_group[GROUPS][2][2 * D_ + 4]; // q | k | beta
    __shared__ real g_beta_of_warp[GROUPS][2][WARPS];
    __shared__ long long start_of_group[GROUPS][arg::VIEWS + PROGRESS];

    const int group = threadIdx.x / GROUP, lane = threadIdx.x % 32;
    const Place at = {(int)threadIdx.x % GROUP};
    const long long first = (long long)blockIdx.x * GROUPS + group;
    real *const own_working = working + first * SRWM_WORKING, *const shared = shared_of_group + group * SHARED;
    W_Part w(own_working, shared, at.rank);
    G_Part G(own_working + W_Part::WORKING, shared + W_Part::SHARED, at.rank);
    real *const u = SHARED_SUMS ? shared + TILES_SHARED : own_working + TILES_WORKING, *const g_Delta = u + M_;
    real *const g_y = g_Delta + M_, *const shares = g_y + M_; // [2][2][WARPS][D_]
    long long *const start = start_of_group[group], *const progress = start + arg::VIEWS;
    storage *const block_copy = reinterpret_cast<storage *>(shared_of_group + GROUPS * SHARED);
    int buffer = 0; // of the staged vectors and of the partial sums
    if (CACHEABLE && s.cached) copy_for_block(block_copy, S, s.views[arg::S]);

    // Zero the padding: the sweeps read it.
    for (int i = at.rank; i < 3 * M_; i += GROUP) u[i] = 0;
    for (int i = at.rank; i < 4 * D_; i += GROUP) staged_of_group[group][i % 2][i / 2] = 0;

    if (at.rank == 0) progress[CHUNK] = first;
    while (next_chunk(s.chunks, at, progress)) {
        bool first_of_gS = true;
        auto gS_of_chunk = [&] { return gS == nullptr ? nullptr : gS + progress[GRADIENT]; };

        while (next_sequence(s.lead, s.views, at, progress, start)) {
            auto entry_of = [&](int array, long long t, int i) {
                return start[array] + t * s.views[array].row + i * s.views[array].entry;
            };

            // Prefetch: the owner of a column loads its values one step early. Vectors that all threads need are loaded
            // two steps early, and staged in shared memory.
            real next[STAGED_BY_EACH], next_Delta[OWN], next_g_y[OWN];
            auto fetch_vectors = [&](long long t) {
#pragma unroll
                for (int p = 0; p < STAGED_BY_EACH; p++) {
                    int e = p * GROUP + at.rank;
                    next[p] = e < D       ? widen(q[entry_of(arg::q, t, e)])
                              : e < 2 * D ? widen(k[entry_of(arg::k, t, e - D)])
                              : e < STAGED ? widen(beta[entry_of(arg::beta, t, 0)])
                                           : real(0);
                }
            };
            auto fetch_columns = [&](long long t) {
#pragma unroll
                for (int i = 0; i < OWN; i++) {
                    int c = at.owns(i) ? at.own_column(i) : 0;
                    next_Delta[i] = saved[start[arg::saved] + t * M + c];
                    next_g_y[i] = grad_y == nullptr ? real(0) : widen(grad_y[entry_of(arg::grad_y, t, c)]);
                }
            };
            auto stage = [&](real *staged) {
#pragma unroll
                for (int p = 0; p < STAGED_BY_EACH; p++) {
                    int e = p * GROUP + at.rank;
                    if (e < STAGED) staged[e < 2 * D ? e / D * D_ + place_of_row(e % D) : 2 * D_] = next[p];
                }
            };
            auto resets = [&] { return resets_of(reset, start[arg::reset], s.views[arg::reset]); };
            auto initial = [&] {
                if (CACHEABLE && s.cached) return Source<storage>{block_copy, M, 1};
                return source_of(S, start[arg::S], s.views[arg::S]);
            };
            // Sets S to the matrix after the steps of a stretch from `begin` to before `end`.
            auto restore_between = [&](long long begin, long long end) {
                restore(
                    w, at, begin, end, s, resets(), initial(), state,
                    source_of(state, start[arg::state], s.views[arg::state]),
                    [&](long long segment) { return saved + start[arg::saved] + (s.steps + segment * D) * M; },
                    [&](long long step, int d) { return real(widen(k[entry_of(arg::k, step, d)])); },
                    [&](long long step, int c) {
                        const real beta_t = widen(beta[entry_of(arg::beta, step, 0)]);
                        return beta_t * saved[start[arg::saved] + step * M + c];
                    });
            };
            // Whether the warp's columns of S may have grown too much in the steps of a stretch: growth.h. A step
            // multiplies S by |1 - beta k^2| along k, and adds u along it. Several steps are loaded at a time, so that
            // a thread waits for memory only a few times. Lanes that share columns have the k of one of these steps.
            auto may_have_grown = [&](long long begin, long long end) {
                // Loads of a thread for eight steps. Their addresses and values take registers: 255 of a thread if a
                // multiprocessor runs 256 threads, at most 168 if it runs more.
                constexpr int LOADS = 8 * ROWS / COLUMN_LANES + 8 * OWN;
                constexpr bool TOO_MANY = LOADS > (GROUP * GROUPS * SRWM_BLOCKS > 256 ? 32 : 40);
                constexpr int AT_ONCE = TOO_MANY && COLUMN_LANES < 8 ? 4 : 8, TURNS = AT_ONCE / COLUMN_LANES;
                constexpr real LIMIT = real(ADDED_GROWTH) * ADDED_GROWTH;
                const Place place = {opaque(at.rank)}; // indices are computed here, not in advance
                real product = 1; // of the factors above 1
                real excess = 0; // of the squares of the updates, over the limit: that of S when it was first updated
                bool is_updated = false;
                for (long long first = begin; first < end; first += AT_ONCE) {
                    const int steps = (int)(end - first);
                    real k_2[TURNS] = {}, beta_of[TURNS], Delta_2[AT_ONCE] = {};
#pragma unroll
                    for (int i = 0; i < TURNS; i++) {
                        const int n = i * COLUMN_LANES + lane / ROW_LANES;
                        const long long t = first + (n < steps ? n : 0);
#pragma unroll
                        for (int r = 0; r < ROWS; r++) {
                            const int d = place.row(r);
                            const real k_d = widen(k[entry_of(arg::k, t, d < D ? d : 0)]);
                            k_2[i] += d < D ? k_d * k_d : real(0);
                        }
                        const real beta_t = widen(beta[entry_of(arg::beta, t, 0)]);
                        beta_of[i] = n < steps ? beta_t : real(0);
                    }
#pragma unroll
                    for (int n = 0; n < AT_ONCE; n++)
#pragma unroll
                        for (int j = 0; j < OWN; j++) {
                            const int c = place.owns(j) ? place.own_column(j) : 0;
                            const real Delta = saved[start[arg::saved] + (first + (n < steps ? n : 0)) * M + c];
                            Delta_2[n] += place.owns(j) ? Delta * Delta : real(0);
                        }
#pragma unroll
                    for (int i = 0; i < TURNS; i++) {
                        k_2[i] = sum_over<ROW_LANES>(k_2[i]);
                        product *= fmax(real(1), fabs(1 - beta_of[i] * k_2[i]));
                    }
#pragma unroll
                    for (int n = 0; n < AT_ONCE; n++) {
                        const int from = n % COLUMN_LANES * ROW_LANES;
                        const real beta_t = __shfl_sync(ALL_LANES, beta_of[n / COLUMN_LANES], from);
                        const real along = __shfl_sync(ALL_LANES, k_2[n / COLUMN_LANES], from);
                        const real update = n < steps ? beta_t * beta_t * along * Delta_2[n] : real(0);
                        excess += update;
                        if (is_updated || !__any_sync(ALL_LANES, update > 0)) continue;
                        is_updated = true;
                        real v_bar_2 = 0;
#pragma unroll
                        for (int j = 0; j < OWN; j++) {
                            const int c = place.owns(j) ? place.own_column(j) : 0;
                            const real Delta = saved[start[arg::saved] + (first + n) * M + c];
                            const real v_bar = widen(v[entry_of(arg::v, first + n, c)]) - Delta;
                            v_bar_2 += place.owns(j) ? v_bar * v_bar : real(0);
                        }
                        excess -= LIMIT * ((v_bar_2 + Delta_2[n]) / along);
                    }
                }
#pragma unroll
                for (int offset = ROW_LANES; offset < 32; offset *= 2)
                    product *= __shfl_xor_sync(ALL_LANES, product, offset);
                excess = sum_over<32>(excess);
                return __any_sync(ALL_LANES, product > GROWTH || excess > 0) != 0;
            };

            set(G, at, source_of(grad_S_next, start[arg::grad_S_next], s.views[arg::grad_S_next]));
            if (s.steps > 0) {
                fetch_vectors(s.steps - 1);
                fetch_columns(s.steps - 1);
                stage(staged_of_group[group][buffer]);
                if (s.steps > 1) fetch_vectors(s.steps - 2);
            }
            GROUP_SYNC();

            bool replays = false; // whether the warp recomputes its columns of S at every step of the stretch
            for (long long t = s.steps - 1; t >= 0; t--) {
                bool ends = t + 1 == s.steps || (t + 1) % SEGMENT == 0; // a stretch: undoing cannot give S after it
                if (t + 1 < s.steps && resets().before(t + 1)) {
                    ends = true;
                    take_G(G, at, gS_of_chunk(), first_of_gS);
                }
                const bool restores = ends || replays;
                if (restores) {
                    const long long begin = begin_of_stretch(resets(), t, lane);
                    if (ends) replays = may_have_grown(begin, t + 1);
                    // S before the step if the stretch is replayed, else that after it
                    restore_between(begin, replays ? t : t + 1);
                }
                const real *const staged = staged_of_group[group][buffer];
                const real beta_t = staged[2 * D_];
                real *const shares_t = shares + buffer * (2 * WARPS * D_);
                real *const g_beta_t = g_beta_of_warp[group][buffer];
                buffer ^= 1;

                // 4'  g_u = k G', where 5' gives G' = G + q^T g_y. So g_u = k G + <k, q> g_y
                real q_t[ROWS], k_t[ROWS], g_u[OWN], along = 0, g_beta = 0;
                load_rows(staged, at, q_t);
                load_rows(staged + D_, at, k_t);
#pragma unroll
                for (int r = 0; r < ROWS; r++) along += k_t[r] * q_t[r];
                along = sum_over<ROW_LANES>(along);
                multiply_G(G, at, k_t, g_u);
                // 3'  g_beta = g_u . Delta   g_Delta = beta g_u   2'  g_v = g_Delta
#pragma unroll
                for (int i = 0; i < OWN; i++) {
                    if (at.owns(i)) {
                        const real g = g_u[i] + along * next_g_y[i];
                        u[at.own_place(i)] = beta_t * next_Delta[i];
                        g_Delta[at.own_place(i)] = beta_t * g;
                        g_y[at.own_place(i)] = next_g_y[i];
                        g_beta += g * next_Delta[i];
                        narrow(beta_t * g, gv[start[arg::gv] + t * M + at.own_column(i)]);
                    }
                }
                g_beta = sum_over<32>(g_beta);
                if (t > 0) {
                    stage(staged_of_group[group][buffer]);
                    fetch_columns(t - 1);
                }
                if (t > 1) fetch_vectors(t - 2);
                __syncwarp();

                // 5'  g_q = g_y S'^T, G += q^T g_y   Undo 4: gives S before the step
                // 4'  g_k = u G^T   1'  g_k -= g_Delta S^T, G -= k^T g_Delta
                real g_qk[1][2 * ROWS] = {};
                if (replays) {
                    // S is already that before the step: what S' and G' have beside S and G, and nothing to undo
                    sweep<false, false>(
                        w, G, [&](int g) { return OfQuad<3>(u, at, g); },
                        [&](int g, int r, const OfQuad<3> &vectors, real (&)[4], real (&e)[4]) {
#pragma unroll
                            for (int i = 0; i < 4; i++)
                                if (has_column(g, i)) {
                                    g_qk[0][r] += k_t[r] * vectors.of[0][i] * vectors.of[2][i];
                                    g_qk[0][ROWS + r] += (e[i] + q_t[r] * vectors.of[2][i]) * vectors.of[0][i];
                                }
                        });
                    __syncwarp(); // all lanes have read u
#pragma unroll
                    for (int i = 0; i < OWN; i++)
                        if (at.owns(i)) u[at.own_place(i)] = 0;
                    __syncwarp();
                }
                sweep<true, true>(
                    w, G, [&](int g) { return OfQuad<3>(u, at, g); },
                    [&](int g, int r, const OfQuad<3> &vectors, real (&w_)[4], real (&e)[4]) {
#pragma unroll
                        for (int i = 0; i < 4; i++)
                            if (has_column(g, i)) {
                                g_qk[0][r] += w_[i] * vectors.of[2][i];
                                e[i] += q_t[r] * vectors.of[2][i];
                                w_[i] -= k_t[r] * vectors.of[0][i];
                                g_qk[0][ROWS + r] += e[i] * vectors.of[0][i];
                                g_qk[0][ROWS + r] -= w_[i] * vectors.of[1][i];
                                e[i] -= k_t[r] * vectors.of[1][i];
                            }
                    });
                const Share rows = share_sums<COLUMN_LANES, ROW_LANES>(g_qk, lane);
#pragma unroll
                for (int i = 0; i < SHARE<2 * ROWS, COLUMN_LANES>; i++) {
                    const int of_k = (rows.first + i) / ROWS, r = (rows.first + i) % ROWS, d = at.row(r);
                    if constexpr (WARPS > 1) {
                        if (!rows.again)
                            shares_t[(of_k * WARPS + at.warp()) * D_ + at.place_of_rows() + r] = g_qk[0][i];
                    } else {
                        if (!rows.again && d < D)
                            narrow(g_qk[0][i], of_k ? gk[start[arg::gk] + t * D + d] : gq[start[arg::gq] + t * D + d]);
                    }
                }
                if (lane == 0) g_beta_t[at.warp()] = g_beta;
                GROUP_SYNC();

                if constexpr (WARPS > 1) {
#pragma unroll 1
                    for (int item = at.rank; item < 2 * D; item += GROUP) {
                        const int of_k = item / D, d = item % D;
                        real sum = 0;
#pragma unroll
                        for (int warp = 0; warp < WARPS; warp++)
                            sum += shares_t[(of_k * WARPS + warp) * D_ + place_of_row(d)];
                        narrow(sum, of_k ? gk[start[arg::gk] + t * D + d] : gq[start[arg::gq] + t * D + d]);
                    }
                }
                if (at.rank == GROUP - 1) {
                    real sum = 0;
#pragma unroll
                    for (int warp = 0; warp < WARPS; warp++) sum += g_beta_t[warp];
                    narrow(sum, gbeta[start[arg::gbeta] + t]);
                }
            }
            end_sequence(G, at, starts_with_state(state, resets(), s.steps), gS_of_chunk(), first_of_gS,
                         gstate == nullptr ? nullptr : gstate + start[arg::gstate]);
        }
        end_chunk(G, at, gS_of_chunk(), first_of_gS);
    }
}
