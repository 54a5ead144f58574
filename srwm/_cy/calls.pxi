"""Calls of any operator: from addresses of arrays to its kernels, on all threads.

A BoundKernels holds all that follows from shapes, strides and dtypes. It is made once; each run only
takes addresses. Sequences are numbered by positions; each thread or thread group computes SEQUENCES
neighbouring positions at a time.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc

cdef enum:
    MOST_AXES = 64
    SUMMED_AT_ONCE = 512  # entries that add_up adds at a time: they stay in the L1 cache


# An array without its address: its strides in bytes, along its last two axes and along the leading axes.
cdef struct Array:
    Py_ssize_t outer, inner
    Py_ssize_t *lead
    int kind


# The addresses of one run; NULL or 0 if there is no array.
cdef struct Addresses:
    char *operands[MOST_OPERANDS]
    char *gradients[MOST_OPERANDS]
    char *results[MOST_RESULTS]
    char *incoming[MOST_RESULTS]
    real *saved
    real *scratch
    unsigned long long control  # of the calling thread (group.h)


# For each operand whose gradient is a sum: the slot to which each position adds.
cdef struct Sums:
    const int64_t *slots[MOST_OPERANDS]


cdef dict operators = {}


cdef class Registered:
    cdef const Kernels *of


cdef register(str name, const Kernels *of):
    cdef Registered entry = Registered()
    entry.of = of
    operators[name] = entry


def is_registered(str name):
    """Whether an operator of this name has kernels."""
    return name in operators


def vector_bytes():
    """Bytes of the vectors this module computes with."""
    return VECTOR_BYTES


def sequences():
    """How many sequences are computed side by side."""
    return SEQUENCES


def layout(str name, Py_ssize_t D, Py_ssize_t Do, Py_ssize_t C):
    """Sizes for an operator with matrices (D, ...), outputs (Do) and segments of C steps.

    Entries saved for a sequence: for each step, for a segment, for the flags of a segment; entries of its
    matrix; entries of a thread's scratch: forward, backward; the largest size in bytes of the matrices for
    which computing sequences side by side is faster: forward, and with backward; whether several threads
    may compute a sequence.
    """
    cdef const Kernels *of = (<Registered> operators[name]).of
    cdef Sizes s
    s.D, s.Do, s.L, s.C, s.segments = D, Do, 0, C, 0
    of.lay_out(&s)
    return (s.row // SEQUENCES, s.kept // SEQUENCES, s.growths // SEQUENCES, s.matrix // SEQUENCES,
            s.forward_scratch, s.backward_scratch, of.most_forward, of.most_backward, of.shares)


# The last entry saved for a sequence: how many sequences were computed side by side, and the signature of
# the call, a 16-bit hash of its shapes and its order of sequences. (Two calls may have the same hash.)
cdef inline real mark_of(Py_ssize_t lanes, Py_ssize_t signature) noexcept nogil:
    return signature * 64 + lanes


def side_by_side(uintptr_t saved, Py_ssize_t N, Py_ssize_t entries, Py_ssize_t lanes, Py_ssize_t signature):
    """How many of N sequences, from the first on, forward computed side by side, `lanes` at a time.

    The last of the `entries` saved for each sequence says so. -1 if forward of a call with this signature
    did not save this array.
    """
    cdef const real *end
    cdef Py_ssize_t p, many = N // lanes * lanes
    cdef const real *first = <const real *> saved
    if lanes == 1 or many == 0 or first[lanes * entries - 1] == mark_of(1, signature):
        many = 0
    for p in range(N):
        if p < many:  # their last entries are next to each other
            end = first + (p // lanes + 1) * lanes * entries - p % lanes - 1
        else:
            end = first + (p + 1) * entries - 1
        if end[0] != mark_of(lanes if p < many else 1, signature):
            return -1
    return many


def clear(uintptr_t address, Py_ssize_t nbytes):
    """Zero memory."""
    if nbytes > 0:
        memset(<void *> address, 0, nbytes)


def add_up(uintptr_t parts, const int64_t[::1] index, const int64_t[::1] starts, Py_ssize_t entries,
           uintptr_t address, int kind):
    """Add up partial sums of `entries` each, of this module's real type; write the sums as a dtype.

    Sum i adds parts index[starts[i] : starts[i + 1]] in this order; without an index, parts starts[i] to
    starts[i + 1] - 1.
    """
    cdef const real *part
    cdef char *out = <char *> address
    cdef real[SUMMED_AT_ONCE] sums
    cdef Py_ssize_t i, j, n, e, first = 0, size = sizeof(real) if kind == REAL else 2
    for i in range(starts.shape[0] - 1):
        for first in range(0, entries, SUMMED_AT_ONCE):
            n = min(entries - first, <Py_ssize_t> SUMMED_AT_ONCE)
            memset(sums, 0, n * sizeof(real))
            for j in range(starts[i], starts[i + 1]):
                part = <const real *> parts + (j if index is None else index[j]) * entries + first
                for e in range(n):
                    sums[e] += part[e]
            for e in range(n):
                write_entry(out, kind, sums[e])
                out += size


cdef class BoundKernels:
    """An operator on arrays of certain shapes, strides and dtypes.

    `operands`, `results`, `incoming` (gradients of the results) and `gradients` (of the operands) are lists
    of (outer stride, inner stride, strides of the leading axes, kind), or None for an array that is not
    given. The outer and inner strides are those of the last two axes; all are in bytes. Kind 0 is this
    module's real type, or flags; 1 is float16, 2 bfloat16. `lead` has the sizes of the leading axes; an
    array has stride 0 along those over which it is broadcast. The gradient of a matrix has slots instead of
    leading axes. `settings` are those of the operator, as numbers. `saved` is the number of entries saved
    for each sequence.
    """

    cdef const Kernels *of
    cdef Sizes s
    cdef Py_ssize_t[MOST_AXES] lead
    cdef int axes
    cdef Py_ssize_t saved, signature
    cdef int n_operands, n_results
    cdef Array[MOST_OPERANDS] operands, gradients
    cdef Array[MOST_RESULTS] results, incoming
    cdef int64_t *order
    cdef int members
    cdef Py_ssize_t *strides
    cdef object held

    def __cinit__(self, str name, tuple sizes, tuple settings, tuple lead, list operands, list results,
                  list incoming, list gradients, Py_ssize_t saved, object order, int members,
                  Py_ssize_t signature):
        cdef Py_ssize_t *next
        cdef int i
        self.of = (<Registered> operators[name]).of
        self.s.D, self.s.Do, self.s.L, self.s.C, self.s.segments = sizes
        for i in range(len(settings)):
            self.s.setting[i] = settings[i]
        self.of.lay_out(&self.s)
        self.axes, self.saved, self.members, self.signature = len(lead), saved, members, signature
        self.n_operands, self.n_results = len(operands), max(len(results), len(incoming))
        if self.axes > MOST_AXES or self.n_operands > MOST_OPERANDS or self.n_results > MOST_RESULTS:
            raise ValueError(f"kernels of {name}: expected at most {MOST_AXES} leading axes, got "
                             f"{self.axes}; merge some of them")
        for i in range(self.axes):
            self.lead[i] = lead[i]
        number = 2 * (self.n_operands + self.n_results) * (self.axes + 1)
        self.strides = next = <Py_ssize_t *> PyMem_Malloc(number * sizeof(Py_ssize_t))
        if self.strides == NULL:
            raise MemoryError
        for records, to in ((operands, 0), (gradients, 1), (results, 2), (incoming, 3)):
            for i in range(len(records)):
                next = set_record(self.record(to, i), records[i], next)
        self.held = order
        self.order = NULL if order is None else <int64_t *> <uintptr_t> order.ctypes.data

    def __dealloc__(self):
        PyMem_Free(self.strides)

    cdef Array *record(self, int of, int i) noexcept:
        if of == 0:
            return &self.operands[i]
        if of == 1:
            return &self.gradients[i]
        return &self.results[i] if of == 2 else &self.incoming[i]

    def forward(self, tuple operands, tuple results, uintptr_t saved, uintptr_t scratch, Py_ssize_t first,
                Py_ssize_t count, int threads):
        """Compute `count` positions from `first` on: write the results and the data saved for backward.

        The arrays are addresses, 0 if not given or not needed. `count` is a multiple of `sequences()`.
        """
        cdef Addresses at
        set_addresses(at.operands, operands)
        set_addresses(at.results, results)
        at.saved, at.scratch, at.control = <real *> saved, <real *> scratch, floating_control()
        prepare_groups(at.scratch, self.s.forward_scratch, threads)
        with nogil, parallel(num_threads=threads):
            self.forward_member(&at, first, count // SEQUENCES, threadid(), threads_here())

    # The share of thread `thread` of `threads` in `number` times SEQUENCES positions from `first` on.
    cdef void forward_member(self, const Addresses *at, Py_ssize_t first, Py_ssize_t number, int thread,
                             int threads) noexcept nogil:
        cdef unsigned long long control = floating_control()
        cdef Py_ssize_t i, most = min(self.members, lines_of(self.s.all_))
        cdef Py_ssize_t each = self.s.forward_scratch
        cdef Group group
        cdef Sizes s
        cdef Views views
        set_floating_control(at.control)
        if join_group(&group, thread, threads, number, most, at.scratch, each):
            s = self.sizes_of_member(&group)
            for i in range(group.first, group.last):
                self.view_results(&views, at, first + i * SEQUENCES)
                self.of.forward(&views, self.place_of(at.saved, first + i * SEQUENCES, True),
                                at.scratch + thread * each, &group, &s)
        set_floating_control(control)

    def backward(self, tuple operands, uintptr_t saved, tuple incoming, tuple gradients, tuple slots,
                 uintptr_t starts, Py_ssize_t chunks, uintptr_t scratch, int threads):
        """Write the gradients of the data operands, and add to those of the others.

        The arrays are addresses, 0 if not given or not needed. Chunk i is the positions starts[i] to
        starts[i + 1] - 1 (int64); their number is a multiple of `sequences()`. `slots` has for each operand
        0, or the address of int64 numbers: for each position, the slot of the gradient to which it adds. No
        two chunks share a slot.
        """
        cdef Addresses at
        cdef Sums sums
        cdef int i
        set_addresses(at.operands, operands)
        set_addresses(at.gradients, gradients)
        set_addresses(at.incoming, incoming)
        for i in range(self.n_operands):
            sums.slots[i] = <const int64_t *> <uintptr_t> slots[i]
        at.saved, at.scratch, at.control = <real *> saved, <real *> scratch, floating_control()
        prepare_groups(at.scratch, self.s.backward_scratch, threads)
        with nogil, parallel(num_threads=threads):
            self.backward_member(&at, &sums, <const int64_t *> starts, chunks, threadid(), threads_here())

    # The share of thread `thread` of `threads` in all chunks.
    cdef void backward_member(self, const Addresses *at, const Sums *sums, const int64_t *starts,
                              Py_ssize_t chunks, int thread, int threads) noexcept nogil:
        cdef unsigned long long control = floating_control()
        cdef Py_ssize_t chunk, p, most = min(self.members, lines_of(self.s.all_))
        cdef Py_ssize_t each = self.s.backward_scratch
        cdef Group group
        cdef Sizes s
        cdef Views views
        set_floating_control(at.control)
        if join_group(&group, thread, threads, chunks, most, at.scratch, each):
            s = self.sizes_of_member(&group)
            for chunk in range(group.first, group.last):
                p = starts[chunk]
                while p < starts[chunk + 1]:
                    self.view_gradients(&views, at, sums, p)
                    self.of.backward(&views, self.place_of(at.saved, p, False),
                                     at.scratch + thread * each, &group, &s)
                    p += SEQUENCES
        set_floating_control(control)

    cdef inline Sizes sizes_of_member(self, const Group *group) noexcept nogil:
        cdef Sizes s = self.s
        if group.size > 1:
            set_columns(&s, member_start(group, group.member, s.all_),
                        member_start(group, group.member + 1, s.all_))
        return s

    # Where the data saved for positions p, p + 1, ... begin. If they are new, entries that the operator
    # does not use are zeroed, so that equal calls save equal arrays, and the last entry of each sequence is
    # set (mark_of). NULL if nothing is saved.
    cdef inline real *place_of(self, real *saved, Py_ssize_t p, bint is_new) noexcept nogil:
        cdef real *place = saved + p * self.saved
        cdef Py_ssize_t i, used = saved_growth(all_segments(&self.s), &self.s), end = SEQUENCES * self.saved
        if saved == NULL:
            return NULL
        if is_new:
            memset(place + used, 0, (end - used) * sizeof(real))
            for i in range(end - SEQUENCES, end):
                place[i] = mark_of(SEQUENCES, self.signature)
        return place

    cdef inline void view_operands(self, Views *views, const Addresses *at, Py_ssize_t p) noexcept nogil:
        cdef int i
        for i in range(self.n_operands):
            self.view(&views.operands[i], &self.operands[i], at.operands[i], p)
        views.operands[self.of.reset].mask = NULL if self.of.mask < 0 else &views.operands[self.of.mask]
        if self.s.L == 0:  # no steps: there is no first flag to read
            views.operands[self.of.reset].data[0] = NULL

    cdef inline void view_results(self, Views *views, const Addresses *at, Py_ssize_t p) noexcept nogil:
        cdef int i
        self.view_operands(views, at, p)
        for i in range(self.n_results):
            self.view(&views.results[i], &self.results[i], at.results[i], p)

    cdef inline void view_gradients(self, Views *views, const Addresses *at, const Sums *sums,
                                    Py_ssize_t p) noexcept nogil:
        cdef int i
        self.view_operands(views, at, p)
        for i in range(self.n_results):
            self.view(&views.incoming[i], &self.incoming[i], at.incoming[i], p)
        for i in range(self.n_operands):
            if sums.slots[i] == NULL:
                self.view(&views.gradients[i], &self.gradients[i], at.gradients[i], p)
            else:
                view_slots(&views.gradients[i], &self.gradients[i], at.gradients[i], sums.slots[i] + p)

    # View of one array for the sequences order[p], order[p + 1], ...; without an order, p, p + 1, ...
    cdef inline void view(self, View *view, const Array *a, char *address, Py_ssize_t p) noexcept nogil:
        cdef Py_ssize_t i, n
        cdef int axis
        cdef char *data
        view.data[0] = address
        if address == NULL:
            return
        view.outer, view.inner, view.kind = a.outer, a.inner, a.kind
        for i in range(SEQUENCES):
            n = p + i if self.order == NULL else self.order[p + i]
            data = address
            for axis in range(self.axes - 1, 0, -1):
                data += n % self.lead[axis] * a.lead[axis]
                n //= self.lead[axis]
            view.data[i] = data if self.axes == 0 else data + n * a.lead[0]


cdef inline void view_slots(View *view, const Array *a, char *address, const int64_t *slots) noexcept nogil:
    cdef Py_ssize_t i
    view.data[0] = address
    if address == NULL:
        return
    view.outer, view.inner, view.kind = a.outer, a.inner, a.kind
    for i in range(SEQUENCES):
        view.data[i] = address + slots[i] * a.lead[0]


cdef Py_ssize_t *set_record(Array *a, tuple record, Py_ssize_t *strides) except NULL:
    a.lead = strides
    if record is None:
        return strides
    a.outer, a.inner, lead, a.kind = record
    for i in range(len(lead)):
        strides[i] = lead[i]
    return strides + len(lead)


cdef inline void set_addresses(char **at, tuple addresses):
    cdef int i
    for i in range(len(addresses)):
        at[i] = <char *> <uintptr_t> addresses[i]
