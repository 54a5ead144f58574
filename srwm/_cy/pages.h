/* Large memory that is read once, on huge pages if the system gives them: otherwise each step of a long
   sequence touches a new page. */
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
    if (unit == HUGE_PAGE) madvise(memory, (size + unit - 1) / unit * unit, MADV_HUGEPAGE); /* a hint */
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

/* Returns released memory to the system: glibc keeps free memory that lies between used blocks. */
#if defined(__GLIBC__)
#include <malloc.h>
static void trim(void) { malloc_trim(0); }
#else
static void trim(void) {}
#endif

#endif
