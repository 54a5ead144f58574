// Adds up partial sums in a fixed order: the gradient of an array that several sequences share.
#include "arrays.cuh"

// out (outer, inner) = the sum of partial_sums (outer, count, inner) over `count`. Both are contiguous.
extern "C" __global__ void __launch_bounds__(GROUP * GROUPS)
    add_partial_sums(const real *__restrict__ partial_sums, storage *__restrict__ out, long long outer, long long count,
               long long inner) {
    const long long together = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < outer * inner; i += together) {
        const real *at = partial_sums + i / inner * count * inner + i % inner;
        real sum = 0;
        for (long long n = 0; n < count; n++) sum += at[n * inner];
        narrow(sum, out[i]);
    }
}
