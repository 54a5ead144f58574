// A thread group: barriers, sums across its threads, and how its threads hold their parts of a matrix.
#ifndef SRWM_GROUP_CUH
#define SRWM_GROUP_CUH

#include "arrays.cuh"

constexpr unsigned ALL_LANES = 0xffffffffu;

// Waits for all threads of the warp or of the block. Afterwards each sees what the others wrote to shared memory.
// These are macros, so that tools report the caller's line. A thread group of one warp needs no block barrier.
#define SHARERS_SYNC(one_warp)                 \
    do {                                       \
        if constexpr (one_warp) __syncwarp();  \
        else __syncthreads();                  \
    } while (0)

#define GROUP_SYNC() SHARERS_SYNC(WARPS == 1)

// The sum over each set of `lanes` neighbouring lanes. All of these lanes get it.
template <int lanes>
__device__ __forceinline__ real sum_over(real a) {
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2) a += __shfl_xor_sync(ALL_LANES, a, offset);
    return a;
}

template <int lanes>
__device__ __forceinline__ real max_over(real a) {
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2) a = fmax(a, __shfl_xor_sync(ALL_LANES, a, offset));
    return a;
}

// Which of the n sums a lane has at the end.
struct Share {
    int first = 0;
    bool again = false; // another lane has the same sums and writes them
};

// Adds m * n values across `lanes` lanes at a distance of `apart`. In each round, while n is even, a lane keeps
// half of the sums: one shuffle sends a value of a sum that it gives up, and receives one of a sum that it keeps. With
// odd n, all lanes keep all sums. The m vectors, or only the first of_m, are interleaved, so that no shuffle waits for
// another.
template <int lanes, int apart, int n, int m, int N>
__device__ __forceinline__ void share_sums_of(real (&a)[m][N], int lane, int of_m, Share &share) {
    if constexpr (lanes > 1) {
        constexpr int OFFSET = lanes / 2 * apart, KEPT = n % 2 == 0 ? n / 2 : n;
        const bool upper = lane & OFFSET;
        real others[m][KEPT];
#pragma unroll
        for (int k = 0; k < m; k++)
#pragma unroll
            for (int i = 0; i < KEPT && k < of_m; i++) {
                real sent = KEPT < n && !upper ? a[k][i + n - KEPT] : a[k][i];
                if (KEPT < n && upper) a[k][i] = a[k][i + n - KEPT];
                others[k][i] = __shfl_xor_sync(ALL_LANES, sent, OFFSET);
            }
#pragma unroll
        for (int k = 0; k < m; k++)
#pragma unroll
            for (int i = 0; i < KEPT && k < of_m; i++) a[k][i] += others[k][i];
        if (KEPT < n) share.first += upper ? KEPT : 0;
        else share.again |= upper;
        share_sums_of<lanes / 2, apart, KEPT>(a, lane, of_m, share);
    }
}

// A lane has its sums in the first SHARE entries of `a`: the sums `first`, `first` + 1, and so on.
template <int n, int lanes>
constexpr int SHARE = lanes > 1 ? SHARE<n % 2 == 0 ? n / 2 : n, lanes / 2> : n;
template <int n>
constexpr int SHARE<n, 1> = n;

template <int lanes, int apart, int m, int n>
__device__ __forceinline__ Share share_sums(real (&a)[m][n], int lane, int of_m = m) {
    Share share;
    share_sums_of<lanes, apart, n>(a, lane, of_m, share);
    return share;
}

// Load or store four neighbouring entries, 16 bytes at a time. `a` is aligned to 16 bytes.
__device__ __forceinline__ void load4(const float *a, float (&out)[4]) {
    float4 v = *reinterpret_cast<const float4 *>(a);
    out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
}
__device__ __forceinline__ void load4(const double *a, double (&out)[4]) {
    double2 v = *reinterpret_cast<const double2 *>(a), w = *reinterpret_cast<const double2 *>(a + 2);
    out[0] = v.x, out[1] = v.y, out[2] = w.x, out[3] = w.y;
}
__device__ __forceinline__ void store4(float *a, const float (&v)[4]) {
    *reinterpret_cast<float4 *>(a) = make_float4(v[0], v[1], v[2], v[3]);
}
__device__ __forceinline__ void store4(double *a, const double (&v)[4]) {
    *reinterpret_cast<double2 *>(a) = make_double2(v[0], v[1]);
    *reinterpret_cast<double2 *>(a + 2) = make_double2(v[2], v[3]);
}

// Where a quad is: in working memory, in shared memory or in registers.
enum Tier { FAR, NEAR, HELD };

// The part of a matrix that one thread owns: LINES lines of QUADS quads. A quad is four neighbouring entries. The last
// HELD_ quads of each line are in registers, the NEAR_ quads before them in shared memory, and the first ones in
// working memory. A thread accesses only its own entries of both memories, so no barrier is needed.
template <int LINES, int QUADS, int HELD_, int NEAR_>
struct Part {
    static constexpr int FIRST_HELD = QUADS - HELD_, FIRST_NEAR = FIRST_HELD - NEAR_;
    static constexpr int WORKING = FIRST_NEAR * LINES * 4 * GROUP; // entries of working memory of a group
    static constexpr int SHARED = NEAR_ * LINES * 4 * GROUP; // entries of shared memory of a group
    static_assert(0 <= HELD_ && 0 <= NEAR_ && 0 <= FIRST_NEAR, "more quads than there are");

    real held[HELD_ > 0 ? HELD_ : 1][LINES][4];
    real *working, *shared;

    __device__ __forceinline__ Part(real *working_of_group, real *shared_of_group, int rank)
        : working(working_of_group + rank * 4), shared(shared_of_group + rank * 4) {}

    static __host__ __device__ constexpr Tier tier(int g) {
        return g < FIRST_NEAR ? FAR : g < FIRST_HELD ? NEAR : HELD;
    }

    template <Tier tier>
    __device__ __forceinline__ real *line(int g, int l) const {
        return tier == FAR ? working + (g * LINES + l) * (4 * GROUP)
                           : shared + ((g - FIRST_NEAR) * LINES + l) * (4 * GROUP);
    }

    template <Tier tier>
    __device__ __forceinline__ void fetch(int g, int l, real (&entries)[4]) const {
        load4(line<tier>(g, l), entries);
    }

    template <Tier tier>
    __device__ __forceinline__ void store(int g, int l, const real (&entries)[4]) {
        store4(line<tier>(g, l), entries);
    }

    template <Tier tier, bool changes, class F>
    __device__ __forceinline__ void in_memory(int first, int end, F f) {
#pragma unroll 1
        for (int g = first; g < end; g++) {
            real entries[LINES][4];
#pragma unroll
            for (int l = 0; l < LINES; l++) fetch<tier>(g, l, entries[l]);
            f(g, entries);
#pragma unroll
            for (int l = 0; l < LINES; l++)
                if (changes) store<tier>(g, l, entries[l]);
        }
    }

    // Calls f(quad, entries [LINES][4]) for each quad. f may change the entries if `changes` is true.
    template <bool changes, class F>
    __device__ __forceinline__ void each(F f) {
        in_memory<FAR, changes>(0, FIRST_NEAR, f);
        in_memory<NEAR, changes>(FIRST_NEAR, FIRST_HELD, f);
#pragma unroll
        for (int g = FIRST_HELD; g < QUADS; g++) f(g, held[g - FIRST_HELD]);
    }
    template <class F>
    __device__ __forceinline__ void read(F f) { each<false>(f); }
    template <class F>
    __device__ __forceinline__ void change(F f) { each<true>(f); }
};

#endif
