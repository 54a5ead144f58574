// A grid of CUDA threads on one CPU thread: blocks one after the other, the threads of a block as fibres
// that run until they wait. README.md says what is and what is not caught.
//
// CUDA_HOST_RACE     built for ThreadSanitizer: barriers are the only order between threads
// CUDA_HOST_BOUNDS   built for AddressSanitizer
// CUDA_HOST_UCONTEXT change stacks by the C library, eight times slower, where there is no switch of our own
#ifndef CUDA_HOST_RUNTIME_H
#define CUDA_HOST_RUNTIME_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <type_traits>
#include <utility>

#if !defined(__x86_64__) && !defined(CUDA_HOST_UCONTEXT)
#define CUDA_HOST_UCONTEXT
#endif
#ifdef CUDA_HOST_UCONTEXT
#include <ucontext.h>
#endif

#ifdef CUDA_HOST_RACE
// What the runtime itself reads and writes is no business of the detector.
#define CUDA_HOST_OWN __attribute__((no_sanitize_thread, noinline))
extern "C" {
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void *__tsan_get_current_fiber();
void __tsan_acquire(void *address);
void __tsan_release(void *address);
}
#else
#define CUDA_HOST_OWN
#endif

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace cuda_host {

constexpr int WARP = 32;
constexpr size_t STACK = 256 * 1024;

enum State { READY, AT_BARRIER, IN_WARP, DONE };
enum Kind { SYNCWARP, SHUFFLE, BALLOT };
enum Order { FORWARD, REVERSE, RANDOM };

// Where a thread waits.
struct Place {
    const char *file;
    int line;
};

struct Fiber {
    State state;
    uint3 thread;
    int rank;
    Place place;
    Kind kind; // of the collective it waits in
    unsigned mask;
    uint64_t value;  // it gives
    int from;        // the lane whose value it wants
    uint64_t result; // once the collective is complete
#ifndef CUDA_HOST_UCONTEXT
    void *stack_pointer;
#else
    ucontext_t context;
#endif
    void *tsan;
};

struct Warp {
    int syncs;     // of all its lanes, so far
    char order[2]; // sync addresses of these, in turns: with one, a later sync of a fast lane hides a race
    char partial;  // of syncs of some lanes
};

struct Counts {
    long long syncthreads, syncwarp, shuffle, ballot;
};

struct Launch {
    unsigned grid[3], block[3];
    long long shared_bytes;
    int order;
    unsigned seed;
};

struct Shared {
    char *memory;
    size_t size;
};

constexpr int MOST_SHARED = 64, MOST_THREADS = 1024;

static Fiber fibers[MOST_THREADS];
static Warp warps[MOST_THREADS / WARP];
static Fiber *current;
static uint3 block_index;
static dim3 block_size, grid_size;
static int threads;
static int alive;
static int barriers_passed;
static char barrier_order[2], start_order, end_order;
static Shared shared_arrays[MOST_SHARED];
static long long dynamic_bytes;
static Counts counts;
static char error[2000];
static void (*body)(void **);
static void **body_arguments;
static char *stacks;
static int stacks_made;
#ifdef CUDA_HOST_RACE
constexpr size_t ARENA = size_t(1) << 28;
static char *arena; // shared memory of all blocks, allocated before any thread starts
static size_t arena_used;
#endif
#ifndef CUDA_HOST_UCONTEXT
static void *host_stack_pointer;
#else
static ucontext_t host_context;
#endif
static void *host_tsan;

CUDA_HOST_OWN inline uint3 thread_index() { return current->thread; }
CUDA_HOST_OWN inline uint3 this_block() { return block_index; }
CUDA_HOST_OWN inline dim3 size_of_block() { return block_size; }
CUDA_HOST_OWN inline dim3 size_of_grid() { return grid_size; }

#ifndef CUDA_HOST_UCONTEXT
// Keeps what a called function must keep, and changes stacks: no system call, as ucontext makes for signals.
extern "C" __attribute__((visibility("hidden"))) void cuda_host_switch(void **from, void *to);
asm(R"(
    .text
    .hidden cuda_host_switch
    .globl cuda_host_switch
    .type cuda_host_switch, @function
cuda_host_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size cuda_host_switch, .-cuda_host_switch
)");
#endif

CUDA_HOST_OWN inline void to_host() {
    Fiber *self = current;
#ifdef CUDA_HOST_RACE
    __tsan_switch_to_fiber(host_tsan, 1);
#endif
#ifndef CUDA_HOST_UCONTEXT
    cuda_host_switch(&self->stack_pointer, host_stack_pointer);
#else
    swapcontext(&self->context, &host_context);
#endif
}

CUDA_HOST_OWN inline void to_fiber(Fiber *fiber) {
    current = fiber;
#ifdef CUDA_HOST_RACE
    __tsan_switch_to_fiber(fiber->tsan, 1);
#endif
#ifndef CUDA_HOST_UCONTEXT
    cuda_host_switch(&host_stack_pointer, fiber->stack_pointer);
#else
    swapcontext(&host_context, &fiber->context);
#endif
}

// The first function of a fibre.
CUDA_HOST_OWN inline void run_thread() {
#ifdef CUDA_HOST_RACE
    __tsan_acquire(&start_order);
#endif
    body(body_arguments);
#ifdef CUDA_HOST_RACE
    __tsan_release(&end_order);
#endif
    current->state = DONE;
    to_host();
    abort();
}

CUDA_HOST_OWN inline void make_fiber(int rank) {
    Fiber &fiber = fibers[rank];
    fiber.state = READY;
    fiber.rank = rank;
    fiber.thread = {rank % block_size.x, rank / block_size.x % block_size.y, rank / block_size.x / block_size.y};
    char *top = stacks + (rank + 1) * STACK;
#ifndef CUDA_HOST_UCONTEXT
    void **frame = (void **)top - 8;
    frame[6] = (void *)run_thread; // below six registers; the stack is then aligned as after a call
    frame[7] = nullptr;
    fiber.stack_pointer = frame;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = top - STACK;
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_thread, 0);
#endif
#ifdef CUDA_HOST_RACE
    fiber.tsan = __tsan_create_fiber(0);
#endif
}

CUDA_HOST_OWN inline char *fresh_memory(size_t size) {
    void *memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) abort();
    return (char *)memory;
}

// The lowest word of each stack tells whether a thread came that far. (Pages that cannot be written would
// tell at once, but a process has not enough mappings for those of all its kernels.)
constexpr uint64_t UNTOUCHED = 0x5ca1ab1e0ddba11;

CUDA_HOST_OWN inline uint64_t *lowest_of_stack(int rank) { return (uint64_t *)(stacks + rank * STACK); }

// Under the race detector every block has new stacks, so that what another block's threads left on
// theirs is forgotten.
CUDA_HOST_OWN inline void make_stacks() {
#ifndef CUDA_HOST_RACE
    if (stacks_made >= threads) return;
    if (stacks != nullptr) munmap(stacks, stacks_made * STACK);
#endif
    stacks = fresh_memory(threads * STACK);
    stacks_made = threads;
    for (int i = 0; i < threads; i++) *lowest_of_stack(i) = UNTOUCHED;
}

CUDA_HOST_OWN inline void poison(char *memory, size_t size) {
    for (size_t i = 0; i < size; i++) ((volatile char *)memory)[i] = (char)0xff; // NaN in every type
}

// Memory of one __shared__ array, the same for all threads of a block. Under the sanitizers every block
// gets a new one, so that what another block did with it is forgotten.
CUDA_HOST_OWN inline void *shared(int id, size_t size) {
    if (id >= MOST_SHARED) abort();
    Shared &array = shared_arrays[id];
#ifndef CUDA_HOST_RACE
    if (array.size != size) { // dynamic memory of another launch
        free(array.memory);
        array = {};
    }
#endif
    if (array.memory == nullptr) {
#ifdef CUDA_HOST_RACE
        array.memory = arena + arena_used;
        arena_used += (size + 63) / 64 * 64;
        if (arena_used > ARENA) abort();
#else
        array.memory = (char *)malloc(size > 0 ? size : 1); // aligned to 16 bytes: no vector type asks for more
#endif
        array.size = size;
        poison(array.memory, size);
    }
    return array.memory;
}

CUDA_HOST_OWN inline void renew_shared() {
    for (Shared &array : shared_arrays) {
        if (array.memory == nullptr) continue;
#if defined(CUDA_HOST_RACE)
        array.memory = nullptr; // freeing would be one more access, in an order with none
#elif defined(CUDA_HOST_BOUNDS)
        free(array.memory);
        array.memory = nullptr;
#else
        poison(array.memory, array.size);
#endif
    }
}

CUDA_HOST_OWN inline void fail(Place place, const char *what, unsigned lanes) {
    if (error[0] == 0)
        snprintf(error, sizeof error, "%s:%d: thread (%u, %u, %u) of block (%u, %u, %u), warp %d, lane %d: %s (mask 0x%08x)",
                 place.file, place.line, current->thread.x, current->thread.y, current->thread.z, block_index.x,
                 block_index.y, block_index.z, current->rank / WARP, current->rank % WARP, what, lanes);
    to_host();
    abort();
}

CUDA_HOST_OWN inline void block_barrier(const char *file, int line) {
    current->state = AT_BARRIER;
    current->place = {file, line};
#ifdef CUDA_HOST_RACE
    int turn = barriers_passed % 2;
    __tsan_release(&barrier_order[turn]);
#endif
    to_host();
#ifdef CUDA_HOST_RACE
    __tsan_acquire(&barrier_order[turn]);
#endif
}

// Waits until every lane of the mask is in this collective; the value that lane `from` gave, or for a
// ballot the lanes that gave 1.
CUDA_HOST_OWN inline uint64_t collective(const char *file, int line, Kind kind, unsigned mask, uint64_t value, int from) {
    Fiber *self = current;
    const Place place = {file, line};
    const int first = self->rank / WARP * WARP, lane = self->rank % WARP;
    if (!(mask >> lane & 1)) fail(place, "the mask does not name the calling lane", mask);
    if (kind == SHUFFLE && !(mask >> from & 1)) fail(place, "a shuffle reads a lane that the mask does not name", mask);
    self->state = IN_WARP;
    self->place = place;
    self->kind = kind;
    self->mask = mask;
    self->value = value;
    self->from = from;
#ifdef CUDA_HOST_RACE
    Warp &warp = warps[self->rank / WARP];
    char *const order = mask == 0xffffffffu ? &warp.order[warp.syncs % 2] : &warp.partial;
    if (kind == SYNCWARP) __tsan_release(order);
#endif
    bool complete = true;
    uint64_t votes = 0;
    for (int i = 0; i < WARP; i++) {
        if (!(mask >> i & 1)) continue;
        if (first + i >= threads) fail(place, "the mask names a lane that the block does not have", mask);
        const Fiber &other = fibers[first + i];
        if (other.state == DONE) fail(place, "the mask names a lane that has returned", mask);
        const bool here = other.state == IN_WARP && other.kind == kind && other.mask == mask && other.place.line == line;
        complete = complete && here; // else it may come yet; if it never does, run_block will say who waits where
        votes |= other.value << i;
    }
    if (complete) {
        for (int i = 0; i < WARP; i++) {
            if (!(mask >> i & 1)) continue;
            Fiber &other = fibers[first + i];
            other.result = kind == BALLOT ? votes : fibers[first + other.from].value;
            other.state = READY;
        }
        if (kind == SYNCWARP && mask == 0xffffffffu) warps[self->rank / WARP].syncs++;
        (kind == SYNCWARP ? counts.syncwarp : kind == SHUFFLE ? counts.shuffle : counts.ballot)++;
    } else {
        to_host();
    }
#ifdef CUDA_HOST_RACE
    if (kind == SYNCWARP) __tsan_acquire(order);
#endif
    return self->result;
}

CUDA_HOST_OWN inline void describe_waiting() {
    int length = snprintf(error, sizeof error, "block (%u, %u, %u) cannot go on, its %d threads wait for each other:",
                          block_index.x, block_index.y, block_index.z, threads);
    int returned = 0;
    for (int i = 0; i < threads; i++) {
        const Fiber &fiber = fibers[i];
        if (fiber.state == DONE) {
            returned++;
            continue;
        }
        int same = 0;
        bool first = true;
        for (int j = 0; j < threads; j++)
            if (fibers[j].state == fiber.state && fibers[j].place.line == fiber.place.line) {
                if (j < i) first = false;
                same++;
            }
        if (!first || length > (int)sizeof error - 200) continue;
        length += snprintf(error + length, sizeof error - length, " %d at the %s of %s:%d", same,
                           fiber.state == AT_BARRIER ? "block's barrier" : "warp's collective", fiber.place.file,
                           fiber.place.line);
        if (fiber.state == IN_WARP)
            length += snprintf(error + length, sizeof error - length, " with mask 0x%08x", fiber.mask);
        length += snprintf(error + length, sizeof error - length, ";");
    }
    snprintf(error + length, sizeof error - length, " %d have returned", returned);
}

CUDA_HOST_OWN inline unsigned next_random(unsigned &state) {
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    return state;
}

CUDA_HOST_OWN inline void run_block(const Launch &launch, unsigned &random) {
    static int turns[MOST_THREADS];
    make_stacks();
    for (int i = 0; i < threads; i++) {
        make_fiber(i);
        turns[i] = launch.order == REVERSE ? threads - 1 - i : i;
    }
    for (Warp &warp : warps) warp.syncs = 0;
    barriers_passed = 0;
#ifdef CUDA_HOST_RACE
    __tsan_release(&start_order); // of the host, which never acquires: blocks are not in any order
#endif
    for (;;) {
        if (launch.order == RANDOM)
            for (int i = threads - 1; i > 0; i--) std::swap(turns[i], turns[next_random(random) % (i + 1)]);
        alive = 0;
        for (int i = 0; i < threads; i++) {
            if (fibers[turns[i]].state != READY) continue;
            alive++;
            to_fiber(&fibers[turns[i]]);
            if (error[0] != 0) return;
        }
        if (alive > 0) continue;
        int waiting = 0, done = 0;
        bool one_line = true;
        for (int i = 0; i < threads; i++) {
            waiting += fibers[i].state == AT_BARRIER;
            done += fibers[i].state == DONE;
            one_line = one_line && fibers[i].place.line == fibers[0].place.line;
        }
        for (int i = 0; i < threads; i++)
            if (*lowest_of_stack(i) != UNTOUCHED) abort(); // what lies below is another thread's, and spoilt
        if (done == threads) break;
        if (waiting < threads || !one_line) return describe_waiting();
        for (int i = 0; i < threads; i++) fibers[i].state = READY;
        barriers_passed++;
        counts.syncthreads++;
    }
#ifdef CUDA_HOST_RACE
    for (int i = 0; i < threads; i++) __tsan_destroy_fiber(fibers[i].tsan);
#endif
}

// Runs the grid; null, or what went wrong.
CUDA_HOST_OWN inline const char *run(void (*kernel)(void **), void **arguments, const Launch &launch) {
    error[0] = 0;
    counts = {};
    body = kernel;
    body_arguments = arguments;
    grid_size = {launch.grid[0], launch.grid[1], launch.grid[2]};
    block_size = {launch.block[0], launch.block[1], launch.block[2]};
    threads = block_size.x * block_size.y * block_size.z;
    dynamic_bytes = launch.shared_bytes;
    if (threads < 1 || threads > MOST_THREADS) {
        snprintf(error, sizeof error, "expected 1 to %d threads a block, got %d", MOST_THREADS, threads);
        return error;
    }
#ifdef CUDA_HOST_RACE
    host_tsan = __tsan_get_current_fiber();
    if (arena == nullptr) arena = fresh_memory(ARENA);
#endif
    unsigned random = launch.seed * 2654435761u + 1;
    const long long blocks = (long long)grid_size.x * grid_size.y * grid_size.z;
    for (long long i = 0; i < blocks; i++) {
        const long long b = launch.order == REVERSE ? blocks - 1 - i : i;
        block_index = {unsigned(b % grid_size.x), unsigned(b / grid_size.x % grid_size.y),
                       unsigned(b / grid_size.x / grid_size.y)};
        renew_shared();
        run_block(launch, random);
        if (error[0] != 0) {
            for (Shared &array : shared_arrays) array = {}; // fibres are left lying, and what they hold
            return error;
        }
    }
#ifdef CUDA_HOST_RACE
    __tsan_acquire(&end_order); // only now: results are the host's
#endif
    return nullptr;
}

// A kernel called with its arguments behind pointers, and the sizes of these.
template <class... A>
struct Arguments {
    template <void (*kernel)(A...), size_t... i>
    static void call(void **arguments, std::index_sequence<i...>) {
        kernel(*(std::remove_cv_t<A> *)arguments[i]...);
    }
    static constexpr int count = sizeof...(A);
    static constexpr long long sizes[] = {(long long)sizeof(A)..., 0};
};
template <class... A>
Arguments<A...> arguments_of(void (*)(A...));

} // namespace cuda_host

#define CUDA_HOST_EXPORT extern "C" __attribute__((visibility("default")))

// The functions by which the Python side finds and starts a kernel.
#define CUDA_HOST_KERNEL(kernel)                                                                               \
    static void kernel##_body(void **arguments) {                                                             \
        typedef decltype(cuda_host::arguments_of(kernel)) Of;                                                 \
        Of::template call<kernel>(arguments, std::make_index_sequence<Of::count>());                          \
    }                                                                                                          \
    CUDA_HOST_EXPORT int kernel##_arguments() { return decltype(cuda_host::arguments_of(kernel))::count; }    \
    CUDA_HOST_EXPORT const long long *kernel##_sizes() {                                                      \
        return decltype(cuda_host::arguments_of(kernel))::sizes;                                              \
    }                                                                                                          \
    CUDA_HOST_EXPORT const char *kernel##_launch(void **arguments, const cuda_host::Launch *launch) {         \
        return cuda_host::run(kernel##_body, arguments, *launch);                                             \
    }                                                                                                          \
    CUDA_HOST_EXPORT const cuda_host::Counts *kernel##_counts() { return &cuda_host::counts; }

#endif
