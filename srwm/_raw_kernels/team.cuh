// A team: the threads that work on one sequence. One warp needs no barrier of the block.
#ifndef SRWM_TEAM_CUH
#define SRWM_TEAM_CUH

#include "arrays.cuh"

constexpr unsigned ALL_LANES = 0xffffffffu;

// Waits for all threads of the warp, or of the block; what they wrote to shared memory before is then
// seen by all. Macros, so that a barrier's line is its caller's.
#define SHARERS_SYNC(one_warp)                 \
    do {                                       \
        if constexpr (one_warp) __syncwarp();  \
        else __syncthreads();                  \
    } while (0)

#define TEAM_SYNC() SHARERS_SYNC(WARPS == 1)

// Sums over groups of `lanes` neighbouring lanes, `apart` lanes from one addend to the next. Several at a
// time: a shuffle's result takes long to come, and the next shuffle need not wait for it.
template <int lanes, int apart = 1, int n>
__device__ __forceinline__ void sum_all_over(real (&a)[n]) {
#pragma unroll
    for (int offset = lanes * apart / 2; offset >= apart; offset /= 2) {
        real others[n];
#pragma unroll
        for (int i = 0; i < n; i++) others[i] = __shfl_xor_sync(ALL_LANES, a[i], offset);
#pragma unroll
        for (int i = 0; i < n; i++) a[i] += others[i];
    }
}

template <int lanes, int apart = 1>
__device__ __forceinline__ real sum_over(real a) {
    real of_one[1] = {a};
    sum_all_over<lanes, apart>(of_one);
    return of_one[0];
}

template <int lanes>
__device__ __forceinline__ real max_over(real a) {
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2) a = fmax(a, __shfl_xor_sync(ALL_LANES, a, offset));
    return a;
}

// Four entries in a row, by one 16-byte load for each 16 bytes; `a` is aligned to 16 bytes.
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

// A thread's own part of a matrix: LINES lines of GROUPS * 4 entries. The first HELD groups of each
// line are in registers, the others in `rest`, memory of which each thread of the team reads and
// writes its own entries only: no barrier ever guards it.
template <int LINES, int GROUPS, int HELD>
struct Part {
    static_assert(0 <= HELD && HELD <= GROUPS, "more groups in registers than there are");
    static constexpr int REST = (GROUPS - HELD) * LINES * 4 * TEAM; // entries of `rest` for a team

    real held[HELD > 0 ? HELD : 1][LINES][4];
    real *rest;

    __device__ __forceinline__ Part(real *rest_of_team, int rank) : rest(rest_of_team + rank * 4) {}

    __device__ __forceinline__ real *of_rest(int g, int line) const {
        return rest + ((g - HELD) * LINES + line) * (4 * TEAM);
    }

    // f(group, entries [LINES][4]) for each group, which f may read only.
    template <class F>
    __device__ __forceinline__ void read(F f) const {
#pragma unroll
        for (int g = 0; g < HELD; g++) f(g, held[g]);
#pragma unroll 1
        for (int g = HELD; g < GROUPS; g++) {
            real entries[LINES][4];
#pragma unroll
            for (int l = 0; l < LINES; l++) load4(of_rest(g, l), entries[l]);
            f(g, entries);
        }
    }

    // The same, and what f leaves in the entries is kept.
    template <class F>
    __device__ __forceinline__ void change(F f) {
#pragma unroll
        for (int g = 0; g < HELD; g++) f(g, held[g]);
#pragma unroll 1
        for (int g = HELD; g < GROUPS; g++) {
            real entries[LINES][4];
#pragma unroll
            for (int l = 0; l < LINES; l++) load4(of_rest(g, l), entries[l]);
            f(g, entries);
#pragma unroll
            for (int l = 0; l < LINES; l++) store4(of_rest(g, l), entries[l]);
        }
    }
};

#endif
