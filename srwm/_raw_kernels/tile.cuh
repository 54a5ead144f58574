// The tile of the matrix W and of its gradient G that a thread owns in a backward pass.
//
// A warp has whole columns: ROW_LANES neighbouring lanes share COLUMNS columns, and each of these lanes has ROWS rows
// of them. Sums down the columns (k G) therefore need only shuffles within the warp. Of sums along the rows (W g, G u)
// each warp computes partial sums, which go to shared memory and are added up there. Each column has an owner: the lane
// that computes what is computed once for the column. A lane owns up to OWN of its columns.
//
//   SRWM_ROW_LANES      neighbouring lanes that share columns
//   SRWM_COLUMNS        columns of a thread
//   SRWM_HELD_W         quads of these columns of W that a thread holds in registers
//   SRWM_HELD_G         the same for G; at least as many
//   SRWM_NEAR_W         quads of W before these, in shared memory; the ones before those are in working memory
//   SRWM_NEAR_G         the same for G
//   SRWM_GROWTH         limits of the growth of W within a segment up to which updates are undone: growth_limits.h
//   SRWM_ADDED_GROWTH   the second of them
//   SRWM_SHARED_SUMS    whether the values that threads exchange are in shared memory (1) or in working memory (0)
#ifndef SRWM_TILE_CUH
#define SRWM_TILE_CUH

#include "group.cuh"

constexpr int ROW_LANES = SRWM_ROW_LANES, COLUMN_LANES = 32 / ROW_LANES;
constexpr int ROWS = (D + ROW_LANES - 1) / ROW_LANES, COLUMNS = SRWM_COLUMNS;
constexpr int QUADS = (COLUMNS + 3) / 4;
static_assert(ROW_LANES >= 4 && WARPS * COLUMN_LANES * COLUMNS >= M, "columns without a thread");

// Padded sizes of vectors in shared memory. The rows or columns of each thread begin at a multiple of four entries, so
// that 16 bytes are read at a time. The columns of neighbouring threads begin an odd number of 16 bytes apart, so that
// they are in different banks.
constexpr int ROWS_ = up_to(ROWS, 4), D_ = ROW_LANES * ROWS_;
constexpr int COLUMNS_ = QUADS % 2 == 1 ? 4 * QUADS : 4 * QUADS + 4;
constexpr int M_ = WARPS * COLUMN_LANES * COLUMNS_;
__device__ __forceinline__ int place_of_row(int d) { return d / ROWS * ROWS_ + d % ROWS; }
__device__ __forceinline__ int place_of_column(int c) { return c / COLUMNS * COLUMNS_ + c % COLUMNS; }

constexpr int REPLICAS = ROW_LANES / 4; // lanes that get the same sum of a quad
constexpr int OWN = (QUADS + REPLICAS - 1) / REPLICAS; // columns that a lane owns, at most
constexpr bool SHARED_SUMS = SRWM_SHARED_SUMS;
constexpr int GROWTH = SRWM_GROWTH, ADDED_GROWTH = SRWM_ADDED_GROWTH;

typedef Part<ROWS, QUADS, SRWM_HELD_W, SRWM_NEAR_W> W_Part;
typedef Part<ROWS, QUADS, SRWM_HELD_G, SRWM_NEAR_G> G_Part;
static_assert(W_Part::FIRST_HELD >= G_Part::FIRST_HELD, "G goes first into registers");

// Entries of W and G in the shared memory and in the working memory of a thread group.
constexpr int TILES_SHARED = W_Part::SHARED + G_Part::SHARED, TILES_WORKING = W_Part::WORKING + G_Part::WORKING;

// A thread's place in its group, and which entries it owns.
struct Place {
    int rank;
    __device__ __forceinline__ int warp() const { return rank / 32; }
    __device__ __forceinline__ int row_lane() const { return rank % ROW_LANES; }
    __device__ __forceinline__ int columns_index() const { return rank / ROW_LANES; }
    __device__ __forceinline__ int row(int r) const { return row_lane() * ROWS + r; }
    __device__ __forceinline__ int column(int g, int i) const { return columns_index() * COLUMNS + 4 * g + i; }
    __device__ __forceinline__ int place_of_rows() const { return row_lane() * ROWS_; }
    __device__ __forceinline__ int place_of_quad(int g) const { return columns_index() * COLUMNS_ + 4 * g; }
    // The i-th column that the lane owns: its index within the thread's columns, and within the matrix.
    __device__ __forceinline__ int own_quad(int i) const { return row_lane() % REPLICAS + REPLICAS * i; }
    __device__ __forceinline__ int own(int i) const { return 4 * own_quad(i) + row_lane() / REPLICAS; }
    __device__ __forceinline__ int own_column(int i) const { return columns_index() * COLUMNS + own(i); }
    __device__ __forceinline__ int own_place(int i) const { return columns_index() * COLUMNS_ + own(i); }
    __device__ __forceinline__ bool owns(int i) const { return own(i) < COLUMNS && own_column(i) < M; }
};

// A number that every step needs. If tiles are small, it is computed once and stays in a register.
template <class T>
__device__ __forceinline__ T pinned(T a) {
    return ROWS * COLUMNS <= 64 ? opaque(a) : a;
}

// Whether a quad has an i-th column. A compile-time constant if the quad is.
__device__ __forceinline__ bool has_column(int g, int i) { return 4 * g + i < COLUMNS; }

// Whether row d and column c are in the matrix; the rest of a tile is padding. A compile-time constant if all are.
__device__ __forceinline__ bool is_entry(int d, int c) {
    return (ROW_LANES * ROWS == D || d < D) && (WARPS * COLUMN_LANES * COLUMNS == M || c < M);
}

// Loads the thread's entries of a padded vector over rows from shared memory.
__device__ __forceinline__ void load_rows(const real *a, Place at, real (&out)[ROWS]) {
#pragma unroll
    for (int r = 0; r < ROWS_; r += 4) {
        real four[4];
        load4(a + at.place_of_rows() + r, four);
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (r + i < ROWS) out[r + i] = four[i];
    }
}

// The first quad after `first` whose W or G is in another memory than that of `first`.
__host__ __device__ constexpr int end_of_tiers(int first) {
    int end = first + 1;
    while (end < QUADS && W_Part::tier(end) == W_Part::tier(first) && G_Part::tier(end) == G_Part::tier(first)) end++;
    return end;
}

// Calls f(quad, row, vectors, four entries of W, four of G) for each row of each quad from `first` on, with vectors =
// vectors_of(quad). It takes the quads that are in the same memory as `first`, and then calls itself for the others.
template <bool changes_W, bool changes_G, int first = 0, class V, class F>
__device__ __forceinline__ void sweep(W_Part &W, G_Part &G, V vectors_of, F f) {
    if constexpr (first < QUADS) {
        constexpr Tier of_W = W_Part::tier(first), of_G = G_Part::tier(first);
        constexpr int end = end_of_tiers(first);
        if constexpr (of_G != HELD) {
#pragma unroll 1
            for (int g = first; g < end; g++) {
                const auto vectors = vectors_of(g);
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    real w[4], e[4];
                    W.template fetch<of_W>(g, r, w);
                    G.template fetch<of_G>(g, r, e);
                    f(g, r, vectors, w, e);
                    if (changes_W) W.template store<of_W>(g, r, w);
                    if (changes_G) G.template store<of_G>(g, r, e);
                    if (ROWS > 4) one_at_a_time();
                }
            }
        } else {
#pragma unroll
            for (int g = first; g < end; g++) {
                const auto vectors = vectors_of(g);
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    if constexpr (of_W != HELD) {
                        real w[4];
                        W.template fetch<of_W>(g, r, w);
                        f(g, r, vectors, w, G.held[g - G_Part::FIRST_HELD][r]);
                        if (changes_W) W.template store<of_W>(g, r, w);
                    } else {
                        f(g, r, vectors, W.held[g - W_Part::FIRST_HELD][r], G.held[g - G_Part::FIRST_HELD][r]);
                    }
                }
            }
        }
        sweep<changes_W, changes_G, end>(W, G, vectors_of, f);
    }
}

// The entries of n padded vectors over columns that belong to a quad. Each vector has M_ entries.
template <int n>
struct OfQuad {
    real of[n][4];
    __device__ __forceinline__ OfQuad(const real *vectors, Place at, int g) {
#pragma unroll
        for (int v = 0; v < n; v++) load4(vectors + v * M_ + at.place_of_quad(g), of[v]);
    }
};

// The progress of a thread group: where the gradient of its chunk begins, the next sequence of the chunk, the end of
// the chunk, the next chunk. It is in shared memory to save registers.
enum { GRADIENT, SEQUENCE, END, CHUNK, PROGRESS };

// Advances to the group's next chunk. Returns false if there is none.
__device__ __forceinline__ bool next_chunk(const Chunks &of, Place at, long long *progress) {
    GROUP_SYNC(); // all threads have finished reading the previous chunk
    const long long chunk = progress[CHUNK];
    if (chunk >= of.all) return false;
    GROUP_SYNC();
    if (at.rank == 0) {
        const long long begin = chunk % of.of_matrix * of.sequences, n_0 = chunk / of.of_matrix * of.sharing;
        progress[GRADIENT] = chunk * (D * M);
        progress[SEQUENCE] = n_0 + begin;
        progress[END] = n_0 + (begin + of.sequences < of.sharing ? begin + of.sequences : of.sharing);
        progress[CHUNK] = chunk + gridDim.x * (long long)GROUPS;
    }
    return true;
}

// Advances to the chunk's next sequence, and sets `start`: where it begins in each array. False if there is none.
template <int n>
__device__ __forceinline__ bool next_sequence(const Axes &lead, const View (&views)[n], Place at, long long *progress,
                                              long long *start) {
    GROUP_SYNC(); // all threads have finished reading the previous sequence
    const long long sequence = progress[SEQUENCE];
    if (sequence >= progress[END]) return false;
    if (at.rank < n) start[at.rank] = start_of(sequence, lead, views[at.rank]);
    GROUP_SYNC();
    if (at.rank == 0) progress[SEQUENCE] = sequence + 1;
    return true;
}

// Reads a matrix; the padding of the tile becomes 0. One pointer moves from entry to entry: a pointer for each would
// take registers from the matrices.
template <class P, class T>
__device__ __forceinline__ void set(P &matrix, Place at, Source<T> from) {
    at.rank = opaque(at.rank); // addresses are computed here, not in advance
    matrix.change([&](int g, real (&e)[ROWS][4]) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const T *entry = from.first + opaque(at.row(0) * from.row + at.column(g, i) * from.entry);
#pragma unroll
            for (int r = 0; r < ROWS; r++, entry += from.row)
                e[r][i] = has_column(g, i) && is_entry(at.row(r), at.column(g, i)) ? widen(*entry) : real(0);
            __syncwarp(); // the compiler moves no load before it: all at once would spill
        }
    });
}

template <class P>
__device__ __forceinline__ void set_zero(P &matrix) {
    matrix.change([&](int, real (&e)[ROWS][4]) {
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int i = 0; i < 4; i++) e[r][i] = 0;
    });
}

// Calls f(row, column, entry of G) for each of the thread's entries.
template <class F>
__device__ __forceinline__ void each_of(G_Part &G, Place at, F f) {
    at.rank = opaque(at.rank); // addresses are computed here, not in advance
    G.read([&](int g, real (&e)[ROWS][4]) {
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int d = at.row(r), c = at.column(g, i);
                if (has_column(g, i) && is_entry(d, c)) {
                    f(d, c, e[r][i]);
                    one_at_a_time();
                }
            }
    });
}

// gW (D, M) = G the first time, += G later. Each entry always belongs to the same thread. gW may be null.
__device__ __forceinline__ void add_G(G_Part &G, Place at, real *gW, bool &first) {
    if (gW == nullptr) return;
    each_of(G, at, [&](int d, int c, real e) {
        real *to = gW + d * M + c;
        *to = e + (first ? real(0) : *to);
    });
    first = false;
}

// Backward at a reset: G is the gradient of the initial matrix, and none of it goes to the steps before the reset.
__device__ __forceinline__ void take_G(G_Part &G, Place at, real *gW, bool &first) {
    add_G(G, at, gW, first);
    set_zero(G);
}

// The end of a sequence: G is the gradient of the matrix from which it started. gW and gstate (D, M) may be null.
__device__ __forceinline__ void end_sequence(G_Part &G, Place at, bool began_with_state, real *gW, bool &first,
                                             SRWM_STATE_GRADIENT *gstate) {
    if (!began_with_state) add_G(G, at, gW, first);
    if (gstate == nullptr) return;
    if (!began_with_state) set_zero(G);
    each_of(G, at, [&](int d, int c, real e) { narrow(e, gstate[d * M + c]); });
}

// The end of a chunk. If no sequence has added anything to its gradient, it is zero.
__device__ __forceinline__ void end_chunk(G_Part &G, Place at, real *gW, bool &first) {
    if (!first) return;
    set_zero(G);
    add_G(G, at, gW, first);
}

// out = the sum over d of a[d] G[d, c], for the columns c that the lane owns.
__device__ __forceinline__ void multiply_G(G_Part &G, Place at, const real (&a)[ROWS], real (&out)[OWN]) {
#pragma unroll
    for (int i = 0; i < OWN; i++) out[i] = 0;
    auto along = [&](const real (&e)[ROWS][4], int g, real (&sums)[4]) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            sums[i] = 0;
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                if (has_column(g, i)) sums[i] += a[r] * e[r][i];
        }
    };
    auto keep = [&](int g, real sum) {
#pragma unroll
        for (int i = 0; i < OWN; i++)
            if (at.own_quad(i) == g) out[i] = sum;
    };
    auto of_quad = [&](int g, const real (&e)[ROWS][4]) {
        real sums[1][4];
        along(e, g, sums[0]);
        share_sums<ROW_LANES, 1>(sums, at.row_lane());
        keep(g, sums[0][0]);
    };
    G.in_memory<FAR, false>(0, G_Part::FIRST_NEAR, of_quad);
    G.in_memory<NEAR, false>(G_Part::FIRST_NEAR, G_Part::FIRST_HELD, of_quad);
    // Four quads at a time, so that their shuffles do not wait for each other.
    constexpr int AT_ONCE = 4;
#pragma unroll
    for (int first = G_Part::FIRST_HELD; first < QUADS; first += AT_ONCE) {
        real sums[AT_ONCE][4] = {};
#pragma unroll
        for (int g = first; g < first + AT_ONCE; g++)
            if (g < QUADS) along(G.held[g - G_Part::FIRST_HELD], g, sums[g - first]);
        share_sums<ROW_LANES, 1>(sums, at.row_lane(), QUADS - first);
#pragma unroll
        for (int g = first; g < first + AT_ONCE; g++)
            if (g < QUADS) keep(g, sums[g - first][0]);
    }
}

// A stretch is steps of a segment without a reset after the first: within it, W changes by updates alone. This is the
// first step of the stretch of step t. Each lane of a warp reads the flag of one step.
__device__ __forceinline__ long long begin_of_stretch(const Resets &resets, long long t, int lane) {
    static_assert(SEGMENT <= 32, "a segment has more steps than a warp has lanes");
    const long long segment = t / SEGMENT * SEGMENT;
    const unsigned flags = __ballot_sync(ALL_LANES, segment + lane <= t && resets.before(segment + lane));
    return flags == 0 ? segment : segment + 31 - __clz((int)flags);
}

// Sets W to the matrix after the steps of a stretch from `begin` to before `end`. W is read if it was saved, and
// otherwise recomputed from that before step `begin`: step t adds key(t, d) * value(t, c) at (d, c). That before step
// `begin` is `initial` after a reset, and else the last saved matrix; saved(i) is the one after segment i. Before step
// 0 it is `of_state`, or `initial` if `state` is null.
template <class Sizes, class I, class T, class S, class A, class B>
__device__ __forceinline__ void restore(W_Part &W, Place at, long long begin, long long end, const Sizes &s,
                                        const Resets &resets, Source<I> initial, const T *state, Source<T> of_state,
                                        S saved, A key, B value) {
    at.rank = opaque(at.rank); // addresses are computed here, not in advance
    long long after = (end - 1) / SEGMENT;
    bool from_state = false;
    if (end == begin || after >= s.segments || (end < s.steps && end % SEGMENT != 0)) {
        const bool is_reset = resets.before(begin);
        after = is_reset ? -1 : begin / SEGMENT - 1, from_state = !is_reset && state != nullptr;
    } else {
        begin = end;
    }
    // `set` is called once for each type, not for each source: every call takes registers.
    const Source<real> wide = {saved(after), M, 1};
    if constexpr (sizeof(I) == sizeof(real)) {
        set(W, at, after >= 0 ? wide : from_state ? of_state : initial);
    } else if constexpr (sizeof(T) == sizeof(real)) {
        if (after >= 0 || from_state) set(W, at, after >= 0 ? wide : of_state);
        else set(W, at, initial);
    } else {
        if (after >= 0) set(W, at, wide);
        else set(W, at, from_state ? of_state : initial);
    }
    for (long long t = begin; t < end; t++) {
        real a[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) a[r] = at.row(r) < D ? key(t, at.row(r)) : real(0);
        W.change([&](int g, real (&e)[ROWS][4]) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int c = at.column(g, i);
                real b = has_column(g, i) && c < M ? value(t, c) : real(0);
#pragma unroll
                for (int r = 0; r < ROWS; r++)
                    if (has_column(g, i)) e[r][i] += a[r] * b;
                one_at_a_time();
            }
        });
    }
}

#endif
