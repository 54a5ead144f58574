// Sums over an axis, in its order: gradients of arrays that several sequences share, from their pieces.
#include "arrays.cuh"

// out (outer, inner) = sum over `count` of pieces (outer, count, inner), both contiguous.
extern "C" __global__ void __launch_bounds__(TEAM * TEAMS)
    sum_pieces(const real *__restrict__ pieces, storage *__restrict__ out, long long outer, long long count,
               long long inner) {
    const long long together = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < outer * inner; i += together) {
        const real *at = pieces + i / inner * count * inner + i % inner;
        real sum = 0;
        for (long long n = 0; n < count; n++) sum += at[n * inner];
        narrow(sum, out[i]);
    }
}
