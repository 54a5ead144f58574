/* Memory for what is walked through once and is large: on huge pages where the system gives them when asked,
   since every step of a long sequence is on another page of the usual size. */
#ifndef SRWM_PAGES_H
#define SRWM_PAGES_H

#include <stdlib.h>

#define CACHE_LINE 64

#if defined(_WIN32) /* Microsoft's C library, which MinGW uses as well */
#include <malloc.h>
static void *allocate(size_t size) { return _aligned_malloc(size ? size : 1, CACHE_LINE); }
static void release(void *memory) { _aligned_free(memory); }
#elif defined(__linux__)
#include <sys/mman.h>
#define HUGE_PAGE ((size_t)2 << 20)

static void *allocate(size_t size) {
    void *memory = NULL;
    size_t unit = size < HUGE_PAGE ? CACHE_LINE : HUGE_PAGE;
    if (posix_memalign(&memory, unit, (size + unit - 1) / unit * unit) != 0) return NULL;
#ifdef MADV_HUGEPAGE
    if (unit == HUGE_PAGE) madvise(memory, (size + unit - 1) / unit * unit, MADV_HUGEPAGE); /* a wish */
#endif
    return memory;
}
static void release(void *memory) { free(memory); }
#else
static void *allocate(size_t size) {
    void *memory = NULL;
    return posix_memalign(&memory, CACHE_LINE, size ? size : 1) == 0 ? memory : NULL;
}
static void release(void *memory) { free(memory); }
#endif

/* Gives the system what `release` left with the C library: GNU's keeps what lies between blocks in use. */
#if defined(__GLIBC__)
#include <malloc.h>
static void trim(void) { malloc_trim(0); }
#else
static void trim(void) {}
#endif

#endif
