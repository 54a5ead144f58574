/* What this processor and its operating system can run, by the compiler's run-time check. */
#ifndef SRWM_PROCESSOR_H
#define SRWM_PROCESSOR_H

#ifdef _OPENMP
#define WITH_OPENMP 1
#else
#define WITH_OPENMP 0
#endif

#if (defined(__GNUC__) || defined(__clang__)) && (defined(__x86_64__) || defined(__i386__))
static int has_avx2_and_fma(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static int has_avx512(void) {
    return has_avx2_and_fma() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#elif defined(_MSC_VER) && defined(_M_X64)
#include <immintrin.h>
#include <intrin.h>
/* The operating system must save the wide registers: XCR0 bits 1-2 (AVX), 5-7 (AVX-512). */
static int has_feature(unsigned bits_of_ebx, unsigned long long saved) {
    int leaf_1[4], leaf_7[4];
    __cpuid(leaf_1, 1);
    __cpuidex(leaf_7, 7, 0);
    int xsave = leaf_1[2] >> 27 & 1, fma = leaf_1[2] >> 12 & 1;
    return xsave && fma && (_xgetbv(0) & saved) == saved && ((unsigned)leaf_7[1] & bits_of_ebx) == bits_of_ebx;
}
static int has_avx2_and_fma(void) { return has_feature(1u << 5, 0x6); }
static int has_avx512(void) { return has_feature(1u << 5 | 1u << 16 | 1u << 17 | 1u << 31, 0xe6); }
#else
static int has_avx2_and_fma(void) { return 0; }
static int has_avx512(void) { return 0; }
#endif

#endif
