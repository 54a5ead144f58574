// Types, sizes and views that every kernel shares.
//
// A kernel is compiled for one D, Do and dtype. A thread group is the threads that work on one sequence at a time: one
// warp, or all warps of a block. The launch configuration (srwm/_cy/launch.pyx) defines
//
//   SRWM_STORAGE   type of the caller's arrays: float, double, __half or __nv_bfloat16
//   SRWM_STATE     type of the given and returned state: that of the arrays, or float if they are halves
//   SRWM_REAL      type of the matrix in registers, and of every sum: float or double
//   SRWM_D         rows of the matrix
//   SRWM_DO        entries of y
//   SRWM_M         columns of the matrix
//   SRWM_GROUP     threads of a thread group
//   SRWM_GROUPS    thread groups of a block; more than one only if each is one warp
//   SRWM_BLOCKS    blocks that a multiprocessor must run at the same time; this limits the registers of a thread
//   SRWM_WORKING   entries of a thread group's working memory, for data neither in registers nor in shared memory
//   SRWM_SEGMENT   steps from one saved matrix to the next
//
// The parameters of a kernel have the names of the operator's operands, and `namespace arg` numbers those that have a
// view, in the order in which srwm/_cy/cuda.pyx gives them. Letters and the numbered steps: srwm/reference.
// Vectors are rows.
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
constexpr int GROUP = SRWM_GROUP;
constexpr int GROUPS = SRWM_GROUPS;
constexpr int WARPS = GROUP / 32;
constexpr int SEGMENT = SRWM_SEGMENT;
static_assert(GROUP % 32 == 0 && (GROUPS == 1 || WARPS == 1), "a group is whole warps, and more groups one warp each");

__host__ __device__ constexpr int up_to(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Most leading axes of a call, after those that are contiguous in all arrays are merged.
constexpr int LEADING = 8;

// Strides of one array, in entries. They are 0 along the axes over which it is broadcast.
struct View {
    long long lead[LEADING];
    long long row;
    long long entry;
};

// The leading axes of a call. The last one varies fastest.
struct Axes {
    long long count;
    long long sizes[LEADING];
};

// The last argument of a forward kernel with n views.
template <int n>
struct ForwardSizes {
    long long sequences, steps, segments;
    long long cached; // whether blocks copy the initial matrix, because all sequences share it
    Axes lead;
    View views[n];
};

// The gradient of an initial matrix is first summed within chunks of sequences. A chunk belongs to one matrix.
struct Chunks {
    long long all;       // number of chunks of all matrices
    long long of_matrix; // number of chunks of one matrix
    long long sequences; // number of sequences of a chunk
    long long sharing;   // number of sequences that share a matrix
};

// The last argument of a backward kernel with n views.
template <int n>
struct BackwardSizes {
    Chunks chunks;
    long long steps, segments;
    long long cached; // whether blocks copy the initial matrix, because all sequences share it
    Axes lead;
    View views[n];
};

// Where sequence n begins in an array. One thread computes it for each array and leaves it in shared memory: the
// divisions are slow, and a pointer for each array would take registers from the matrix.
__device__ __forceinline__ long long start_of(long long n, const Axes &axes, const View &view) {
    long long at = 0;
#pragma unroll 1
    for (int axis = (int)axes.count - 1; axis >= 0; axis--) {
        at += n % axes.sizes[axis] * view.lead[axis];
        n /= axes.sizes[axis];
    }
    return at;
}

// A matrix in memory with its strides: one of the caller's, or one saved for backward.
template <class T>
struct Source {
    const T *first;
    long long row, entry;
};

// A zero of any type. All entries of an array that is not given are read from here.
__device__ long long zero_bytes;

// The matrix that begins at `start` of an array. If the array is null, it is all zeros.
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

// Whether a sequence starts with the caller's state: if there is one, and step 0 is no reset.
__device__ __forceinline__ bool starts_with_state(const void *state, const Resets &resets, long long steps) {
    return state != nullptr && !(steps > 0 && resets.before(0));
}

// Whether a block of some device could have room for a copy of the initial matrix.
constexpr bool CACHEABLE = D * M * sizeof(storage) <= 200 * 1024;

// Copies the one initial matrix of all sequences into the block's shared memory. All threads of the block call it.
__device__ __forceinline__ void copy_for_block(storage *copy, const storage *state, const View &view) {
    for (int i = threadIdx.x; i < D * M; i += GROUP * GROUPS)
        copy[i] = state[i / M * view.row + i % M * view.entry];
    __syncthreads();
}

// `a`, hidden from the compiler: what depends on it is computed where it is used. Otherwise the compiler computes the
// addresses of a whole unrolled loop in advance, and spills them.
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

// Later loads are not moved before it. Otherwise the compiler starts all loads of an unrolled loop at once, and spills
// their results. Used in code that few steps run, so that waiting costs little.
__device__ __forceinline__ void one_at_a_time() {
#ifdef __CUDA_ARCH__
    asm volatile("" ::: "memory");
#endif
}

// 1 / a, for an a that is neither tiny nor huge. A division has a branch for such values, and the compiler does not
// move instructions across a branch.
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
