/* Vectors of one real type, in the width of the instruction set the translation unit is compiled for.

   `real` is float, or double where SRWM_DOUBLE is defined; the same text serves every instruction
   set and both types. GCC and Clang give portable vector types; any other compiler gets vectors of
   one element and vectorises what it can. No -ffast-math anywhere: NaN and inf must propagate. */
#ifndef SRWM_VECTORS_H
#define SRWM_VECTORS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef SRWM_DOUBLE
typedef double real;
typedef int64_t real_bits;
#define EXP_TERMS 13             /* Taylor terms of exp on |r| <= ln2/2: below half an ulp */
#define EXP_LOWEST -708.0        /* exp of anything lower is below the smallest normal number */
#define EXPONENT_BIAS 1023
#define MANTISSA_BITS 52
#define ROUND_TO_INTEGER 0x1.8p52 /* added and taken away again: rounds, low bits hold the integer */
#define LN2_HIGH 0x1.62e42feep-1 /* ln 2 in two pieces, the first so short that n * LN2_HIGH is exact */
#define LN2_LOW 0x1.a39ef35793c76p-33
#else
typedef float real;
typedef int32_t real_bits;
#define EXP_TERMS 7
#define EXP_LOWEST -87.0f
#define EXPONENT_BIAS 127
#define MANTISSA_BITS 23
#define ROUND_TO_INTEGER 0x1.8p23f
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f
#endif
#define LOG2E ((real)1.44269504088896340736)

#if defined(__GNUC__) || defined(__clang__)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#include <immintrin.h>
#define VECTOR_BYTES 32
#define WITH_AVX
#else
#define VECTOR_BYTES 16
#endif
typedef real vector __attribute__((vector_size(VECTOR_BYTES)));
typedef real vector_in_memory __attribute__((vector_size(VECTOR_BYTES), may_alias, aligned(sizeof(real))));
typedef real_bits vector_bits __attribute__((vector_size(VECTOR_BYTES)));
INLINE vector splat(real a) { return a - (vector){0}; }
INLINE vector_bits bits_of(vector a) { return (vector_bits)a; }
INLINE vector from_bits(vector_bits a) { return (vector)a; }
INLINE vector_bits is_less(vector a, vector b) { return (vector_bits)(a < b); }
#else
#define INLINE static __forceinline
#define UNROLL
#define VECTOR_BYTES sizeof(real)
typedef real vector;
typedef real vector_in_memory;
typedef real_bits vector_bits;
INLINE vector splat(real a) { return a; }
INLINE vector_bits bits_of(vector a) { vector_bits b; memcpy(&b, &a, sizeof b); return b; }
INLINE vector from_bits(vector_bits b) { vector a; memcpy(&a, &b, sizeof a); return a; }
INLINE vector_bits is_less(vector a, vector b) { return a < b ? -1 : 0; }
#endif

#define LANES ((ptrdiff_t)(VECTOR_BYTES / sizeof(real)))

#if defined(__AVX512F__) || defined(__aarch64__)
#define REGISTERS 32
#else
#define REGISTERS 16
#endif

INLINE vector load(const real *p) { return *(const vector_in_memory *)p; }
INLINE void store(real *p, vector a) { *(vector_in_memory *)p = a; }

INLINE vector select_bits(vector_bits mask, vector yes, vector no) {
    return from_bits((mask & bits_of(yes)) | (~mask & bits_of(no)));
}

/* Sum and maximum over the lanes of one vector, by halves; a NaN may be lost from the maximum. */
#if defined(WITH_AVX) && !defined(SRWM_DOUBLE)
INLINE vector larger(vector a, vector b) { return (vector)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE real sum_lanes(vector a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128((__m256)a), _mm256_extractf128_ps((__m256)a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE real max_lanes(vector a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128((__m256)a), _mm256_extractf128_ps((__m256)a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
#elif defined(WITH_AVX)
INLINE vector larger(vector a, vector b) { return (vector)_mm256_max_pd((__m256d)a, (__m256d)b); }
INLINE real sum_lanes(vector a) {
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128((__m256d)a), _mm256_extractf128_pd((__m256d)a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}
INLINE real max_lanes(vector a) {
    __m128d s = _mm_max_pd(_mm256_castpd256_pd128((__m256d)a), _mm256_extractf128_pd((__m256d)a, 1));
    return _mm_cvtsd_f64(_mm_max_sd(s, _mm_unpackhi_pd(s, s)));
}
#else
INLINE vector larger(vector a, vector b) { return select_bits(is_less(a, b), b, a); }
INLINE real sum_lanes(vector a) {
    real lanes[VECTOR_BYTES / sizeof(real)];
    memcpy(lanes, &a, sizeof lanes);
    for (ptrdiff_t half = LANES / 2; half > 0; half /= 2)
        for (ptrdiff_t i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}
INLINE real max_lanes(vector a) {
    real lanes[VECTOR_BYTES / sizeof(real)];
    memcpy(lanes, &a, sizeof lanes);
    for (ptrdiff_t half = LANES / 2; half > 0; half /= 2)
        for (ptrdiff_t i = 0; i < half; i++)
            lanes[i] = lanes[i + half] > lanes[i] ? lanes[i + half] : lanes[i];
    return lanes[0];
}
#endif

/* The lane sums of four vectors, side by side: row sums of a matrix walked four rows at a time. */
INLINE void sum_lanes_of_4(vector a, vector b, vector c, vector d, real *sums) {
#if defined(WITH_AVX) && !defined(SRWM_DOUBLE)
    __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps((__m256)a, (__m256)b),
                                  _mm256_hadd_ps((__m256)c, (__m256)d));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
#elif defined(WITH_AVX)
    __m256d ab = _mm256_hadd_pd((__m256d)a, (__m256d)b), cd = _mm256_hadd_pd((__m256d)c, (__m256d)d);
    _mm256_storeu_pd(sums, _mm256_add_pd(_mm256_permute2f128_pd(ab, cd, 0x20),
                                         _mm256_permute2f128_pd(ab, cd, 0x31)));
#else
    sums[0] = sum_lanes(a);
    sums[1] = sum_lanes(b);
    sums[2] = sum_lanes(c);
    sums[3] = sum_lanes(d);
#endif
}

/* exp(a) for a <= 0 within an ulp or two; exactly 0 below EXP_LOWEST; NaN stays NaN. */
INLINE vector exp_nonpositive(vector a) {
    vector_bits too_low = is_less(a, splat(EXP_LOWEST));
    vector shifted = a * splat(LOG2E) + splat(ROUND_TO_INTEGER);
    vector n = shifted - splat(ROUND_TO_INTEGER);
    vector r = a - n * splat(LN2_HIGH) - n * splat(LN2_LOW);
    static const real inverse_factorial[] = {
        1, 1, (real)(1.0 / 2), (real)(1.0 / 6), (real)(1.0 / 24), (real)(1.0 / 120), (real)(1.0 / 720),
        (real)(1.0 / 5040), (real)(1.0 / 40320), (real)(1.0 / 362880), (real)(1.0 / 3628800),
        (real)(1.0 / 39916800), (real)(1.0 / 479001600), (real)(1.0 / 6227020800.0)};
    vector series = splat(inverse_factorial[EXP_TERMS]);
#if defined(__GNUC__) || defined(__clang__)
    _Pragma("GCC unroll 16")
#endif
    for (int i = EXP_TERMS - 1; i >= 0; i--) series = series * r + splat(inverse_factorial[i]);
    vector power_of_2 = from_bits((bits_of(shifted) + EXPONENT_BIAS) << MANTISSA_BITS);
    return from_bits(bits_of(series * power_of_2) & ~too_low);
}

#endif
