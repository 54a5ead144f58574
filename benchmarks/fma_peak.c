/* How fast this processor multiplies and adds: nothing but fused multiply-adds on registers.
 *
 * A multiply-add's result is ready after about 4 cycles and two start in each, so that 8 chains must be
 * under way at once; 12 leave a margin and fit, with two factors, into 16 registers. */

#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
#define CHAINS 12

typedef float vector __attribute__((vector_size(4 * WIDTH)));

/* Floating-point operations of one turn of the loop. */
int operations(void) { return 2 * WIDTH * CHAINS; }

float multiply_add(long turns, float factor, float term) {
    vector a = {0}, b = {0};
    a += factor;
    b += term;
    vector c0 = b, c1 = b, c2 = b, c3 = b, c4 = b, c5 = b, c6 = b, c7 = b, c8 = b, c9 = b, c10 = b, c11 = b;
    for (long i = 0; i < turns; ++i) {
        c0 = c0 * a + b;
        c1 = c1 * a + b;
        c2 = c2 * a + b;
        c3 = c3 * a + b;
        c4 = c4 * a + b;
        c5 = c5 * a + b;
        c6 = c6 * a + b;
        c7 = c7 * a + b;
        c8 = c8 * a + b;
        c9 = c9 * a + b;
        c10 = c10 * a + b;
        c11 = c11 * a + b;
        /* Twelve equal chains would be computed once: each is said to change here, at no cost. */
#if defined(__x86_64__)
        __asm__ volatile("" : "+x"(c0), "+x"(c1), "+x"(c2), "+x"(c3), "+x"(c4), "+x"(c5), "+x"(c6), "+x"(c7),
                              "+x"(c8), "+x"(c9), "+x"(c10), "+x"(c11));
#elif defined(__aarch64__)
        __asm__ volatile("" : "+w"(c0), "+w"(c1), "+w"(c2), "+w"(c3), "+w"(c4), "+w"(c5), "+w"(c6), "+w"(c7),
                              "+w"(c8), "+w"(c9), "+w"(c10), "+w"(c11));
#endif
    }
    c0 += c1 + c2 + c3 + c4 + c5 + c6 + c7 + c8 + c9 + c10 + c11;
    return c0[0];
}
