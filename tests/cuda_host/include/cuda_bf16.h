// bfloat16: the upper half of a float, rounded to nearest even.
#ifndef CUDA_HOST_BF16_H
#define CUDA_HOST_BF16_H

struct __nv_bfloat16 {
    unsigned short bits;
};
static_assert(sizeof(__nv_bfloat16) == 2, "two bytes");

inline float __bfloat162float(__nv_bfloat16 a) {
    unsigned bits = (unsigned)a.bits << 16;
    float result;
    __builtin_memcpy(&result, &bits, 4);
    return result;
}

inline __nv_bfloat16 __float2bfloat16(float a) {
    unsigned bits;
    __builtin_memcpy(&bits, &a, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {(unsigned short)0x7fff}; // the device's one NaN
    return {(unsigned short)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}

#endif
