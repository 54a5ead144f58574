// The CUDA language as far as srwm's kernels use it, over runtime.h.
#ifndef CUDA_HOST_H
#define CUDA_HOST_H

#include <math.h>
#include <string.h>

#include "runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(n) alignas(n)
#define __launch_bounds__(...)
#define __constant__ static const

#define threadIdx (cuda_host::thread_index())
#define blockIdx (cuda_host::this_block())
#define blockDim (cuda_host::size_of_block())
#define gridDim (cuda_host::size_of_grid())
constexpr int warpSize = 32;

#define __syncthreads() cuda_host::block_barrier(__FILE__, __LINE__)
#define __syncwarp(...) cuda_host::syncwarp(__FILE__, __LINE__, ##__VA_ARGS__)
#define __shfl_sync(...) cuda_host::shuffle(__FILE__, __LINE__, cuda_host::from_lane, __VA_ARGS__)
#define __shfl_up_sync(...) cuda_host::shuffle(__FILE__, __LINE__, cuda_host::from_below, __VA_ARGS__)
#define __shfl_down_sync(...) cuda_host::shuffle(__FILE__, __LINE__, cuda_host::from_above, __VA_ARGS__)
#define __shfl_xor_sync(...) cuda_host::shuffle(__FILE__, __LINE__, cuda_host::from_xor, __VA_ARGS__)
#define __ballot_sync(mask, predicate) cuda_host::ballot(__FILE__, __LINE__, mask, predicate)
#define __any_sync(mask, predicate) (cuda_host::ballot(__FILE__, __LINE__, mask, predicate) != 0)
#define __all_sync(mask, predicate) (cuda_host::ballot(__FILE__, __LINE__, mask, predicate) == (mask))

inline int __clz(int a) { return a == 0 ? 32 : __builtin_clz((unsigned)a); }

// As its documentation says: 0 beyond 2^126, where the device's reciprocal ends.
inline float __fdividef(float x, float y) {
    return fabsf(y) > 0x1p126f && !isinf(x) ? copysignf(0.0f, x) * copysignf(1.0f, y) : x / y;
}

namespace cuda_host {

inline void syncwarp(const char *file, int line, unsigned mask = 0xffffffffu) {
    collective(file, line, SYNCWARP, mask, 0, 0);
}

CUDA_HOST_OWN inline int own_lane() { return current->rank % WARP; }

// The lane whose value a lane gets, of a group of `width` lanes that begins at `first`; -1: its own.
inline int from_lane(int, int first, int width, int n) { return first + (n & (width - 1)); }
inline int from_below(int lane, int first, int, int n) { return lane - n < first ? -1 : lane - n; }
inline int from_above(int lane, int first, int width, int n) { return lane + n >= first + width ? -1 : lane + n; }
inline int from_xor(int lane, int first, int width, int n) { return (lane ^ n) >= first + width ? -1 : lane ^ n; }

template <class T>
inline T shuffle(const char *file, int line, int (*source_of)(int, int, int, int), unsigned mask, T value, int n,
                 int width = WARP) {
    static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable<T>::value, "one or two words");
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    const int lane = own_lane(), from = source_of(lane, lane / width * width, width, n);
    bits = collective(file, line, SHUFFLE, mask, bits, from < 0 ? lane : from);
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

inline unsigned ballot(const char *file, int line, unsigned mask, int predicate) {
    return (unsigned)collective(file, line, BALLOT, mask, predicate != 0, own_lane());
}

} // namespace cuda_host

// Vector types carry the alignment that a device asks of their loads.
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) double2 {
    double x, y;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

#endif
