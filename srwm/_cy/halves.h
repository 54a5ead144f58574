/* Entries in memory: the real type of the computation, or halves, which are converted when they are read
   and written. Rounding is to nearest, ties to even; NaN stays NaN. */
#ifndef SRWM_HALVES_H
#define SRWM_HALVES_H

#include "vectors.h"

enum { REAL, FLOAT16, BFLOAT16 };

static real from_float16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023, bits;
    float value;
    if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24 */
        value = (float)mantissa * 0x1p-24f;
        return (real)(sign ? -value : value);
    }
    bits = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | mantissa << 13;
    memcpy(&value, &bits, sizeof value);
    return (real)value;
}

static uint16_t to_float16(real a) {
    float value = (float)a;
    uint32_t bits, magnitude;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return sign | 0x7e00;   /* NaN */
    if (magnitude >= 0x477ff000) return sign | 0x7c00;  /* rounds to 65536 or more: infinity */
    if (magnitude < 0x38800000) {                       /* below 2^-14: subnormal */
        float shifted;
        memcpy(&shifted, &magnitude, sizeof shifted);
        shifted += 0.5f; /* the last place of 0.5f is 2^-24, as that of a subnormal: the sum rounds */
        memcpy(&magnitude, &shifted, sizeof magnitude);
        return sign | (uint16_t)(magnitude - 0x3f000000);
    }
    magnitude += 0xfff + (magnitude >> 13 & 1); /* to nearest, ties to even */
    return sign | (uint16_t)((magnitude - 0x38000000) >> 13);
}

static real from_bfloat16(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return (real)value;
}

static uint16_t to_bfloat16(real a) {
    float value = (float)a;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* a quiet NaN */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

INLINE real read_entry(const char *p, int kind) {
    if (kind == REAL) {
        real a;
        memcpy(&a, p, sizeof a);
        return a;
    }
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return kind == FLOAT16 ? from_float16(h) : from_bfloat16(h);
}

INLINE void write_entry(char *p, int kind, real a) {
    if (kind == REAL) {
        memcpy(p, &a, sizeof a);
        return;
    }
    uint16_t h = kind == FLOAT16 ? to_float16(a) : to_bfloat16(a);
    memcpy(p, &h, sizeof h);
}

#endif
