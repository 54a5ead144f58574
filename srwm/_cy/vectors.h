/* Vectors of one real type, as wide as the instruction set for which the file is compiled.

   `real` is float, or double if SRWM_DOUBLE is defined. The same code is compiled for every instruction set
   and both types. GCC and Clang have portable vector types. With any other compiler, also Microsoft's, a
   vector has one element, and the compiler vectorises what it can. With SRWM_ONE_LANE, for tests, GCC and
   Clang do the same. -ffast-math is used nowhere: NaN and inf must propagate. */
#ifndef SRWM_VECTORS_H
#define SRWM_VECTORS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef SRWM_DOUBLE
typedef double real;
typedef int64_t real_bits;
#define EXP_TERMS 13             /* Taylor terms of exp on |r| <= ln2/2: error below half an ulp */
#define EXP_LOWEST -708.0        /* exp of anything lower is below the smallest normal number */
#define EXPONENT_BIAS 1023
#define MANTISSA_BITS 52
#define ROUND_TO_INTEGER 0x1.8p52 /* adding and subtracting it rounds; the low bits hold the integer */
#define LN2_HIGH 0x1.62e42feep-1 /* ln 2 in two parts, the first so short that n * LN2_HIGH is exact */
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

#ifndef __has_builtin
#define __has_builtin(x) 0
#endif

#if (defined(__GNUC__) || defined(__clang__)) && !defined(SRWM_ONE_LANE)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#if defined(__AVX512F__)
#include <immintrin.h>
#define VECTOR_BYTES 64
#define WITH_AVX512
#elif defined(__AVX__)
#include <immintrin.h>
#define VECTOR_BYTES 32
#define WITH_AVX
#else
#define VECTOR_BYTES 16
#endif
typedef real vector __attribute__((vector_size(VECTOR_BYTES)));
typedef real_bits vector_bits __attribute__((vector_size(VECTOR_BYTES)));
INLINE vector splat(real a) { return a - (vector){0}; }
INLINE vector_bits bits_of(vector a) { return (vector_bits)a; }
INLINE vector from_bits(vector_bits a) { return (vector)a; }
INLINE vector_bits is_less(vector a, vector b) { return (vector_bits)(a < b); }
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vector_bits){__VA_ARGS__})
#endif
INLINE vector load(const void *p) {
    typedef vector anywhere __attribute__((may_alias, aligned(1)));
    return *(const anywhere *)p;
}
INLINE void store(void *p, vector a) {
    typedef vector anywhere __attribute__((may_alias, aligned(1)));
    *(anywhere *)p = a;
}
#else
#ifdef _MSC_VER
#define INLINE static __forceinline
#else
#define INLINE static inline
#endif
#define UNROLL
#define VECTOR_BYTES sizeof(real)
typedef real vector;
typedef real_bits vector_bits;
INLINE vector splat(real a) { return a; }
INLINE vector_bits bits_of(vector a) { vector_bits b; memcpy(&b, &a, sizeof b); return b; }
INLINE vector from_bits(vector_bits b) { vector a; memcpy(&a, &b, sizeof a); return a; }
INLINE vector_bits is_less(vector a, vector b) { return a < b ? -1 : 0; }
INLINE vector load(const void *p) { vector a; memcpy(&a, p, sizeof a); return a; }
INLINE void store(void *p, vector a) { memcpy(p, &a, sizeof a); }
#endif

#define LANES ((ptrdiff_t)(VECTOR_BYTES / sizeof(real)))

#if defined(__AVX512F__) || defined(__aarch64__)
#define REGISTERS 32
#else
#define REGISTERS 16
#endif

/* Keeps a value in its register. Otherwise the compiler reads it from memory for every use, and the sweeps
   wait for these loads. */
#if defined(__GNUC__) && defined(__AVX512F__)
#define KEEP(a) __asm__("" : "+v"(a))
#elif defined(__GNUC__) && defined(__x86_64__)
#define KEEP(a) __asm__("" : "+x"(a))
#elif defined(__GNUC__) && defined(__aarch64__)
#define KEEP(a) __asm__("" : "+w"(a))
#else
#define KEEP(a) (void)(a)
#endif

/* Load or store `n` entries, fewer than a vector has. The other lanes are zero; their memory is neither
   read nor written. Users' arrays may begin at any address, so these functions, and `load` and `store`,
   take pointers without alignment. */
#if defined(WITH_AVX512) && !defined(SRWM_DOUBLE)
INLINE vector load_some(const void *p, ptrdiff_t n) {
    return (vector)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
INLINE void store_some(void *p, vector a, ptrdiff_t n) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)a);
}
#elif defined(WITH_AVX512)
INLINE vector load_some(const void *p, ptrdiff_t n) {
    return (vector)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
}
INLINE void store_some(void *p, vector a, ptrdiff_t n) {
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)a);
}
#elif defined(WITH_AVX) && !defined(SRWM_DOUBLE)
INLINE __m256i first_lanes(ptrdiff_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE vector load_some(const void *p, ptrdiff_t n) { return (vector)_mm256_maskload_ps((const float *)p, first_lanes(n)); }
INLINE void store_some(void *p, vector a, ptrdiff_t n) { /* by halves: a masked store takes longer */
    __m128 v = _mm256_castps256_ps128((__m256)a);
    char *next = (char *)p;
    if (n & 4) {
        memcpy(next, &v, 16);
        v = _mm256_extractf128_ps((__m256)a, 1);
        next += 16;
    }
    if (n & 2) {
        memcpy(next, &v, 8);
        v = _mm_movehl_ps(v, v);
        next += 8;
    }
    if (n & 1) memcpy(next, &v, 4);
}
#elif defined(WITH_AVX)
INLINE __m256i first_lanes(ptrdiff_t n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x((long long)n), _mm256_setr_epi64x(0, 1, 2, 3));
}
INLINE vector load_some(const void *p, ptrdiff_t n) { return (vector)_mm256_maskload_pd((const double *)p, first_lanes(n)); }
INLINE void store_some(void *p, vector a, ptrdiff_t n) {
    __m128d v = _mm256_castpd256_pd128((__m256d)a);
    char *next = (char *)p;
    if (n & 2) {
        memcpy(next, &v, 16);
        v = _mm256_extractf128_pd((__m256d)a, 1);
        next += 16;
    }
    if (n & 1) memcpy(next, &v, 8);
}
#else
INLINE vector load_some(const void *p, ptrdiff_t n) {
    real entries[VECTOR_BYTES / sizeof(real)] = {0};
    for (ptrdiff_t i = 0; i < n; i++) memcpy(entries + i, (const char *)p + i * sizeof(real), sizeof(real));
    return load(entries);
}
INLINE void store_some(void *p, vector a, ptrdiff_t n) {
    real entries[VECTOR_BYTES / sizeof(real)];
    store(entries, a);
    for (ptrdiff_t i = 0; i < n; i++) memcpy((char *)p + i * sizeof(real), entries + i, sizeof(real));
}
#endif

INLINE vector select_bits(vector_bits mask, vector yes, vector no) {
    return from_bits((mask & bits_of(yes)) | (~mask & bits_of(no)));
}

/* Sum and maximum over the lanes of one vector, by halves. The maximum may lose a NaN. */
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
#elif defined(__AVX512F__) && !defined(SRWM_DOUBLE)
INLINE vector larger(vector a, vector b) { return (vector)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE real sum_lanes(vector a) { return _mm512_reduce_add_ps((__m512)a); }
INLINE real max_lanes(vector a) { return _mm512_reduce_max_ps((__m512)a); }
#elif defined(__AVX512F__)
INLINE vector larger(vector a, vector b) { return (vector)_mm512_max_pd((__m512d)a, (__m512d)b); }
INLINE real sum_lanes(vector a) { return _mm512_reduce_add_pd((__m512d)a); }
INLINE real max_lanes(vector a) { return _mm512_reduce_max_pd((__m512d)a); }
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

/* The lane sums of four vectors -> four neighbouring entries: row sums, for four rows at a time. */
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

/* Swaps entry j of row i with entry i of row j, for LANES vectors of LANES entries, by halves. */
#define TRADE(step, low, high)                                              \
    UNROLL for (int i = 0; i < (int)LANES; i++)                             \
        if (!(i & step)) {                                                  \
            vector a = rows[i], b = rows[i + step];                         \
            rows[i] = SHUFFLE(a, b, low);                                   \
            rows[i + step] = SHUFFLE(a, b, high);                           \
        }
#define LIST(...) __VA_ARGS__
INLINE void transpose_lanes(vector *rows) {
#ifndef SHUFFLE
    (void)rows; /* vectors have one lane */
#elif defined(SRWM_DOUBLE) && VECTOR_BYTES == 16
    TRADE(1, LIST(0, 2), LIST(1, 3))
#elif defined(SRWM_DOUBLE) == (VECTOR_BYTES == 32) && VECTOR_BYTES <= 32
    TRADE(1, LIST(0, 4, 2, 6), LIST(1, 5, 3, 7))
    TRADE(2, LIST(0, 1, 4, 5), LIST(2, 3, 6, 7))
#elif defined(SRWM_DOUBLE) == (VECTOR_BYTES == 64)
    TRADE(1, LIST(0, 8, 2, 10, 4, 12, 6, 14), LIST(1, 9, 3, 11, 5, 13, 7, 15))
    TRADE(2, LIST(0, 1, 8, 9, 4, 5, 12, 13), LIST(2, 3, 10, 11, 6, 7, 14, 15))
    TRADE(4, LIST(0, 1, 2, 3, 8, 9, 10, 11), LIST(4, 5, 6, 7, 12, 13, 14, 15))
#else
    TRADE(1, LIST(0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
          LIST(1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
    TRADE(2, LIST(0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
          LIST(2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
    TRADE(4, LIST(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
          LIST(4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
    TRADE(8, LIST(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
          LIST(8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#endif
}
#undef TRADE
#undef LIST

/* exp of `n` vectors of numbers <= 0, within an ulp or two; exactly 0 below EXP_LOWEST; NaN stays NaN.
   Each stage is done for all vectors before the next one: one vector alone is a chain of dependent
   operations. */
INLINE void exp_nonpositive(vector *a, const int n) {
    static const real inverse_factorial[] = {
        1, 1, (real)(1.0 / 2), (real)(1.0 / 6), (real)(1.0 / 24), (real)(1.0 / 120), (real)(1.0 / 720),
        (real)(1.0 / 5040), (real)(1.0 / 40320), (real)(1.0 / 362880), (real)(1.0 / 3628800),
        (real)(1.0 / 39916800), (real)(1.0 / 479001600), (real)(1.0 / 6227020800.0)};
    vector shifted[4], r[4], series[4];
    UNROLL for (int i = 0; i < n; i++) shifted[i] = a[i] * splat(LOG2E) + splat(ROUND_TO_INTEGER);
    UNROLL for (int i = 0; i < n; i++) {
        vector integer = shifted[i] - splat(ROUND_TO_INTEGER);
        r[i] = a[i] - integer * splat(LN2_HIGH) - integer * splat(LN2_LOW);
    }
    /* a series in r^2 whose terms are pairs: its chain is half as long as that of a series in r */
    UNROLL for (int i = 0; i < n; i++)
        series[i] = splat(inverse_factorial[EXP_TERMS]) * r[i] + splat(inverse_factorial[EXP_TERMS - 1]);
    UNROLL for (int term = EXP_TERMS - 3; term >= 0; term -= 2)
        UNROLL for (int i = 0; i < n; i++) {
            vector pair = splat(inverse_factorial[term + 1]) * r[i] + splat(inverse_factorial[term]);
            series[i] = series[i] * (r[i] * r[i]) + pair;
        }
    UNROLL for (int i = 0; i < n; i++) {
        vector power_of_2 = from_bits((bits_of(shifted[i]) + EXPONENT_BIAS) << MANTISSA_BITS);
        a[i] = from_bits(bits_of(series[i] * power_of_2) & ~is_less(a[i], splat(EXP_LOWEST)));
    }
}

#endif
