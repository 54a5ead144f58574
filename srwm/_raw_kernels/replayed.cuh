// What the kernels of operators share whose backward pass recomputes the matrices, in place of undoing updates.
//
// Forward saves a row of each step, and the state at the end of each segment. Backward recomputes the states of a
// segment from the one at its start, keeps those before every step (the stack), and goes back through them. Nothing is
// undone, so growth and retention cost no accuracy.
//
// A state is a matrix (D, M), then perhaps a vector. All of it is in memory: in shared memory if it fits there, and in
// working memory otherwise. Products v A are columns: each thread computes some of them. Sums along rows are computed by
// some neighbouring lanes for each row. Rows are LD entries apart, an odd number, so that neighbouring rows are
// in different banks. At padding a step changes nothing: zeros are read there, and rates are zero.
//
//   SRWM_ROW              entries saved of a step
//   SRWM_VECTOR           entries of the vector of a state; 0 without one
//   SRWM_KEPT_VECTOR      the same of those saved with the matrix of a segment
//   SRWM_VECTORS          entries of the vectors of a step
//   SRWM_SUMS             entries of the gradients of parameters, which are summed over steps
//   SRWM_SHARED_VECTORS   whether the vectors, the state (backward: its gradient, and the sums) and the stack are in
//   SRWM_SHARED_STATE     shared memory (1) or in working memory (0)
//   SRWM_SHARED_STACK
#ifndef SRWM_REPLAYED_CUH
#define SRWM_REPLAYED_CUH

#include "group.cuh"

constexpr int D_ = up_to(D, 4), LD = M | 1, MATRIX = D * LD, STATE = MATRIX + SRWM_VECTOR;
constexpr int ROW = SRWM_ROW, KEPT = D * M + SRWM_KEPT_VECTOR;
constexpr int SETTINGS = 6;

// The last arguments of the kernels: sizes, then the settings of the operator as numbers.
template <int n>
struct ReplayedForward {
    ForwardSizes<n> sizes;
    double settings[SETTINGS];
};
template <int n>
struct ReplayedBackward {
    BackwardSizes<n> sizes;
    double settings[SETTINGS];
};

__host__ __device__ constexpr int lanes_of_row(int lanes) {
    return lanes < 32 && 2 * lanes * D <= GROUP ? lanes_of_row(2 * lanes) : lanes;
}
// Lanes that share the sum along a row; of a matrix in working memory, so many that they read whole sectors.
__host__ __device__ constexpr int lanes_of_row_in(bool in_shared) { return lanes_of_row(in_shared ? 1 : 32 / sizeof(real)); }
constexpr int LANES_OF_STATE = lanes_of_row_in(SRWM_SHARED_STATE), LANES_OF_STACK = lanes_of_row_in(SRWM_SHARED_STACK);

// Takes parts of a thread group's memory, one after the other.
struct Memory {
    real *shared, *working;
    __device__ __forceinline__ real *take(bool in_shared, int entries) {
        real *&from = in_shared ? shared : working, *const part = from;
        from += up_to(entries, 4);
        return part;
    }
};

// Calls f(i) for each i < n, by the threads of a group in turn.
template <class F>
__device__ __forceinline__ void each(int rank, int n, F f) {
#pragma unroll 1
    for (int i = rank; i < n; i += GROUP) f(i);
}

// Writes write(i, read(i)) for each i < n. Several entries are read before one is written, as the compiler moves no load
// across a store.
template <class R, class W>
__device__ __forceinline__ void copy_each(int rank, int n, R read, W write) {
#pragma unroll 1
    for (int first = rank; first < n; first += 4 * GROUP) {
        real a[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int i = first + j * GROUP;
            if (i < n) a[j] = read(i);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int i = first + j * GROUP;
            if (i < n) write(i, a[j]);
        }
    }
}

// A sweep down a column goes in batches of so many rows, for the same reason.
constexpr int BATCH = sizeof(real) == 4 ? 8 : 4;

template <int n>
struct Batch {
    real of[n];
};

template <int n>
__device__ __forceinline__ Batch<n> batch_of(const real *v) {
    Batch<n> batch;
#pragma unroll
    for (int i = 0; i < n / 4 * 4; i += 4) {
        real quad[4];
        load4(v + i, quad);
#pragma unroll
        for (int j = 0; j < 4; j++) batch.of[i + j] = quad[j];
    }
#pragma unroll
    for (int i = n / 4 * 4; i < n; i++) batch.of[i] = v[i];
    return batch;
}

template <bool writes, int apart, int n, class F, class... B>
__device__ __forceinline__ void sweep_batch(const real *from, real *to, F f, const B &...batches) {
    real e[n];
#pragma unroll
    for (int i = 0; i < n; i++) e[i] = from[i * apart];
#pragma unroll
    for (int i = 0; i < n; i++) f(i, e[i], batches.of[i]...);
#pragma unroll
    for (int i = 0; i < n && writes; i++) to[i * apart] = e[i];
}

// Calls f(i, e, v...) for each entry of a column of D entries, `apart` entries apart: e is the entry, which f may change, v
// those of vectors in the same row. If `writes`, the changed entries go to the column `to`. i is a constant: a sum of even
// and one of odd rows are two chains of additions, each of which waits for its last one.
template <bool writes, int apart, class F, class... V>
__device__ __forceinline__ void sweep(const real *from, real *to, F f, const V *...v) {
#pragma unroll 1
    for (int d = 0; d + BATCH <= D; d += BATCH)
        sweep_batch<writes, apart, BATCH>(from + d * apart, to + d * apart, f, batch_of<BATCH>(v + d)...);
    if constexpr (D % BATCH > 0) {
        constexpr int d = D - D % BATCH;
        sweep_batch<writes, apart, D % BATCH>(from + d * apart, to + d * apart, f, batch_of<D % BATCH>(v + d)...);
    }
}

// f may change the entries of column c of A; v are vectors (D).
template <class F, class... V>
__device__ __forceinline__ void change_column(real *A, int c, F f, const V *...v) {
    sweep<true, LD>(A + c, A + c, f, v...);
}

// Column c of v A.
__device__ __forceinline__ real product(const real *v, const real *A, int c) {
    real sum[2] = {0, 0};
    sweep<false, LD>(A + c, nullptr, [&](int i, real e, real v_d) { sum[i % 2] += v_d * e; }, v);
    return sum[0] + sum[1];
}

// after = retention before + k^T change, and after = before + k in the part of the vector that is kept.
template <class F>
__device__ __forceinline__ void redo(int rank, real *after, const real *before, const real *k, real retention, F change) {
    each(rank, M, [&](int c) {
        const real u = change(c);
        sweep<true, LD>(before + c, after + c, [&](int, real &e, real k_d) { e = retention * e + k_d * u; }, k);
    });
    each(rank, SRWM_KEPT_VECTOR, [&](int d) { after[MATRIX + d] = before[MATRIX + d] + k[d]; });
}

// Calls f(d, the sum of term(d, c) over `columns` columns) for each row, by one lane. All threads call it.
template <int LANES, int UNROLLED, class T, class F>
__device__ __forceinline__ void sum_rows(int rank, int columns, T term, F f) {
#pragma unroll 1
    for (int i = rank; i < up_to(D * LANES, GROUP); i += GROUP) {
        const int d = i / LANES, part = i % LANES;
        real sum = 0;
        if (d < D) {
#pragma unroll UNROLLED
            for (int c = part; c < columns; c += LANES) sum += term(d, c);
        }
        sum = sum_over<LANES>(sum);
        if (d < D && part == 0) f(d, sum);
    }
}

// The same for A g^T.
template <int LANES, class F>
__device__ __forceinline__ void along_rows(int rank, const real *A, const real *g, int columns, F f) {
    sum_rows<LANES, BATCH>(rank, columns, [&](int d, int c) { return A[d * LD + c] * g[c]; }, f);
}

// Whether a thread belongs to the warp that does the first, or the second, of two things that one warp does alone.
__device__ __forceinline__ bool is_of_warp(int rank, int which) { return rank / 32 == (WARPS > 1 ? which : 0); }

// a . b, by one warp; all lanes get it.
__device__ __forceinline__ real dot_of_warp(int lane, const real *a, const real *b, int n) {
    real sum = 0;
#pragma unroll 1
    for (int i = lane; i < n; i += 32) sum += a[i] * b[i];
    return sum_over<32>(sum);
}

// out = exp(a) / (sum of exp(a) + eps) over D entries, by one warp. All is divided by exp(highest), with eps where that
// is above 1, so that no exp overflows. `out` may be `a`.
__device__ __forceinline__ void softmax_of_warp(int lane, real *out, const real *a, real eps) {
    real highest = eps > 0 ? real(0) : LOWEST, sum = 0;
#pragma unroll 1
    for (int d = lane; d < D; d += 32) highest = fmax(highest, a[d]);
    highest = max_over<32>(highest);
#pragma unroll 1
    for (int d = lane; d < D; d += 32) {
        const real e = exp(a[d] - highest);
        out[d] = e;
        sum += e;
    }
    sum = sum_over<32>(sum);
    if (eps > 0) sum += eps * exp(-highest);
#pragma unroll 1
    for (int d = lane; d < D; d += 32) out[d] = out[d] / sum;
}

// out = q (g - <g, q>): the gradient through q = softmax(.), by one warp. `out` may be `g`.
__device__ __forceinline__ void softmax_backward_of_warp(int lane, real *out, const real *g, const real *q) {
    const real along = dot_of_warp(lane, g, q, D);
#pragma unroll 1
    for (int d = lane; d < D; d += 32) out[d] = q[d] * (g[d] - along);
}

__device__ __forceinline__ real sigmoid(real a) {
    const real e = exp(-fabs(a));
    return (a < 0 ? e : real(1)) / (1 + e);
}

// An array of the caller, null if it is not given, and the number of its view.
template <class T>
struct Array {
    T *first;
    int view;
};

// A column of a caller's array.
template <class T>
struct Column {
    T *first;
    long long row;
    __device__ __forceinline__ real entry(int d) const { return widen(first[d * row]); }
};

// The sequence that a group computes: where it begins in each array, and the views.
struct Sequence {
    const long long *start;
    const View *views;
    // Entry i of step t.
    template <class T>
    __device__ __forceinline__ real entry(Array<T> a, long long t, int i) const {
        return widen(a.first[start[a.view] + t * views[a.view].row + i * views[a.view].entry]);
    }
    template <class T>
    __device__ __forceinline__ Column<T> column(Array<T> a, int c) const {
        return {a.first + start[a.view] + c * views[a.view].entry, views[a.view].row};
    }
    __device__ __forceinline__ bool flag(Array<const bool> a, long long t) const {
        return a.first[start[a.view] + t * views[a.view].row];
    }
    // Where a contiguous array's part begins.
    template <class T>
    __device__ __forceinline__ T *part(Array<T> a) const {
        return a.first == nullptr ? nullptr : a.first + start[a.view];
    }
};

// The flags of one sequence.
struct Flags {
    Array<const bool> reset, mask;
    const Sequence &of;
    __device__ __forceinline__ bool padding(long long t) const { return mask.first != nullptr && !of.flag(mask, t); }
    __device__ __forceinline__ bool begins(long long t) const {
        return reset.first != nullptr && of.flag(reset, t) && !padding(t);
    }
};

// Reads a matrix, or a vector of n entries; zeros if there is none.
template <class T>
__device__ __forceinline__ void read_matrix(int rank, real *A, Array<T> from, const Sequence &of) {
    copy_each(
        rank, D * M, [&](int i) { return from.first == nullptr ? real(0) : of.entry(from, i / M, i % M); },
        [&](int i, real a) { A[i / M * LD + i % M] = a; });
}

template <class T>
__device__ __forceinline__ void read_vector(int rank, real *z, Array<T> from, const Sequence &of, int n) {
    each(rank, n, [&](int i) { z[i] = from.first == nullptr ? real(0) : of.entry(from, i, 0); });
}

// The operands of a state: where sequences begin, and the state that some start from instead; of the matrix, then of the
// vector, if there is one.
struct States {
    Array<const storage> initial;
    Array<const state_storage> state;
    Array<const storage> initial_vector;
    Array<const state_storage> state_vector;

    // Each of the two states may be given alone.
    __device__ __forceinline__ void begin(int rank, real *A, bool is_start, const Sequence &of) const {
        if (is_start && state.first != nullptr) read_matrix(rank, A, state, of);
        else read_matrix(rank, A, initial, of);
        if (SRWM_VECTOR == 0) return;
        if (is_start && state_vector.first != nullptr) read_vector(rank, A + MATRIX, state_vector, of, SRWM_VECTOR);
        else read_vector(rank, A + MATRIX, initial_vector, of, SRWM_VECTOR);
    }
};

// Writes a state, as it is saved (`kept` entries of its vector) or returned.
template <class T>
__device__ __forceinline__ void write_matrix(int rank, T *out, const real *A) {
    copy_each(
        rank, D * M, [&](int i) { return A[i / M * LD + i % M]; }, [&](int i, real a) { narrow(a, out[i]); });
}

template <class T>
__device__ __forceinline__ void write_vector(int rank, T *out, const real *z, int n) {
    each(rank, n, [&](int i) { narrow(z[i], out[i]); });
}

__device__ __forceinline__ void keep_state(int rank, real *out, const real *A) {
    write_matrix(rank, out, A);
    write_vector(rank, out + D * M, A + MATRIX, SRWM_KEPT_VECTOR);
}

__device__ __forceinline__ void restore_state(int rank, real *A, const real *kept) {
    copy_each(
        rank, D * M, [&](int i) { return kept[i]; }, [&](int i, real a) { A[i / M * LD + i % M] = a; });
    each(rank, SRWM_KEPT_VECTOR, [&](int i) { A[MATRIX + i] = kept[D * M + i]; });
}

// Whether the state after step t is saved.
__device__ __forceinline__ bool is_saved_after(long long t, long long steps, long long segments) {
    return (t + 1 == steps || (t + 1) % SEGMENT == 0) && t / SEGMENT < segments;
}

// Where a gradient goes that is summed over the sequences of a chunk: each chunk has an array of its own. It is set by the
// first sequence, and added to by the others.
struct OfChunk {
    real *to; // null: not needed
    bool is_first;
    template <class F>
    __device__ __forceinline__ void add(int rank, int n, F f) {
        if (to == nullptr) return;
        each(rank, n, [&](int i) { to[i] = f(i) + (is_first ? real(0) : to[i]); });
        is_first = false;
    }
    // If no sequence has added to it, it is zero.
    __device__ __forceinline__ void add_nothing(int rank, int n) {
        if (is_first) add(rank, n, [](int) { return real(0); });
    }
};

// The array of `size` entries of a chunk, which begins with the sequence `first`; null if it is not needed.
__device__ __forceinline__ real *part_of_chunk(const Chunks &chunks, long long chunk, const Sequence &first, Array<real> to,
                                               int size) {
    real *const part = first.part(to);
    return part == nullptr ? nullptr : part + chunk % chunks.of_matrix * size;
}

// The gradients of the operands of a state.
struct StateGradients {
    OfChunk initial, initial_vector;
    Array<SRWM_STATE_GRADIENT> state, state_vector;
};

// Backward where a sequence begins: at a reset, or at its first step. The gradient G of a matrix, rows `apart` entries
// apart, goes to the initial operand, or to the state that it began with; then it is zero.
__device__ __forceinline__ void hand_over(int rank, real *G, int rows, int columns, int apart, bool began_with_state,
                                          OfChunk &initial, SRWM_STATE_GRADIENT *state) {
    auto entry = [&](int i) -> real & { return G[i / columns * apart + i % columns]; };
    if (!began_with_state) initial.add(rank, rows * columns, entry);
    if (state != nullptr)
        each(rank, rows * columns, [&](int i) { narrow(began_with_state ? entry(i) : real(0), state[i]); });
    each(rank, rows * columns, [&](int i) { entry(i) = 0; });
}

__device__ __forceinline__ void hand_over_states(int rank, real *G, bool is_start, bool is_reset, const States &given,
                                                 StateGradients &to, const Sequence &of) {
    hand_over(rank, G, D, M, LD, is_start && !is_reset && given.state.first != nullptr, to.initial,
              is_start ? of.part(to.state) : nullptr);
    if (SRWM_VECTOR > 0)
        hand_over(rank, G + MATRIX, 1, SRWM_VECTOR, SRWM_VECTOR,
                  is_start && !is_reset && given.state_vector.first != nullptr, to.initial_vector,
                  is_start ? of.part(to.state_vector) : nullptr);
}

// Forward over all sequences. An operator has
//   states, reset, mask       its operands
//   next, next_vector         the states after the last step; may be null
//   step(rank, A, row, t, of, flags)   step t of the sequence `of`, in place; OUT: its row. All threads see the state when
//                             it begins, and have passed a barrier before it changes the state
template <class Op, int n>
__device__ __forceinline__ void run_forward(Op &op, const ForwardSizes<n> &s, real *A, real *spare_row, real *saved,
                                            int rank, long long first, long long *start) {
    const Sequence of = {start, s.views};
    const Flags flags = {op.reset, op.mask, of};
    for (long long sequence = first; sequence < s.sequences; sequence += (long long)gridDim.x * GROUPS) {
        // All threads have finished reading the start of the previous sequence: no thread does after its last barrier.
        each(rank, n, [&](int i) { start[i] = start_of(sequence, s.lead, s.views[i]); });
        GROUP_SYNC();
        real *const own = saved == nullptr ? nullptr : saved + sequence * (s.steps * ROW + s.segments * KEPT);
        op.states.begin(rank, A, !(s.steps > 0 && flags.begins(0)), of);
        GROUP_SYNC();
        for (long long t = 0; t < s.steps; t++) {
            if (t > 0 && flags.begins(t)) {
                op.states.begin(rank, A, false, of);
                GROUP_SYNC();
            }
            op.step(rank, A, own == nullptr ? spare_row : own + t * ROW, sequence * s.steps + t, t, of, flags);
            GROUP_SYNC();
            if (own != nullptr && is_saved_after(t, s.steps, s.segments))
                keep_state(rank, own + s.steps * ROW + t / SEGMENT * KEPT, A);
        }
        if (op.next != nullptr) write_matrix(rank, op.next + sequence * (D * M), A);
        if (op.next_vector != nullptr) write_vector(rank, op.next_vector + sequence * SRWM_VECTOR, A + MATRIX, SRWM_VECTOR);
    }
}

// Backward over all sequences. An operator has
//   states, reset, mask       its operands
//   grad_next, grad_next_vector   gradients of the states after the last step
//   key, change, retention    the state after step t is  retention A + key^T change,  and its vector, where that is kept,
//                             grows by the key; entries of both by their number
//   step(rank, before, G, row, t, of, flags)   step t backward, in place. Before its first barrier it neither reads the
//                             state before the step nor the matrix of G
//   begin_chunk(rank, chunks, chunk, of), end_chunk(rank)   for the gradients of parameters; `of` is its first sequence
template <class Op, int n>
__device__ __forceinline__ void run_backward(Op &op, const BackwardSizes<n> &s, real *G, real *stack,
                                             Array<const real> saved, Array<real> g_initial,
                                             Array<real> g_initial_vector,
                                             Array<SRWM_STATE_GRADIENT> g_state,
                                             Array<SRWM_STATE_GRADIENT> g_state_vector, int rank, long long first,
                                             long long *start) {
    const Sequence of = {start, s.views};
    const Flags flags = {op.reset, op.mask, of};
    for (long long chunk = first; chunk < s.chunks.all; chunk += (long long)gridDim.x * GROUPS) {
        const long long first_of_matrix = chunk / s.chunks.of_matrix * s.chunks.sharing;
        const long long begin_of_chunk = chunk % s.chunks.of_matrix * s.chunks.sequences;
        long long left = s.chunks.sharing - begin_of_chunk;
        if (left > s.chunks.sequences) left = s.chunks.sequences;
        bool is_first = true;
        StateGradients to = {{nullptr, true}, {nullptr, true}, g_state, g_state_vector};
        for (long long sequence = first_of_matrix + begin_of_chunk; left > 0; sequence++, left--) {
            GROUP_SYNC(); // all threads have finished reading the start of the previous sequence
            each(rank, n, [&](int i) { start[i] = start_of(sequence, s.lead, s.views[i]); });
            GROUP_SYNC();
            if (is_first) { // the arrays of a chunk begin where those of its first sequence do
                to.initial.to = part_of_chunk(s.chunks, chunk, of, g_initial, D * M);
                to.initial_vector.to = part_of_chunk(s.chunks, chunk, of, g_initial_vector, SRWM_VECTOR);
                op.begin_chunk(rank, s.chunks, chunk, of);
                is_first = false;
            }
            const real *const own = saved.first + start[saved.view];
            read_matrix(rank, G, op.grad_next, of);
            if (SRWM_VECTOR > 0) read_vector(rank, G + MATRIX, op.grad_next_vector, of, SRWM_VECTOR);
            for (long long last = s.steps; last > 0;) {
                const long long begin = (last - 1) / SEGMENT * SEGMENT;
                if (begin == 0 || flags.begins(begin)) op.states.begin(rank, stack, begin == 0 && !flags.begins(0), of);
                else restore_state(rank, stack, own + s.steps * ROW + (begin / SEGMENT - 1) * KEPT);
                for (long long t = begin; t + 1 < last; t++) { // the state before step t + 1
                    const real *const before = stack + (t - begin) * STATE, *const row = own + t * ROW;
                    real *const after = stack + (t + 1 - begin) * STATE;
                    // In turns, so that a step's key does not come while another thread reads that of the step before.
                    real *const k = op.vectors + t % 2 * D_;
                    const bool is_initial = flags.begins(t + 1);
                    // What a thread needs for its first column is on its way while the key is.
                    const real change = rank < M ? op.change(row, t, rank, of) : real(0), retention = op.retention(row);
                    if (!is_initial) each(rank, D, [&](int d) { k[d] = op.key(row, t, d, of, flags); });
                    GROUP_SYNC();
                    if (is_initial) op.states.begin(rank, after, false, of);
                    else redo(rank, after, before, k, retention, [&](int c) {
                        return c == rank ? change : op.change(row, t, c, of);
                    });
                }
                GROUP_SYNC();
                for (long long t = last - 1; t >= begin; t--) {
                    op.step(rank, stack + (t - begin) * STATE, G, own + t * ROW, t, of, flags);
                    GROUP_SYNC();
                    if (t > 0 && flags.begins(t)) hand_over_states(rank, G, false, true, op.states, to, of);
                }
                last = begin;
            }
            hand_over_states(rank, G, true, s.steps > 0 && flags.begins(0), op.states, to, of);
        }
        // A chunk whose sequences all began with a state has added nothing.
        to.initial.add_nothing(rank, D * M);
        to.initial_vector.add_nothing(rank, SRWM_VECTOR);
        op.end_chunk(rank);
    }
}

// The beginning of a kernel: a thread's place, and the parts of its group's memory. `vectors`, `A`, `G`, `stack`, `sums`
// (of gradients of parameters) and a row that is not saved.
#define OF_GROUP(views)                                                          \
    extern __shared__ __align__(16) real shared_of_block[];                      \
    __shared__ long long start_of_group[GROUPS][views];                          \
    const int group = threadIdx.x / GROUP, rank = threadIdx.x % GROUP;           \
    const long long first = (long long)blockIdx.x * GROUPS + group;              \
    long long *const start = start_of_group[group];                              \
    Memory memory = {shared_of_block + group * SRWM_SHARED, working + first * SRWM_WORKING}; \
    real *const vectors = memory.take(SRWM_SHARED_VECTORS, SRWM_VECTORS)

#define OF_FORWARD(views)                                                        \
    OF_GROUP(views);                                                             \
    real *const spare_row = memory.take(SRWM_SHARED_VECTORS, ROW), *const A = memory.take(SRWM_SHARED_STATE, STATE)

#define OF_BACKWARD(views)                                                       \
    OF_GROUP(views);                                                             \
    real *const G = memory.take(SRWM_SHARED_STATE, STATE);                       \
    [[maybe_unused]] real *const sums = memory.take(SRWM_SHARED_STATE, SRWM_SUMS); \
    real *const stack = memory.take(SRWM_SHARED_STACK, SEGMENT * STATE)

#endif
