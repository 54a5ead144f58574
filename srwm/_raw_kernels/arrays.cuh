// Types, sizes and views that every kernel shares.
//
// A kernel is compiled for one D, Do and dtype. Its launch configuration (srwm/_cy/launch.pyx) defines
//
//   SRWM_STORAGE   type of the caller's arrays: float, double, __half or __nv_bfloat16
//   SRWM_STATE     type of the state that a caller gives and gets: that of the arrays, or float beside halves
//   SRWM_REAL      type of the matrix while it is worked on, and of every sum: float or double
//   SRWM_D         rows of the state matrix
//   SRWM_DO        entries of y
//   SRWM_M         columns of the state matrix
//   SRWM_TEAM      threads that work on one sequence: whole warps
//   SRWM_TEAMS     sequences at a time in a block; more than one only where a team is one warp
//   SRWM_BLOCKS    blocks that shall fit a multiprocessor, so that the compiler knows its registers
//   SRWM_REST      entries of a team's working memory, for what is not in registers
//   SRWM_SEGMENT   steps from one kept state to the next
//
// Letters and the numbered steps: srwm/_reference.py. Vectors are rows.
#ifndef SRWM_ARRAYS_CUH
#define SRWM_ARRAYS_CUH

#ifdef SRWM_HALF
#include <cuda_fp16.h>
#endif
#ifdef SRWM_BFLOAT16
#include <cuda_bf16.h>
#endif

typedef SRWM_STORAGE storage;
typedef SRWM_STATE state_storage;
typedef SRWM_REAL real;

constexpr real LOWEST = sizeof(real) == 4 ? -3.4028234663852886e38 : -1.7976931348623157e308;

constexpr int D = SRWM_D;
constexpr int DO = SRWM_DO;
constexpr int M = SRWM_M;
constexpr int TEAM = SRWM_TEAM;
constexpr int TEAMS = SRWM_TEAMS;
constexpr int WARPS = TEAM / 32;
constexpr int SEGMENT = SRWM_SEGMENT;
static_assert(TEAM % 32 == 0 && (TEAMS == 1 || WARPS == 1), "a team is whole warps, and more teams one warp each");

__host__ __device__ constexpr int up_to(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Leading axes at the most, after those that follow each other in memory are merged.
constexpr int LEADING = 8;

// Strides of one array, in entries; 0 along an axis over which it is broadcast.
struct View {
    long long lead[LEADING];
    long long row;
    long long entry;
};

// The leading axes of all arrays of a call, the last one running fastest.
struct Axes {
    long long count;
    long long sizes[LEADING];
};

// Where sequence n begins in an array. Left in shared memory, one thread for each array: the divisions
// take long, and a pointer for each array takes registers that the state wants.
__device__ __forceinline__ long long start_of(long long n, const Axes &axes, const View &view) {
    long long at = 0;
#pragma unroll 1
    for (int axis = (int)axes.count - 1; axis >= 0; axis--) {
        at += n % axes.sizes[axis] * view.lead[axis];
        n /= axes.sizes[axis];
    }
    return at;
}

// A matrix in memory, the caller's or one saved for backward, with its strides.
template <class T>
struct Source {
    const T *first;
    long long row, entry;
};

// The bytes of a zero of any type: every entry of a matrix that the caller did not give.
__device__ long long zero_bytes;

// The matrix of one sequence, which begins at `start` of an array; zeros where the array is null.
template <class T>
__device__ __forceinline__ Source<T> source_of(const T *array, long long start, const View &view) {
    if (array == nullptr) return {reinterpret_cast<const T *>(&zero_bytes), 0, 0};
    return {array + start, view.row, view.entry};
}

// The flags of one sequence: whether its matrix returns to the initial one before a step. `first` may be null.
struct Resets {
    const bool *first;
    long long row;
    __device__ __forceinline__ bool before(long long t) const { return first != nullptr && first[t * row]; }
};

__device__ __forceinline__ Resets resets_of(const bool *reset, long long start, const View &view) {
    return {reset == nullptr ? nullptr : reset + start, view.row};
}

// Whether a sequence starts with the state of the caller: if there is one, and step 0 is no reset.
__device__ __forceinline__ bool starts_with_state(const void *state, const Resets &resets, long long steps) {
    return state != nullptr && !(steps > 0 && resets.before(0));
}

// Whether any device's block could have room for a state beside its own work.
constexpr bool CACHEABLE = D * M * sizeof(storage) <= 200 * 1024;

// The state from which all sequences begin, read once by a block, into its shared memory. All threads come here.
__device__ __forceinline__ void copy_for_block(storage *copy, const storage *state, const View &view) {
    for (int i = threadIdx.x; i < D * M; i += TEAM * TEAMS)
        copy[i] = state[i / M * view.row + i % M * view.entry];
    __syncthreads();
}

// `a`, of which the compiler knows nothing: its multiples are computed where they are used. Left to
// itself it computes those of a stride for all of an unrolled loop long before, and spills them.
__device__ __forceinline__ long long opaque(long long a) {
#ifdef __CUDA_ARCH__
    asm volatile("" : "+l"(a));
#endif
    return a;
}

__device__ __forceinline__ int opaque(int a) {
#ifdef __CUDA_ARCH__
    asm volatile("" : "+r"(a));
#endif
    return a;
}

// What stands below reads memory after what stands above. Left to itself the compiler begins all the loads of
// an unrolled loop at once, into registers that it spills; for work that few steps have, waiting is better.
__device__ __forceinline__ void one_at_a_time() {
#ifdef __CUDA_ARCH__
    asm volatile("" ::: "memory");
#endif
}

// 1 / a for a neither tiny nor huge. A division looks for these cases, and what stands around its branch is
// not interleaved with it.
__device__ __forceinline__ float inverse(float a) { return __fdividef(1.0f, a); }
__device__ __forceinline__ double inverse(double a) { return 1 / a; }

__device__ __forceinline__ float widen(float a) { return a; }
__device__ __forceinline__ double widen(double a) { return a; }
__device__ __forceinline__ void narrow(float a, float &out) { out = a; }
__device__ __forceinline__ void narrow(double a, double &out) { out = a; }
#ifdef SRWM_HALF
__device__ __forceinline__ float widen(__half a) { return __half2float(a); }
__device__ __forceinline__ void narrow(float a, __half &out) { out = __float2half(a); }
#endif
#ifdef SRWM_BFLOAT16
__device__ __forceinline__ float widen(__nv_bfloat16 a) { return __bfloat162float(a); }
__device__ __forceinline__ void narrow(float a, __nv_bfloat16 &out) { out = __float2bfloat16(a); }
#endif

#endif
