// float16 as the host keeps it: conversions by the compiler, which round to nearest even.
#ifndef CUDA_HOST_FP16_H
#define CUDA_HOST_FP16_H

struct __half {
    unsigned short bits;
};
static_assert(sizeof(__half) == 2, "two bytes");

inline float __half2float(__half a) {
    const unsigned sign = (a.bits & 0x8000u) << 16, magnitude = a.bits & 0x7fffu;
    float scaled;
    unsigned bits = magnitude << 13;
    __builtin_memcpy(&scaled, &bits, 4);
    scaled *= 0x1p112f; // the difference of the exponents' biases; exact, for subnormal numbers too
    __builtin_memcpy(&bits, &scaled, 4);
    if (magnitude >= 0x7c00u) bits = 0x7f800000u | (magnitude & 0x3ffu) << 13;
    bits |= sign;
    float result;
    __builtin_memcpy(&result, &bits, 4);
    return result;
}

inline __half __float2half(float a) {
    unsigned bits;
    __builtin_memcpy(&bits, &a, 4);
    const unsigned sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return {(unsigned short)(sign | 0x7e00u)};  // NaN
    if (bits >= 0x47800000u) return {(unsigned short)(sign | 0x7c00u)}; // 65,536 and more
    if (bits < 0x38800000u) {                                           // below the smallest normal number
        float magnitude;
        __builtin_memcpy(&magnitude, &bits, 4);
        magnitude += 0.5f; // whose last bit is the smallest subnormal number: the sum is rounded there
        unsigned sum;
        __builtin_memcpy(&sum, &magnitude, 4);
        return {(unsigned short)(sign | (sum - 0x3f000000u))};
    }
    bits += 0xc8000fffu + (bits >> 13 & 1); // the biases' difference, and half of what is cut off, to even
    return {(unsigned short)(sign | bits >> 13)};
}

#endif
