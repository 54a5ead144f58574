// The tile that a thread owns of the state W and of its gradient G in a backward pass.
//
// A warp has whole columns of both: ROW_LANES neighbouring lanes share COLUMNS of them, each with ROWS rows.
// Sums along columns (k G) are then shuffles of one warp. Sums along rows (W g, G u) end in shared memory,
// where the warps' shares are added. Each lane is also the owner of OWN single columns, for what is done
// once for a column.
//
//   SRWM_ROW_LANES      neighbouring lanes that share columns
//   SRWM_COLUMNS        columns of a thread
//   SRWM_HELD_W         groups of four of these columns whose part of W is in registers
//   SRWM_HELD_G         the same of G, at least as many
//   SRWM_NEAR_W         groups before these whose part of W is in shared memory; others are in the working memory
//   SRWM_NEAR_G         the same of G
//   SRWM_SHARED_SUMS    1: what threads exchange is in shared memory; 0: in the working memory
#ifndef SRWM_TILE_CUH
#define SRWM_TILE_CUH

#include "team.cuh"

constexpr int ROW_LANES = SRWM_ROW_LANES, COLUMN_LANES = 32 / ROW_LANES;
constexpr int ROWS = (D + ROW_LANES - 1) / ROW_LANES, COLUMNS = SRWM_COLUMNS;
constexpr int GROUPS = (COLUMNS + 3) / 4;
static_assert(ROW_LANES >= 4 && WARPS * COLUMN_LANES * COLUMNS >= M, "columns without a thread");

// Vectors in shared memory have a place for each thread's rows or columns at a multiple of four, so that
// they are read 16 bytes at a time; the columns' places are an odd number of 16 bytes apart, in other banks.
constexpr int ROWS_ = up_to(ROWS, 4), D_ = ROW_LANES * ROWS_;
constexpr int COLUMNS_ = GROUPS % 2 == 1 ? 4 * GROUPS : 4 * GROUPS + 4;
constexpr int M_ = WARPS * COLUMN_LANES * COLUMNS_;
__device__ __forceinline__ int place_of_row(int d) { return d / ROWS * ROWS_ + d % ROWS; }
__device__ __forceinline__ int place_of_column(int c) { return c / COLUMNS * COLUMNS_ + c % COLUMNS; }

constexpr int REPLICAS = ROW_LANES / 4;                       // lanes to which one sum of a group comes
constexpr int OWN = (GROUPS + REPLICAS - 1) / REPLICAS;       // columns whose owner a lane is
constexpr bool SHARED_SUMS = SRWM_SHARED_SUMS;

typedef Part<ROWS, GROUPS, SRWM_HELD_W, SRWM_NEAR_W> W_Part;
typedef Part<ROWS, GROUPS, SRWM_HELD_G, SRWM_NEAR_G> G_Part;
static_assert(W_Part::FIRST_HELD >= G_Part::FIRST_HELD, "G goes first into registers");

// What a team has of them in shared and in working memory.
constexpr int TILES_SHARED = W_Part::SHARED + G_Part::SHARED, TILES_REST = W_Part::REST + G_Part::REST;

// Which sequences share a weight, and in which pieces its gradient is summed.
struct Pieces {
    long long pieces;  // for each weight its chunks of sequences
    long long chunks;  // of a weight
    long long run;     // sequences of a chunk
    long long sharing; // sequences of a weight
};

// The last argument of a backward kernel whose arrays have so many views.
template <int n>
struct BackwardSizes {
    Pieces of;
    long long steps, segments;
    long long cached; // whether all sequences begin with one matrix, of which a block has a copy
    Axes lead;
    View views[n];
};

// Where the thread's entries are.
struct Place {
    int rank;
    __device__ __forceinline__ int warp() const { return rank / 32; }
    __device__ __forceinline__ int row_lane() const { return rank % ROW_LANES; }
    __device__ __forceinline__ int columns_index() const { return rank / ROW_LANES; }
    __device__ __forceinline__ int row(int r) const { return row_lane() * ROWS + r; }
    __device__ __forceinline__ int column(int g, int i) const { return columns_index() * COLUMNS + 4 * g + i; }
    __device__ __forceinline__ int place_of_rows() const { return row_lane() * ROWS_; }
    __device__ __forceinline__ int place_of_group(int g) const { return columns_index() * COLUMNS_ + 4 * g; }
    // The i-th column that the lane is the owner of: its number within the thread's, and overall.
    __device__ __forceinline__ int own_group(int i) const { return row_lane() % REPLICAS + REPLICAS * i; }
    __device__ __forceinline__ int own(int i) const { return 4 * own_group(i) + row_lane() / REPLICAS; }
    __device__ __forceinline__ int own_column(int i) const { return columns_index() * COLUMNS + own(i); }
    __device__ __forceinline__ int own_place(int i) const { return columns_index() * COLUMNS_ + own(i); }
    __device__ __forceinline__ bool owns(int i) const { return own(i) < COLUMNS && own_column(i) < M; }
};

// A number that every step needs: computed once where tiles are small enough to leave a register for it.
template <class T>
__device__ __forceinline__ T pinned(T a) {
    return ROWS * COLUMNS <= 64 ? opaque(a) : a;
}

// Whether a group has an i-th column; known to the compiler where the group is.
__device__ __forceinline__ bool has_column(int g, int i) { return 4 * g + i < COLUMNS; }

// Whether a row and a column of a tile are the matrix's; known where all threads' are.
__device__ __forceinline__ bool is_entry(int d, int c) {
    return (ROW_LANES * ROWS == D || d < D) && (WARPS * COLUMN_LANES * COLUMNS == M || c < M);
}

// The thread's entries of a vector over rows, as it lies in shared memory.
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

// The first group after `first` of which a matrix is elsewhere.
__host__ __device__ constexpr int end_of_tiers(int first) {
    int end = first + 1;
    while (end < GROUPS && W_Part::tier(end) == W_Part::tier(first) && G_Part::tier(end) == G_Part::tier(first)) end++;
    return end;
}

// f(group, row, vectors, four entries of W, four of G) for each row of each group from `first` on, where
// vectors = vectors_of(group): first the groups that are in the same places as this one, then the others.
template <bool changes_W, bool changes_G, int first = 0, class V, class F>
__device__ __forceinline__ void sweep(W_Part &W, G_Part &G, V vectors_of, F f) {
    if constexpr (first < GROUPS) {
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
                    if (changes_W) W.template leave<of_W>(g, r, w);
                    if (changes_G) G.template leave<of_G>(g, r, e);
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
                        if (changes_W) W.template leave<of_W>(g, r, w);
                    } else {
                        f(g, r, vectors, W.held[g - W_Part::FIRST_HELD][r], G.held[g - G_Part::FIRST_HELD][r]);
                    }
                }
            }
        }
        sweep<changes_W, changes_G, end>(W, G, vectors_of, f);
    }
}

// The parts of n vectors over columns that belong to a group, one vector M_ after the other.
template <int n>
struct OfGroup {
    real of[n][4];
    __device__ __forceinline__ OfGroup(const real *vectors, Place at, int g) {
#pragma unroll
        for (int v = 0; v < n; v++) load4(vectors + v * M_ + at.place_of_group(g), of[v]);
    }
};

// Where a team stands in its pieces; in shared memory, since registers are scarce: the first entry of the
// piece's gradient, the sequence to come, the end of the piece's, and the piece to come.
enum { GRADIENT, SEQUENCE, END, PIECE, TURN };

// Goes on to the team's next piece, if there is one.
__device__ __forceinline__ bool next_piece(const Pieces &of, Place at, long long *turn) {
    TEAM_SYNC(); // all is read of the piece before
    const long long piece = turn[PIECE];
    if (piece >= of.pieces) return false;
    TEAM_SYNC();
    if (at.rank == 0) {
        const long long begin = piece % of.chunks * of.run, n_0 = piece / of.chunks * of.sharing;
        turn[GRADIENT] = piece * (D * M);
        turn[SEQUENCE] = n_0 + begin;
        turn[END] = n_0 + (begin + of.run < of.sharing ? begin + of.run : of.sharing);
        turn[PIECE] = piece + gridDim.x * (long long)TEAMS;
    }
    return true;
}

// And to the piece's next sequence: start = where it begins in each array.
template <int n>
__device__ __forceinline__ bool next_sequence(const Axes &lead, const View (&views)[n], Place at, long long *turn,
                                              long long *start) {
    TEAM_SYNC(); // all is read of the sequence before
    const long long sequence = turn[SEQUENCE];
    if (sequence >= turn[END]) return false;
    if (at.rank < n) start[at.rank] = start_of(sequence, lead, views[at.rank]);
    TEAM_SYNC();
    if (at.rank == 0) turn[SEQUENCE] = sequence + 1;
    return true;
}

// A matrix = the entries of a source, 0 beyond. One address goes from entry to entry: each on its own they would
// take the registers that the matrices are in.
template <class P, class T>
__device__ __forceinline__ void set(P &matrix, Place at, Source<T> from) {
    at.rank = opaque(at.rank); // no address is made before and kept in registers
    matrix.change([&](int g, real (&e)[ROWS][4]) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const T *entry = from.first + opaque(at.row(0) * from.row + at.column(g, i) * from.entry);
#pragma unroll
            for (int r = 0; r < ROWS; r++, entry += from.row)
                e[r][i] = has_column(g, i) && is_entry(at.row(r), at.column(g, i)) ? widen(*entry) : real(0);
            __syncwarp(); // the compiler begins no load earlier: it would begin all, and spill for that
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

// f(row, column, entry of G) for each of the thread's entries.
template <class F>
__device__ __forceinline__ void each_of(G_Part &G, Place at, F f) {
    at.rank = opaque(at.rank); // no address is made before and kept in registers
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

// gW (D, M) = or += G; every entry has one thread, at every call the same. gW may be null.
__device__ __forceinline__ void add_G(G_Part &G, Place at, real *gW, bool &first) {
    if (gW == nullptr) return;
    each_of(G, at, [&](int d, int c, real e) {
        real *to = gW + d * M + c;
        *to = e + (first ? real(0) : *to);
    });
    first = false;
}

// What a reset does going backward: what G is after it goes to the initial matrix, and nothing to the steps before.
__device__ __forceinline__ void take_G(G_Part &G, Place at, real *gW, bool &first) {
    add_G(G, at, gW, first);
    set_zero(G);
}

// The end of a sequence: G goes to the matrix with which it began. gW and gstate (D, M) may be null.
__device__ __forceinline__ void end_sequence(G_Part &G, Place at, bool began_with_state, real *gW, bool &first,
                                             SRWM_GSTATE *gstate) {
    if (!began_with_state) add_G(G, at, gW, first);
    if (gstate == nullptr) return;
    if (!began_with_state) set_zero(G);
    each_of(G, at, [&](int d, int c, real e) { narrow(e, gstate[d * M + c]); });
}

// The end of a piece to whose gradient no sequence has added anything: it is zero.
__device__ __forceinline__ void end_piece(G_Part &G, Place at, real *gW, bool &first) {
    if (!first) return;
    set_zero(G);
    add_G(G, at, gW, first);
}

// Sums over rows: out = sum over d of a[d] G[d, c] for the columns whose owner the lane is.
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
            if (at.own_group(i) == g) out[i] = sum;
    };
    auto of_group = [&](int g, const real (&e)[ROWS][4]) {
        real sums[1][4];
        along(e, g, sums[0]);
        share_sums<ROW_LANES, 1>(sums, at.row_lane());
        keep(g, sums[0][0]);
    };
    G.in_memory<FAR, false>(0, G_Part::FIRST_NEAR, of_group);
    G.in_memory<NEAR, false>(G_Part::FIRST_NEAR, G_Part::FIRST_HELD, of_group);
    // Four groups at a time, so that the one's shuffles do not wait for the other's.
    constexpr int AT_ONCE = 4;
#pragma unroll
    for (int first = G_Part::FIRST_HELD; first < GROUPS; first += AT_ONCE) {
        real sums[AT_ONCE][4] = {};
#pragma unroll
        for (int g = first; g < first + AT_ONCE; g++)
            if (g < GROUPS) along(G.held[g - G_Part::FIRST_HELD], g, sums[g - first]);
        share_sums<ROW_LANES, 1>(sums, at.row_lane(), GROUPS - first);
#pragma unroll
        for (int g = first; g < first + AT_ONCE; g++)
            if (g < GROUPS) keep(g, sums[g - first][0]);
    }
}

// The matrix before step `end`, where it cannot come from undoing: one saved there, or the last one saved before and
// the updates since done again. saved(i) is the matrix after segment i, of which there are so many; what a step adds
// at (d, c) is key(t, d) * value(t, c). The sequence began with `of_state`, or with `initial` where `state` is null or
// step 0 is a reset; resets lead to `initial`.
template <class Sizes, class I, class T, class S, class A, class B>
__device__ __forceinline__ void restore(W_Part &W, Place at, long long end, const Sizes &s, const Resets &resets,
                                        Source<I> initial, const T *state, Source<T> of_state, S saved, A key,
                                        B value) {
    at.rank = opaque(at.rank); // no address is made before and kept in registers
    long long after = (end - 1) / SEGMENT, begin = end;
    bool from_state = state != nullptr;
    if (after >= s.segments || (end < s.steps && end % SEGMENT != 0)) {
        begin = after * SEGMENT, after--;
        for (long long t = begin; t < end; t++)
            if (resets.before(t)) begin = t, after = -1, from_state = false;
    }
    // As few texts of `set` as there are types: each of them would take registers.
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
