/* Thread groups: threads that compute one sequence together. Each has some of the columns of its matrix.

   Members run the same code on separate scratch. They share two things: rows, of which each member fills
   its columns and all read everything; and partial sums, which each leaves in its scratch and all add up.
   Both are double-buffered, so one meeting (a barrier) a step is enough: when a member writes to a buffer,
   all members have met since it was last read. The number of meetings depends on sizes only, never on what
   is in the arrays.

   Without OpenMP, groups have one member: threads would run one after the other. They have one member as
   well if sequences are computed side by side: then there are enough sequences for all threads. */
#ifndef SRWM_GROUP_H
#define SRWM_GROUP_H

#include "lanes.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(_OPENMP) && defined(__GNUC__) && !defined(_WIN32) && !defined(SRWM_MANY)
#define WITH_GROUPS
#ifdef __linux__
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif
#endif

#define CACHE_LINE 64

/* How often a waiting member reads the counter before it sleeps: tens of microseconds, several steps. If
   the wait is longer, another member has no processor, perhaps because this one occupies it by polling. */
#define LOOKS 1000

typedef struct {
    ptrdiff_t size, member;  /* members; the number of this one: 0 ... size - 1 */
    ptrdiff_t first, last;   /* this group's chunks of work: first ... last - 1 */
    real *scratch;           /* of member 0; that of each next member is `apart` entries further */
    ptrdiff_t apart;
    ptrdiff_t turn;          /* which of the two buffers is next: 0 or 1 */
    uint32_t awaited;        /* arrivals at which this meeting is over */
} Group;

typedef struct {
    uint32_t arrivals, sleepers;
} Meeting;

/* Threads of the current parallel region. They may be fewer than requested. */
INLINE int threads_here(void) {
#ifdef _OPENMP
    return omp_get_num_threads();
#else
    return 1;
#endif
}

/* The rounding mode of this thread, and whether it treats subnormal numbers as zero. All threads use the
   caller's; otherwise results would depend on their number. */
#if defined(__SSE__) || defined(_M_X64)
#include <xmmintrin.h>
INLINE unsigned long long floating_control(void) { return _mm_getcsr(); }
INLINE void set_floating_control(unsigned long long control) { _mm_setcsr((unsigned)control); }
#elif defined(__aarch64__) && defined(__GNUC__)
INLINE unsigned long long floating_control(void) {
    unsigned long long control;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(control));
    return control;
}
INLINE void set_floating_control(unsigned long long control) {
    __asm__ __volatile__("msr fpcr, %0" : : "r"(control));
}
#else
INLINE unsigned long long floating_control(void) { return 0; }
INLINE void set_floating_control(unsigned long long control) { (void)control; }
#endif

#define ENTRIES_OF_LINE ((ptrdiff_t)(CACHE_LINE / sizeof(real)))
INLINE ptrdiff_t lines_of(ptrdiff_t entries) { return (entries + ENTRIES_OF_LINE - 1) / ENTRIES_OF_LINE; }

/* The first cache line of each scratch. That of member 0 counts the arrivals at its group's meetings. */
INLINE Meeting *meeting_of(real *scratch) { return (Meeting *)(void *)scratch; }

/* Called before the parallel region: no member has arrived yet. */
static void prepare_groups(real *scratch, ptrdiff_t apart, ptrdiff_t threads) {
    for (ptrdiff_t i = 0; i < threads; i++) *meeting_of(scratch + i * apart) = (Meeting){0, 0};
}

/* Makes thread `thread` of `threads` a member of a group. Groups have at most `most` members; `pieces`
   chunks of work are distributed among the groups. Returns 0 if there is no place left. */
static int join_group(Group *group, ptrdiff_t thread, ptrdiff_t threads, ptrdiff_t pieces, ptrdiff_t most,
                     real *scratch, ptrdiff_t apart) {
    ptrdiff_t groups = threads < pieces ? threads : pieces, size = 1, number;
    if (groups == 0) return 0;
#ifdef WITH_GROUPS
    size = threads / groups < most ? threads / groups : most;
#else
    (void)most;
#endif
    number = thread / size;
    if (number >= groups) return 0;
    group->size = size;
    group->member = thread % size;
    group->first = pieces * number / groups;
    group->last = pieces * (number + 1) / groups;
    group->scratch = scratch + number * size * apart;
    group->apart = apart;
    group->turn = 0;
    group->awaited = 0;
    return 1;
}

#ifdef WITH_GROUPS
#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ __volatile__("yield")
#else
#define PAUSE() (void)0
#endif

#ifdef __linux__
static void sleep_unless_changed(uint32_t *word, uint32_t seen) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}
static void wake_all(uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}
#else
static void sleep_unless_changed(uint32_t *word, uint32_t seen) {
    (void)word, (void)seen;
    sched_yield();
}
static void wake_all(uint32_t *word) { (void)word; }
#endif

/* Whether a meeting is over. The counter may have wrapped around, or may already count arrivals at the next
   meeting. */
INLINE int is_over(uint32_t arrivals, uint32_t awaited) { return (int32_t)(arrivals - awaited) >= 0; }

/* Arrivals only increase. The last arrival releases what all earlier ones released, and a member that sees
   it acquires all of that. No sleeper is missed: a member counts itself as a sleeper before its last look
   at the arrivals, and the last to arrive counts itself before it looks for sleepers. One of them sees the
   other. */
static void meet_others(Group *group) {
    Meeting *meeting = meeting_of(group->scratch);
    uint32_t arrivals, awaited = group->awaited += (uint32_t)group->size;
    if (__atomic_add_fetch(&meeting->arrivals, 1, __ATOMIC_SEQ_CST) == awaited) {
        if (__atomic_load_n(&meeting->sleepers, __ATOMIC_SEQ_CST) > 0) wake_all(&meeting->arrivals);
        return;
    }
    for (int look = 0; look < LOOKS; look++) {
        if (is_over(__atomic_load_n(&meeting->arrivals, __ATOMIC_ACQUIRE), awaited)) return;
        PAUSE();
    }
    __atomic_add_fetch(&meeting->sleepers, 1, __ATOMIC_SEQ_CST);
    while (!is_over(arrivals = __atomic_load_n(&meeting->arrivals, __ATOMIC_SEQ_CST), awaited))
        sleep_unless_changed(&meeting->arrivals, arrivals);
    __atomic_sub_fetch(&meeting->sleepers, 1, __ATOMIC_SEQ_CST);
}
#endif

/* Waits for all members. Afterwards each sees what the others wrote before. */
INLINE void meet(Group *group) {
#ifdef WITH_GROUPS
    if (group->size > 1) meet_others(group);
#else
    (void)group;
#endif
}

/* Where a member's columns start in a row of `entries`, and those of the previous member end. This is the
   start of a cache line, so no two members write to the same line. If there were more members than lines,
   some would have no columns. */
INLINE ptrdiff_t member_start(const Group *group, ptrdiff_t member, ptrdiff_t entries) {
    ptrdiff_t start = lines_of(entries) * member / group->size * ENTRIES_OF_LINE;
    return start < entries ? start : entries;
}

/* The shared row of `n` entries: this step's (after = 0) or the next step's (1). */
INLINE real *shared_row(const Group *group, ptrdiff_t after, ptrdiff_t n) {
    return group->scratch + ENTRIES_OF_LINE + (group->turn ^ after) * n;
}

/* Where this member puts its next `n` partial sums. */
INLINE real *partial_sums(const Group *group, ptrdiff_t n) {
    return group->scratch + group->member * group->apart + ENTRIES_OF_LINE + group->turn * n;
}

/* Meets and adds up the partial sums of all members, always in the same order. The sums are in `sums`;
   those of a member that is alone stay where they are. Returns where they are. */
static const real *meet_and_add(Group *group, real *sums, ptrdiff_t n) {
    const real *first = group->scratch + ENTRIES_OF_LINE + group->turn * n;
    meet(group);
    group->turn ^= 1;
    if (group->size == 1) return first;
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        vector sum = load(first + i);
        for (ptrdiff_t j = 1; j < group->size; j++) sum += load(first + j * group->apart + i);
        store(sums + i, sum);
    }
    return sums;
}

#endif
