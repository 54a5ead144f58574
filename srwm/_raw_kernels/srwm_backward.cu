// Backward pass of the self-referential weight matrix: one launch, with the loop over time inside.
//
// W before a step is recovered by undoing step 5 with the saved data. Where W may have grown, that would cost digits:
// its updates are added again instead, at every step from the last known W. G is the gradient of W after the step. A
// step has two barriers: after the warps' partial sums of g_q and g_k, and after g_o. tile.cuh says which thread owns
// which entries.
#include "gates.cuh"
#include "tile.cuh"

constexpr int STAGED = 3 * D + 4; // [ q | k | x | beta ]: the inputs of a step in shared memory
constexpr int STAGED_BY_EACH = (STAGED + GROUP - 1) / GROUP;
constexpr bool AHEAD = ROWS <= 4; // whether a thread has enough registers to load the inputs one step early
constexpr int SHARES = WARPS > 1 ? WARPS * 3 * D_ : 0; // partial sums of each warp, of g_q, g_k and g_x
constexpr int SUMS = 3 * M_ + SHARES; // three vectors over columns, u, g_Delta, g_o; then the shares
constexpr int SHARED = TILES_SHARED + (SHARED_SUMS ? SUMS : 0);
static_assert(TILES_WORKING + (SHARED_SUMS ? 0 : SUMS) == SRWM_WORKING, "working memory of another size");

namespace arg {
enum { x, W, state, reset, saved, grad_y, grad_W_next, gx, gW, gstate, VIEWS };
}

// Entry e of the staged vectors: where it is loaded from, and its index in shared memory.
struct Staged {
    int of_saved, place;
    long long of_x;

    __device__ __forceinline__ Staged() {}
    __device__ __forceinline__ Staged(int e, long long entry_of_x)
        : of_saved(is_x(e) || e >= STAGED ? 0 : e < 2 * D ? e : e - D),
          place(e < 3 * D ? e / D * D_ + place_of_row(e % D) : 3 * D_ + e - 3 * D),
          of_x((is_x(e) ? e - 2 * D : 0) * entry_of_x) {}
    static __device__ __forceinline__ bool is_x(int e) { return 2 * D <= e && e < 3 * D; }
};

// gx (..., L, D) and gstate (..., D, M): every entry is written. gW (chunks, D, M): for each chunk of sequences that
// share a matrix, the sum of their gradients, in the order of the sequences. state, reset, grad_y, grad_W_next, gW and
// gstate may be null. working: SRWM_WORKING entries for each thread group of the grid. Dynamic shared memory: SHARED
// entries for each thread group, then the copy of W.
extern "C" __global__ void __launch_bounds__(GROUP * GROUPS, SRWM_BLOCKS)
    srwm_backward(const storage *__restrict__ x, const storage *__restrict__ W,
                  const state_storage *__restrict__ state, const bool *__restrict__ reset,
                  const real *__restrict__ saved, const storage *__restrict__ grad_y,
                  const state_storage *__restrict__ grad_W_next, SRWM_GRADIENT *__restrict__ gx, real *gW,
                  SRWM_STATE_GRADIENT *__restrict__ gstate, real *working, const BackwardSizes<arg::VIEWS> s) {
    extern __shared__ __align__(16) real shared_of_group[];
    // Double buffer: the next step's vectors are written while this step's are read.
    __shared__ __align__(16) real staged_of_group[GROUPS][2][3 * D_ + 4]; // q | k | x | beta
    __shared__ real sums_of_warp[GROUPS][6][WARPS]; // partial sums of g_beta (4), <g_q, q> and <g_k, k>
    __shared__ long long start_of_group[GROUPS][arg::VIEWS + PROGRESS];

    const int thread = opaque((int)threadIdx.x); // reading threadIdx again is slow
    const int group = thread / GROUP, lane = thread % 32;
    const Place at = {thread % GROUP};
    const long long first = (long long)blockIdx.x * GROUPS + group;
    real *const own_working = working + first * SRWM_WORKING, *const shared = shared_of_group + group * SHARED;
    W_Part w(own_working, shared, at.rank);
    G_Part G(own_working + W_Part::WORKING, shared + W_Part::SHARED, at.rank);
    real *const u = SHARED_SUMS ? shared + TILES_SHARED : own_working + TILES_WORKING, *const g_Delta = u + M_;
    real *const g_o = g_Delta + M_, *const shares = g_o + M_; // [3][WARPS][D_]
    long long *const start = start_of_group[group], *const progress = start + arg::VIEWS;
    storage *const block_copy = reinterpret_cast<storage *>(shared_of_group + GROUPS * SHARED);
    int buffer = 0; // of the staged vectors
    if (CACHEABLE && s.cached) copy_for_block(block_copy, W, s.views[arg::W]);

    // Which entries this thread loads for each step, and where it puts them.
    Staged entries[STAGED_BY_EACH];
    int own_of_saved[OWN];
    long long own_of_y[OWN];
#pragma unroll
    for (int p = 0; p < STAGED_BY_EACH; p++) {
        entries[p] = Staged(p * GROUP + at.rank, s.views[arg::x].entry);
        entries[p].of_saved = pinned(entries[p].of_saved), entries[p].place = pinned(entries[p].place);
        entries[p].of_x = pinned(entries[p].of_x);
    }
    auto entry = [&](int p) { return AHEAD ? entries[p] : Staged(p * GROUP + opaque(at.rank), s.views[arg::x].entry); };
    auto own_column = [&](Place place, int i) { return place.owns(i) ? place.own_column(i) : 0; };
    auto own_entry = [&](int c) { return (c < DO ? c : 0) * s.views[arg::grad_y].entry; };
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        own_of_saved[i] = pinned(2 * D + 4 + own_column(at, i));
        own_of_y[i] = pinned(own_entry(own_column(at, i)));
    }

    // Zero the padding: the sweeps read it.
    for (int i = at.rank; i < 3 * M_; i += GROUP) u[i] = 0;
    for (int i = at.rank; i < 6 * D_; i += GROUP) staged_of_group[group][i % 2][i / 2] = 0;

    if (at.rank == 0) progress[CHUNK] = first;
    while (next_chunk(s.chunks, at, progress)) {
        bool first_of_gW = true;
        auto gW_of_chunk = [&] { return gW == nullptr ? nullptr : gW + progress[GRADIENT]; };

        while (next_sequence(s.lead, s.views, at, progress, start)) {
            // In a large head the thread's indices are computed again here to save registers.
            const Place at = {AHEAD ? thread % GROUP : opaque(thread % GROUP)};

            // Prefetch: the owner of a column loads its values one step early. Vectors that all threads need are loaded
            // two steps early, and staged in shared memory.
            real next[STAGED_BY_EACH], next_Delta[OWN], next_g_y[OWN];
            // These pointers move back with the steps, so that the loop multiplies no addresses.
            const real *saved_t = saved + start[arg::saved] + s.steps * SAVED_OF_STEP; // of step t + 1
            const storage *x_t = x + start[arg::x] + s.steps * s.views[arg::x].row;
            const storage *g_y_t = source_of(grad_y, start[arg::grad_y], s.views[arg::grad_y]).first +
                                   s.steps * s.views[arg::grad_y].row;
            SRWM_GRADIENT *gx_t = gx + start[arg::gx] + s.steps * D;
            auto fetch_vectors = [&] {
                x_t -= s.views[arg::x].row;
#pragma unroll
                for (int p = 0; p < STAGED_BY_EACH; p++) {
                    // The loads are unconditional, even if a value is not needed: no thread waits for them here.
                    const Staged from = entry(p);
                    real a = (saved_t - SAVED_OF_STEP)[from.of_saved];
                    storage b = x_t[from.of_x];
                    next[p] = Staged::is_x(p * GROUP + at.rank) ? widen(b) : a;
                }
            };
            auto fetch_columns = [&] {
                saved_t -= SAVED_OF_STEP;
                g_y_t -= s.views[arg::grad_y].row;
#pragma unroll
                for (int i = 0; i < OWN; i++) {
                    const int c = AHEAD ? 0 : own_column(Place{opaque(at.rank)}, i);
                    next_Delta[i] = saved_t[AHEAD ? own_of_saved[i] : 2 * D + 4 + c];
                    next_g_y[i] = widen(g_y_t[AHEAD ? own_of_y[i] : own_entry(c)]);
                }
            };
            auto stage = [&](real *staged) {
#pragma unroll
                for (int p = 0; p < STAGED_BY_EACH; p++)
                    if (p * GROUP + at.rank < STAGED) staged[entry(p).place] = next[p];
            };
            auto resets = [&] { return resets_of(reset, start[arg::reset], s.views[arg::reset]); };
            auto initial = [&] {
                if (CACHEABLE && s.cached) return Source<storage>{block_copy, M, 1};
                return source_of(W, start[arg::W], s.views[arg::W]);
            };
            // Sets W to the matrix after the steps of a stretch from `begin` to before `end`.
            auto restore_between = [&](long long begin, long long end) {
                restore(
                    w, at, begin, end, s, resets(), initial(), state,
                    source_of(state, start[arg::state], s.views[arg::state]),
                    [&](long long segment) {
                        return saved + start[arg::saved] + s.steps * SAVED_OF_STEP + segment * (D * M);
                    },
                    [&](long long step, int d) { return (saved + start[arg::saved] + step * SAVED_OF_STEP)[D + d]; },
                    [&](long long step, int c) {
                        const real *of_step = saved + start[arg::saved] + step * SAVED_OF_STEP + 2 * D;
                        return of_step[rate_of(c)] * of_step[4 + c];
                    });
            };
            // The sum of the squares of u in the steps of a stretch, for each of the owned columns. Many steps are
            // loaded at a time, so that a thread waits for memory only a few times.
            auto square_updates = [&](long long begin, long long end, real (&sums)[OWN]) {
                constexpr int AT_ONCE = OWN < 16 ? 16 / OWN : 1;
                const Place place = {opaque(at.rank)}; // indices are computed here, not in advance
#pragma unroll
                for (int i = 0; i < OWN; i++) sums[i] = 0;
                for (long long first = begin; first < end; first += AT_ONCE) {
                    const real *const of_first = saved + start[arg::saved] + first * SAVED_OF_STEP + 2 * D;
                    const int steps = (int)(end - first);
#pragma unroll
                    for (int n = 0; n < AT_ONCE; n++)
#pragma unroll
                        for (int i = 0; i < OWN; i++) {
                            const real *const of_step = of_first + (n < steps ? n : 0) * SAVED_OF_STEP;
                            const int c = own_column(place, i);
                            const real u_c = of_step[rate_of(c)] * of_step[4 + c];
                            sums[i] += n < steps ? u_c * u_c : real(0);
                        }
                }
            };
            // Whether a block of the warp's columns of W may have grown by more than GROWTH in a stretch: growth.h. Its
            // updates add at most the sum of their norms, which is at most sqrt(steps * the sum of their squares). W is
            // the matrix at the start of the stretch.
            auto may_have_grown = [&](const real (&updates)[OWN]) {
                constexpr real LIMIT = real((GROWTH - 1) * (GROWTH - 1)) / SEGMENT;
                const Place place = {opaque(at.rank)};
                real excess[1][4] = {}; // of each block, over the limit
                auto add = [&](int c, real a) {
#pragma unroll
                    for (int j = 0; j < 4; j++) excess[0][j] += j == rate_of(c) ? a : real(0);
                };
#pragma unroll
                for (int i = 0; i < OWN; i++)
                    if (place.owns(i)) add(place.own_column(i), updates[i]);
                w.read([&](int g, real (&e)[ROWS][4]) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        real squares = 0;
#pragma unroll
                        for (int r = 0; r < ROWS; r++)
                            if (has_column(g, i)) squares += e[r][i] * e[r][i];
                        add(place.column(g, i), -LIMIT * squares);
                    }
                });
                share_sums<32, 1>(excess, lane);
                return __any_sync(ALL_LANES, excess[0][0] > 0) != 0;
            };
            // 1'  g_x of a step, added up from the partial sums of the warps.
            auto add_g_x = [&](int row, SRWM_GRADIENT *to) {
                real g_x = 0;
#pragma unroll
                for (int warp = 0; warp < WARPS; warp++) g_x += shares[(2 * WARPS + warp) * D_ + place_of_row(row)];
                narrow(g_x, to[row]);
            };

            set(G, at, source_of(grad_W_next, start[arg::grad_W_next], s.views[arg::grad_W_next]));
            if (s.steps > 0) {
                fetch_vectors();
                if (AHEAD) fetch_columns();
                stage(staged_of_group[group][buffer]);
                if (AHEAD && s.steps > 1) fetch_vectors();
            }
            GROUP_SYNC();

            bool replays = false; // whether the warp recomputes its columns of W at every step of the stretch
            for (long long t = s.steps - 1; t >= 0; t--) {
                // Computed again to save registers, as above.
                const Place at = {AHEAD ? thread % GROUP : opaque(thread % GROUP)};
                bool ends = t + 1 == s.steps || (t + 1) % SEGMENT == 0; // a stretch: undoing cannot give W after it
                if (t + 1 < s.steps && resets().before(t + 1)) {
                    ends = true;
                    take_G(G, at, gW_of_chunk(), first_of_gW);
                }
                const bool restores = ends || replays;
                if (restores) {
                    const long long begin = begin_of_stretch(resets(), t, lane);
                    real updates[OWN];
                    if (ends) square_updates(begin, t + 1, updates);
                    // First W at the start of a new stretch, for its size. Then W after the step, which is undone below
                    // also where the stretch is replayed: u is at most twice as large as the entries of W before the
                    // step, so that undoing one costs no digits.
                    for (long long end = ends ? begin : t + 1;; end = t + 1) {
                        restore_between(begin, end);
                        if (end > t) break;
                        replays = may_have_grown(updates);
                    }
                }
                const real *const staged = staged_of_group[group][buffer], *const beta = staged + 3 * D_;
                buffer ^= 1;

                // 5'  g_u = k G
                real k[ROWS], g_u[OWN], beta_of_own[OWN];
                load_rows(staged + D_, at, k);
#pragma unroll
                for (int i = 0; i < OWN; i++) beta_of_own[i] = beta[rate_of(at.own_column(i))];
                multiply_G(G, at, k, g_u);
                if (!AHEAD) fetch_columns();
                // 4'  g_Delta = beta * g_u, and this thread's part of g_beta
                real sums[1][8] = {}; // g_beta (4), <g_q, q>, <g_k, k>
#pragma unroll
                for (int i = 0; i < OWN; i++) {
                    if (at.owns(i)) {
                        const int c = at.own_column(i), rate = rate_of(c);
                        u[at.own_place(i)] = beta_of_own[i] * next_Delta[i];
                        g_Delta[at.own_place(i)] = beta_of_own[i] * g_u[i];
                        if (c < DO) g_o[at.own_place(i)] = next_g_y[i];
#pragma unroll
                        for (int j = 0; j < 4; j++) sums[0][j] += j == rate ? g_u[i] * next_Delta[i] : real(0);
                    }
                }
                if (AHEAD && t > 0) fetch_columns();
                __syncwarp();

                // Undo 5: gives W before the step.  3'  g_d = W g_Delta^T   5'  g_k = G u^T
                real g_qk[1][2 * ROWS] = {};
                sweep<true, false>(
                    w, G, [&](int g) { return OfQuad<2>(u, at, g); },
                    [&](int g, int r, const OfQuad<2> &vectors, real (&w_)[4], real (&e)[4]) {
#pragma unroll
                        for (int i = 0; i < 4; i++)
                            if (has_column(g, i)) {
                                w_[i] -= k[r] * vectors.of[0][i];
                                g_qk[0][r] += w_[i] * vectors.of[1][i];
                                g_qk[0][ROWS + r] += e[i] * vectors.of[0][i];
                            }
                    });
                real q[ROWS];
                load_rows(staged, at, q);
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    g_qk[0][ROWS + r] -= g_qk[0][r];
                    sums[0][4] += g_qk[0][r] * q[r];
                    sums[0][5] += g_qk[0][ROWS + r] * k[r];
                }
                const real rate_of_lane = beta[lane / 4 % 4]; // the rate whose gradient this lane gets
                const Share rows = share_sums<COLUMN_LANES, ROW_LANES>(g_qk, lane);
                const Share one = share_sums<32, 1>(sums, lane); // four lanes get the same sum
                constexpr int ROWS_LEFT = SHARE<2 * ROWS, COLUMN_LANES>;
                if (!AHEAD && t > 0) fetch_vectors();
                if (t > 0) stage(staged_of_group[group][buffer]);
                if (AHEAD && t > 1) fetch_vectors();
                if constexpr (WARPS == 1) {
                    // 2'  g_q^ = q * (g_q - <g_q, q>), g_k^ likewise, and g_b^
                    const int of_k = rows.first / ROWS; // the lane's sums are all of g_q or all of g_k
                    real vector[ROWS_LEFT];
#pragma unroll
                    for (int i = 0; i < ROWS_LEFT; i++)
                        vector[i] = staged[of_k * D_ + at.place_of_rows() + rows.first % ROWS + i];
                    const real dot = __shfl_sync(ALL_LANES, sums[0][0], of_k ? 20 : 16);
#pragma unroll
                    for (int i = 0; i < ROWS_LEFT; i++) {
                        const int d = at.row(rows.first % ROWS + i);
                        if (d < D && !rows.again)
                            g_o[place_of_column(Q + of_k * D + d)] = vector[i] * (g_qk[0][i] - dot);
                    }
                    if (!one.again && one.first < 4)
                        g_o[place_of_column(BETA + one.first)] = sums[0][0] * rate_of_lane * (1 - rate_of_lane);
                } else {
                    if (!one.again && one.first < 6) sums_of_warp[group][one.first][at.warp()] = sums[0][0];
#pragma unroll
                    for (int i = 0; i < ROWS_LEFT; i++) {
                        const int of_k = (rows.first + i) / ROWS, r = (rows.first + i) % ROWS;
                        if (!rows.again) shares[(of_k * WARPS + at.warp()) * D_ + at.place_of_rows() + r] = g_qk[0][i];
                    }
                    GROUP_SYNC();
                    // 2'  the same, with some entries for each thread; and g_x of step t + 1
#pragma unroll 1
                    for (int item = at.rank; item < 3 * D; item += GROUP) {
                        const int of = item / D, d = item - of * D;
                        if (of < 2) {
                            real sum = 0, dot = 0;
#pragma unroll
                            for (int warp = 0; warp < WARPS; warp++) {
                                sum += shares[(of * WARPS + warp) * D_ + place_of_row(d)];
                                dot += sums_of_warp[group][4 + of][warp];
                            }
                            g_o[place_of_column(Q + item)] = staged[of * D_ + place_of_row(d)] * (sum - dot);
                        } else if (t + 1 < s.steps) {
                            add_g_x(d, gx_t);
                        }
                    }
                    if (at.rank >= GROUP - 4) {
                        const int j = at.rank - (GROUP - 4);
                        real sum = 0;
#pragma unroll
                        for (int warp = 0; warp < WARPS; warp++) sum += sums_of_warp[group][j][warp];
                        g_o[place_of_column(BETA + j)] = sum * beta[j] * (1 - beta[j]);
                    }
                }
                // Load x before the barrier: after it another warp may overwrite it.
                real x_now[ROWS], g_x[1][ROWS] = {};
                load_rows(staged + 2 * D_, at, x_now);
                GROUP_SYNC();

                // 1'  g_x = W g_o^T   3', 1'  G += (q - k)^T g_Delta + x_t^T g_o
                sweep<false, true>(
                    w, G, [&](int g) { return OfQuad<2>(g_Delta, at, g); },
                    [&](int g, int r, const OfQuad<2> &vectors, real (&w_)[4], real (&e)[4]) {
#pragma unroll
                        for (int i = 0; i < 4; i++)
                            if (has_column(g, i)) {
                                g_x[0][r] += w_[i] * vectors.of[1][i];
                                e[i] += (q[r] - k[r]) * vectors.of[0][i];
                                e[i] += x_now[r] * vectors.of[1][i];
                            }
                    });
                gx_t -= D;
                const Share of_x = share_sums<COLUMN_LANES, ROW_LANES>(g_x, lane);
#pragma unroll
                for (int i = 0; i < SHARE<ROWS, COLUMN_LANES>; i++) {
                    const int r = of_x.first + i;
                    if constexpr (WARPS > 1) {
                        if (!of_x.again) shares[(2 * WARPS + at.warp()) * D_ + at.place_of_rows() + r] = g_x[0][i];
                    } else {
                        if (!of_x.again && at.row(r) < D) narrow(g_x[0][i], gx_t[at.row(r)]);
                    }
                }

                __syncwarp(); // all lanes have read u, g_Delta and g_o
            }
            if (WARPS > 1 && s.steps > 0) {
                GROUP_SYNC();
                for (int d = opaque(at.rank); d < D; d += GROUP) add_g_x(d, gx_t); // opaque: no addresses in advance
            }
            end_sequence(G, at, starts_with_state(state, resets(), s.steps), gW_of_chunk(), first_of_gW,
                         gstate == nullptr ? nullptr : gstate + start[arg::gstate]);
        }
        end_chunk(G, at, gW_of_chunk(), first_of_gW);
    }
}
