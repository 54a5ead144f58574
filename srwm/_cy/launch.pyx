"""Launch configuration of the CUDA kernels: pure integers, no device needed.

From sizes, dtype and a device's limits it computes how many threads work on a sequence, how much of the
matrix each of them holds in registers, with which definitions the kernel is compiled, and how many blocks
are launched. A thread group is the threads that work on one sequence; a quad is four neighbouring entries,
which are loaded together. The definitions are explained where they are used: srwm/_raw_kernels/arrays.cuh,
columns.cuh, tile.cuh.
"""

from functools import lru_cache
from typing import NamedTuple

from srwm.operators.spec import REPLAYED_SEGMENT, SEGMENT, described, segments

cdef extern from "growth_limits.h":
    const int GROWTH, ADDED_GROWTH

cdef enum:
    WARP = 32
    GROUPS_OF_A_WARP = 4  # thread groups of a block if each is one warp: blocks are limited, too
    VIEW_BYTES = 8  # shared memory of a thread group for the start of its sequence in one array
    PROGRESS = 4  # entries of this size in which a backward group counts its sequences: tile.cuh
    PARTITIONS = 4  # of a multiprocessor: each has its own warps and a quarter of the registers
    REGISTER_STEP = 8  # a thread's registers are allocated in multiples of 8
    LARGEST_D = 256
    LARGEST_DO = 1024
    WORDS_OF_A_THREAD = 28  # about how many entries of the matrix a backward thread should own
    LARGEST_CACHED = 204800  # bytes of an initial matrix that a block may copy: arrays.cuh
    MOST_BACKWARD_WARPS = 16  # with more, each thread would have too few registers
    REPLAYED = 4  # most steps after the last saved matrix, which backward recomputes

SHARED_BYTES = 49152  # shared memory that a block has on every architecture without a request


class Limits(NamedTuple):
    """What a device allows."""

    threads_per_block: int
    shared_bytes_per_block: int  # for a kernel that requests more than the usual 48 KB
    registers_per_block: int
    threads_per_multiprocessor: int
    multiprocessors: int


# Compute capability -> limits, for tests and for compiling ahead. The number of multiprocessors is that of
# a large card.
ARCHITECTURES = {
    60: Limits(1024, 49152, 65536, 2048, 56),
    61: Limits(1024, 49152, 65536, 2048, 30),
    70: Limits(1024, 98304, 65536, 2048, 80),
    75: Limits(1024, 65536, 65536, 1024, 72),
    80: Limits(1024, 166912, 65536, 2048, 108),
    86: Limits(1024, 101376, 65536, 1536, 84),
    89: Limits(1024, 101376, 65536, 1536, 142),
    90: Limits(1024, 232448, 65536, 2048, 132),
    100: Limits(1024, 232448, 65536, 2048, 148),
    120: Limits(1024, 101376, 65536, 1536, 170),
}


class Storage(NamedTuple):
    """A dtype of the caller's arrays in the CUDA text."""

    type: str  # C++ type of the arrays
    real: str  # C++ type of the matrix in registers and of every sum
    macro: str  # for half types: makes arrays.cuh include their header
    bytes: int  # of an entry of the arrays


STORAGES = {
    "float16": Storage("__half", "float", "SRWM_HALF", 2),
    "bfloat16": Storage("__nv_bfloat16", "float", "SRWM_BFLOAT16", 2),
    "float32": Storage("float", "float", "", 4),
    "float64": Storage("double", "double", "", 8),
}


class Config(NamedTuple):
    """How one kernel is compiled and launched for given sizes, dtype and device limits."""

    kernel: str  # function, and stem of its .cu file
    options: tuple[str, ...]  # -D definitions
    group: int  # threads of a thread group
    groups: int  # thread groups of a block
    tiles: int  # thread groups that share one sequence; each has separate columns
    working: int  # entries of working memory for each thread group
    blocks: int  # that a multiprocessor runs at the same time, at least
    registers: int  # that the compiler may use for a thread
    shared_bytes: int  # of a block, declared in the kernel
    dynamic_bytes: int  # shared memory of a block that the launch adds
    cached_bytes: int  # more of it, for a copy of an initial matrix that all sequences share; 0: no room

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.group * self.groups


def grid(config, items, multiprocessors) -> int:
    """Blocks for `items` items of work: enough for all, but no more than run at the same time."""
    wanted = -(-items // config.groups)
    return max(1, min(wanted, multiprocessors * config.blocks))


class _Needs(NamedTuple):
    """How many registers a kernel needs besides those that hold the matrix.

    The numbers were found with the compile matrix, which fails if a kernel spills.
    """

    fewest: int  # least registers of a thread
    share: int  # percent of the registers that are available for the matrix
    always: int  # hundredths of a register that are always used otherwise
    memory: int  # the same for each register of a quad, if a part of the matrix is in memory


# (kernel, bytes of the type of the sums) -> needs.
_NEEDS = {
    ("srwm_forward", 4): _Needs(56, 100, 9000, 500),
    ("srwm_forward", 8): _Needs(112, 45, 2400, 100),
    ("srwm_backward", 4): _Needs(104, 100, 15100, 270),
    ("srwm_backward", 8): _Needs(112, 100, 19500, 90),
    ("delta_forward", 4): _Needs(80, 45, 1650, 0),
    ("delta_forward", 8): _Needs(112, 45, 2800, 100),
    ("delta_backward", 4): _Needs(80, 100, 9000, 350),
    ("delta_backward", 8): _Needs(112, 100, 14000, 170),
}


cdef int _words_held(int registers, needs, int of_quad):
    """How many registers of a thread can hold its part of the matrix; below 0: there are too few.

    `of_quad`: registers for a quad that was loaded from memory; 0 if no quad is in memory.
    """
    return (<int>needs.share * registers - <int>needs.always - <int>needs.memory * of_quad) // 100


cdef int _parts(int n, int size):
    """n / size, rounded up."""
    return (n + size - 1) // size


cdef int _up_to(int n, int multiple):
    return _parts(n, multiple) * multiple


cdef int _power_of_two(int n):
    """The smallest power of two >= n."""
    cdef int p = 1
    while p < n:
        p *= 2
    return p


class _Fit(NamedTuple):
    held: tuple  # quads in registers, for each part
    blocks: int
    registers: int
    free: int  # unused registers; below 0: the kernel would spill


cdef int _registers(int threads, limits):
    """How many registers a thread can have if a multiprocessor runs `threads` threads."""
    cdef int warps = _parts(_parts(threads, WARP), PARTITIONS)
    cdef int file = limits.registers_per_block
    return min(255, file // PARTITIONS // (warps * WARP) // REGISTER_STEP * REGISTER_STEP)


def _fit(str op, kernel, int threads, list parts, int size, limits):
    """How many quads of each part a thread holds in registers, and how many blocks then fit.

    A part (quads, lines, absent) has `lines` lines of `quads` quads, with entries of `size` bytes; the last
    quad of a line lacks `absent` entries. The last quads of a part go into registers first, and earlier
    parts before later ones.
    """
    if threads > limits.threads_per_block:
        raise ValueError(
            f"{op}: {threads} threads a block are needed; this device allows {limits.threads_per_block}"
        )
    needs = _NEEDS[kernel, size]
    cdef int registers = _registers(threads, limits), fewest = needs.fewest
    if registers < fewest:
        raise ValueError(
            f"{op}: {fewest} registers for each of {threads} threads are needed; this device has "
            f"{limits.registers_per_block} registers a block"
        )
    cdef int whole = 0, held_words = 0, of_quad = 0, quads, lines, absent, n, blocks = 1
    cdef int of_line = size // 4
    for quads, lines, absent in parts:
        whole += (4 * quads - absent) * lines * of_line
        of_quad = max(of_quad, 4 * lines * of_line)
    if _words_held(registers, needs, 0) >= whole:
        of_quad = 0
    cdef int free = _words_held(registers, needs, of_quad)
    held = []
    for quads, lines, absent in parts:
        n = min(quads, (max(0, free - held_words) // (lines * of_line) + absent) // 4)
        if n > 0:
            held_words += (4 * n - absent) * lines * of_line
        held.append(n)
    while (blocks + 1) * threads <= limits.threads_per_multiprocessor:
        registers = _registers((blocks + 1) * threads, limits)
        if registers < fewest or _words_held(registers, needs, of_quad) < held_words:
            break
        blocks += 1
    return _Fit(tuple(held), blocks, _registers(blocks * threads, limits), free - held_words)


def _check_sizes(str op, int D, int Do):
    if not 1 <= D <= LARGEST_D:
        raise ValueError(f"{op}: expected 1 <= D <= {LARGEST_D} on CUDA, got D = {D}")
    if not 1 <= Do <= LARGEST_DO:
        raise ValueError(f"{op}: expected 1 <= Do <= {LARGEST_DO} on CUDA, got Do = {Do}")


def _check_shared(str op, int needed, limits):
    if needed > min(SHARED_BYTES, limits.shared_bytes_per_block):
        raise ValueError(
            f"{op}: {needed} bytes of shared memory are needed; a block has "
            f"{min(SHARED_BYTES, limits.shared_bytes_per_block)}"
        )


def _config(kernel, storage, state, int D, int Do, int M, int group, int groups, int tiles, int working,
            fit, int shared, int dynamic, limits, defines):
    kind = STORAGES[storage]
    macros = [f"-D{kind.macro}"] if kind.macro else []
    values = {
        "STORAGE": kind.type, "STATE": STORAGES[state].type, "REAL": kind.real, "D": D, "DO": Do, "M": M,
        "GROUP": group, "GROUPS": groups, "BLOCKS": fit.blocks, "WORKING": working, "SEGMENT": SEGMENT,
        **defines,
    }
    options = (*macros, *(f"-DSRWM_{name}={value}" for name, value in values.items()))
    cdef int cached = _up_to(D * M * kind.bytes, 16)
    if (
        limits is None
        or cached > LARGEST_CACHED
        or fit.blocks * (shared + dynamic + cached) > limits.shared_bytes_per_block
    ):
        cached = 0
    return Config(
        kernel, options, group, groups, tiles, working, fit.blocks, fit.registers, shared, dynamic, cached
    )


cdef int _near(int quads, int held, long quad_bytes, long room):
    """How many of the quads that are not in registers go into shared memory.

    If not all of them fit, and less than 1/8 of all quads do, none: the loop over so few would not pay.
    """
    cdef int near = min(quads - held, max(0, room) // quad_bytes)
    return near if near == quads - held or 8 * near >= quads else 0


def _resident(fit, int threads, int shared, limits):
    """The fit with only as many blocks as fit into shared memory."""
    cdef int blocks = max(1, min(<int>fit.blocks, <int>limits.shared_bytes_per_block // shared))
    return fit._replace(blocks=blocks, registers=_registers(blocks * threads, limits))


def _columns_of_a_group(str op, int D, int Do, int M, str storage, limits, int views, state):
    """The config of srwm_forward: every thread owns whole columns of W."""
    cdef int size = 8 if storage == "float64" else 4
    cdef int quads = _parts(D, 4), groups = 1
    cdef int columns, group, held, other_group
    if D <= 16 and M <= 4 * WARP:
        group, groups, columns = WARP, GROUPS_OF_A_WARP, _parts(M, WARP)
        fit = _fit(op, "srwm_forward", group * groups, [(quads, columns, 0)], size, limits)
    else:
        # Take the number of columns for which the least of W is in memory; of these, that for which a
        # partition has the least work. A warp costs about as much as its columns and one more.
        best = None
        for other in range(1, 9):
            other_group = _up_to(_parts(M, other), WARP)
            if other_group > limits.threads_per_block:
                continue
            if _registers(other_group, limits) < _NEEDS["srwm_forward", size].fewest:
                continue
            other_fit = _fit(op, "srwm_forward", other_group, [(quads, other, 0)], size, limits)
            cost = (
                other_fit.free < 0,
                (quads - <int>other_fit.held[0]) * 4 * other * other_group,
                _parts(other_group // WARP, PARTITIONS) * (other + 1),
            )
            if best is None or cost < best:
                best, fit, columns, group = cost, other_fit, other, other_group
    held = fit.held[0]
    cdef bint each_warp = D <= 64 and group <= 16 * WARP
    cdef int copies = group * groups // (WARP if each_warp else group)
    cdef int shared = size * (groups * 2 * (8 * quads + 4) + copies * 3 * 4 * quads + 4)
    shared += groups * views * VIEW_BYTES
    _check_shared(op, shared, limits)
    cdef int quad = 4 * columns * group, near
    near = _near(quads, held, groups * size * quad, limits.shared_bytes_per_block - shared)
    cdef int dynamic = groups * size * near * quad
    return _config(
        "srwm_forward", storage, state, D, Do, M, group, groups, 1, (quads - held - near) * quad,
        _resident(fit, group * groups, shared + dynamic, limits), shared, dynamic,
        limits, {"COLUMNS": columns, "HELD": held, "NEAR": near},
    )


class _Tile(NamedTuple):
    """How the threads of a group divide a matrix of D rows and M columns in a backward pass."""

    row_lanes: int  # neighbouring lanes that share columns
    rows: int  # of a thread
    columns: int  # of a thread
    quads: int  # of four columns, of a thread
    warps: int  # of a thread group


def _tile(int D, int M, int warps):
    """The tile of a thread if a group has `warps` warps; warps without columns are left out."""
    cdef int row_lanes = min(max(_power_of_two(_parts(D, 4)), 4), WARP)
    cdef int lanes = WARP // row_lanes, columns = _parts(M, warps * lanes)
    return _Tile(row_lanes, _parts(D, row_lanes), columns, _parts(columns, 4), _parts(M, columns * lanes))


def _tiles(str op, kernel, int D, int Do, int M, storage, limits, int shares, int staged, int views, sums,
           state):
    """The config of a backward kernel, whose threads own tiles of the matrix and of its gradient: tile.cuh.

    Each thread group has in shared memory `shares` vectors over rows for each warp, `staged` vectors over
    rows that are loaded from memory, and the start of its sequence in `views` arrays.
    """
    cdef int size = 8 if storage == "float64" else 4
    cdef int natural = max(1, _parts(D * M, WORDS_OF_A_THREAD * WARP)), least = -1, words, groups
    natural = min(natural, MOST_BACKWARD_WARPS, limits.threads_per_block // WARP)
    # Among the numbers of warps with almost the least data in memory, take the largest.
    for warps in (natural, 8, 4):
        other = _tile(D, M, min(warps, natural))
        groups = GROUPS_OF_A_WARP if other.warps == 1 else 1
        part = other.quads, other.rows, 4 * other.quads - other.columns
        other_fit = _fit(op, kernel, other.warps * WARP * groups, [part, part], size, limits)
        words = (2 * other.quads - sum(other_fit.held)) * 4 * other.rows * other.warps * WARP
        if least < 0 or 10 * words < 9 * least or fit.free < 0 <= other_fit.free:
            least, tile, fit = words, other, other_fit
    groups = GROUPS_OF_A_WARP if tile.warps == 1 else 1
    cdef int group = tile.warps * WARP
    cdef int rows = tile.row_lanes * _up_to(tile.rows, 4)
    cdef int columns = group // tile.row_lanes * 4 * (tile.quads + 1 - tile.quads % 2)
    cdef int exchanged = 3 * columns + (shares * tile.warps * rows if tile.warps > 1 else 0)
    cdef int shared = groups * (size * (staged * rows + 8 + 6 * tile.warps) + views * VIEW_BYTES)
    _check_shared(op, shared, limits)
    # Shared memory first holds the values that threads exchange, then the quads that are not in registers:
    # G before W, because G is read more often.
    cdef int held_G = fit.held[0], held_W = fit.held[1], near_G, near_W
    cdef int of_quad = groups * size * 4 * tile.rows * group
    cdef int room = limits.shared_bytes_per_block - shared, dynamic = 0, working
    cdef bint shared_sums = groups * size * exchanged <= room
    if shared_sums:
        dynamic = groups * size * exchanged
    near_G = _near(tile.quads, held_G, of_quad, room - dynamic)
    dynamic += of_quad * near_G
    near_W = _near(tile.quads, held_W, of_quad, room - dynamic)
    dynamic += of_quad * near_W
    working = 4 * tile.rows * group * (2 * tile.quads - held_G - held_W - near_G - near_W)
    working += exchanged * (not shared_sums)
    fit = _resident(fit, group * groups, shared + dynamic, limits)
    return _config(
        kernel, storage, state, D, Do, M, group, groups, 1, working, fit, shared, dynamic,
        limits, {
            "ROW_LANES": tile.row_lanes, "COLUMNS": tile.columns, "HELD_W": held_W, "HELD_G": held_G,
            "NEAR_W": near_W, "NEAR_G": near_G, "SHARED_SUMS": int(shared_sums),
            "GROWTH": GROWTH, "ADDED_GROWTH": ADDED_GROWTH,
            "GRADIENT": STORAGES[storage].real if sums else STORAGES[storage].type,
            "STATE_GRADIENT": STORAGES[storage].real if sums else STORAGES[state].type,
        },
    )


def _columns_of_warps(str op, int D, int Do, int M, str storage, limits, int views, state):
    """The config of delta_forward: each warp has a tile of columns of S."""
    cdef int size = 8 if storage == "float64" else 4
    cdef int columns = 2 if D <= 32 and Do > WARP else 1, quads = _parts(D, 4)
    cdef int threads = WARP * GROUPS_OF_A_WARP
    fit = _fit(op, "delta_forward", threads, [(quads, columns, 0)], size, limits)
    cdef int shared = GROUPS_OF_A_WARP * (size * 4 * 4 * quads + views * VIEW_BYTES)
    _check_shared(op, shared, limits)
    cdef int quad = 4 * columns * WARP, held = fit.held[0], near, dynamic
    near = _near(quads, held, GROUPS_OF_A_WARP * size * quad, limits.shared_bytes_per_block - shared)
    dynamic = GROUPS_OF_A_WARP * size * near * quad
    return _config(
        "delta_forward", storage, state, D, Do, M, WARP, GROUPS_OF_A_WARP, _parts(Do, WARP * columns),
        (quads - held - near) * quad, _resident(fit, threads, shared + dynamic, limits), shared, dynamic,
        limits, {"COLUMNS": columns, "HELD": held, "NEAR": near},
    )


# Threads of a group whose state is in memory, at most; registers that such a thread needs, by the bytes of
# the type of sums, forward and backward.
MOST_REPLAYED_THREADS = 256
REPLAYED_REGISTERS = {4: (64, 96), 8: (96, 128)}


def _replayed(str op, kernel, kind, bint is_backward, int D, int Do, int M, str storage, limits, int views,
              sums, state):
    """The config of a kernel that recomputes states, or of the forward pass beside it: replayed.cuh.

    Vectors go into shared memory where they fit, the state and the stack only where several blocks fit.
    """
    cdef int size = 8 if storage == "float64" else 4
    cdef int group = min(MOST_REPLAYED_THREADS, _up_to(max(D, M), WARP)), room, used = 0, working = 0
    cdef int groups = GROUPS_OF_A_WARP if group == WARP else 1
    cdef int row = kind.row(D, M), vector = kind.vector(D), of_state = D * (M | 1) + vector
    cdef int of_sums = kind.sums(D) if is_backward else 0
    cdef int vectors = kind.backward_vectors(D, M) if is_backward else kind.forward_vectors(D, M)
    parts = [
        ("VECTORS", [vectors] if is_backward else [vectors, row], 1),
        ("STATE", [of_state, of_sums] if is_backward else [of_state], 2),
        ("STACK", [REPLAYED_SEGMENT * of_state] if is_backward else [], 4),
    ]
    cdef int shared = groups * views * VIEW_BYTES
    _check_shared(op, shared, limits)
    room = limits.shared_bytes_per_block - shared
    in_shared = {}
    for name, entries, share in parts:
        entries = sum([_up_to(n, 4) for n in entries])
        in_shared[name] = groups * size * (used + entries) <= room // share
        if in_shared[name]:
            used += entries
        else:
            working += entries
    cdef int threads = group * groups, dynamic = groups * size * used
    cdef int blocks = min(
        limits.threads_per_multiprocessor // threads,
        limits.registers_per_block // (REPLAYED_REGISTERS[size][is_backward] * threads),
    )
    fit = _resident(_Fit((), max(1, blocks), 0, 0), threads, shared + dynamic, limits)
    return _config(
        kernel, storage, state, D, Do, M, group, groups, 1, working, fit, shared, dynamic, None, {
            "SEGMENT": REPLAYED_SEGMENT, "ROW": row, "VECTOR": vector, "KEPT_VECTOR": kind.kept_vector(D),
            "VECTORS": vectors, "SUMS": of_sums, "SHARED": used,
            **{f"SHARED_{name}": int(is_in) for name, is_in in in_shared.items()},
            "GRADIENT": STORAGES[storage].real if sums else STORAGES[storage].type,
            "STATE_GRADIENT": STORAGES[storage].real if sums else STORAGES[state].type,
        },
    )


class Kernels(NamedTuple):
    """The properties of an operator's kernels that their launches depend on."""

    columns: object  # of its matrix: a function of D and Do
    saved: object  # entries saved of a step for backward: a function of D and Do
    forward: object  # the function that makes the config of its forward kernel
    forward_views: int  # arrays of its forward kernel: a thread group has the start of its sequence in each
    backward_views: int  # arrays of its backward kernel
    shares: int  # vectors over rows of which each warp of a backward group has partial sums
    staged: int  # vectors over rows that a backward group reads from memory; double-buffered

    def saved_entries(self, L, D, Do):
        """Entries saved of a sequence: first of its steps, then its matrices."""
        return L * self.saved(D, Do) + segments(L) * D * self.columns(D, Do)


class Replayed(NamedTuple):
    """The same of an operator whose states are recomputed. All sizes are functions of D and M, or of D."""

    columns: object
    row: object  # entries saved of a step
    forward_views: int
    backward_views: int
    forward_vectors: object  # entries of the vectors of a step
    backward_vectors: object
    vector: object = lambda D: 0  # entries of the vector of its state
    kept_vector: object = lambda D: 0  # the same of what is saved of a segment
    sums: object = lambda D: 0  # entries of the gradients of its parameters

    def saved_entries(self, L, D, Do):
        """Entries saved of a sequence: first of its steps, then its states."""
        M = self.columns(D, Do)
        return L * self.row(D, M) + segments(L, REPLAYED_SEGMENT) * (D * M + self.kept_vector(D))


def _four(*numbers):
    """Entries of vectors that each begin at a multiple of four."""
    return sum([_up_to(n, 4) for n in numbers])


def _of_writer(D, M):
    """Entries of the vectors of a step of writer.cuh, forward."""
    return _four(*[D] * 5, M, 8)


def _of_writer_backward(D, M):
    """The same, backward."""
    return _of_writer(D, M) + _four(*[D] * 3, *[M] * 5)


# By the name of the operator.
OPERATORS = {
    "srwm": Kernels(
        lambda D, Do: Do + 2 * D + 4, lambda D, Do: 2 * (2 * D + 4) + Do, _columns_of_a_group, 4, 10, 3, 6
    ),
    "delta": Kernels(lambda D, Do: Do, lambda D, Do: Do, _columns_of_warps, 7, 16, 4, 4),
    "sum_rule": Replayed(
        lambda D, Do: Do, lambda D, M: 0, 6, 14, lambda D, M: _four(D, D, M, M, 4),
        lambda D, M: _four(D, D, M, M, 4, D, D),
    ),
    "normalised_sum_rule": Replayed(
        lambda D, Do: Do, lambda D, M: 0, 8, 19, lambda D, M: _four(D, D, M, M, 4),
        lambda D, M: _four(D, D, M, M, 4, D, D), lambda D: D, lambda D: D,
    ),
    "recurrent_delta": Replayed(
        lambda D, Do: D, lambda D, M: 4 * D + 1, 14, 30, lambda D, M: _four(D, D, D, 3 * D + 1),
        lambda D, M: _four(*[D] * 10, 4, D, 3 * D + 1), lambda D: D, sums=lambda D: D * (3 * D + 1),
    ),
    "delta_rnn": Replayed(
        lambda D, Do: D, lambda D, M: 3 * D + 1, 10, 22, lambda D, M: _four(D, D, D),
        lambda D, M: _four(*[D] * 10, 4, D), lambda D: D,
    ),
    "self_modifying": Replayed(
        lambda D, Do: Do + 3 * D + 2, lambda D, M: 3 * D + M + 5, 5, 11, _of_writer, _of_writer_backward
    ),
    "self_modifying_query": Replayed(
        lambda D, Do: Do + 2 * D + 2, lambda D, M: 3 * D + M + 5, 6, 13, _of_writer, _of_writer_backward
    ),
    "srwm_read": Replayed(
        lambda D, Do: Do + 2 * D + 4, lambda D, M: 4 * D + M + 4, 5, 12, _of_writer, _of_writer_backward
    ),
}


def saved_entries(str operator, L, D, Do) -> int:
    """How many entries forward saves of a sequence for backward: first for its steps, then its matrices."""
    return OPERATORS[operator].saved_entries(L, D, Do)


@lru_cache(maxsize=1024)
def forward(str operator, int D, int Do, str storage, limits, state=None) -> Config:
    """The config of an operator's forward kernel.

    `state`: the dtype of the state that is given and returned; None: the dtype of the other arrays.
    """
    op, kind = described[operator].verb("forward"), OPERATORS[operator]
    _check_sizes(op, D, Do)
    M, views = kind.columns(D, Do), kind.forward_views
    if isinstance(kind, Replayed):
        kernel = f"{operator}_forward"
        return _replayed(op, kernel, kind, False, D, Do, M, storage, limits, views, False, state or storage)
    return kind.forward(op, D, Do, M, storage, limits, views, state or storage)


@lru_cache(maxsize=1024)
def backward(str operator, int D, int Do, str storage, limits, sums=False, state=None) -> Config:
    """The config of an operator's backward kernel; `state` as for `forward`.

    `sums`: gradients of sequences are added up afterwards, so the kernel writes all in the type of sums.
    """
    op, kind, kernel = described[operator].verb("backward"), OPERATORS[operator], f"{operator}_backward"
    _check_sizes(op, D, Do)
    M, views = kind.columns(D, Do), kind.backward_views
    if isinstance(kind, Replayed):
        return _replayed(op, kernel, kind, True, D, Do, M, storage, limits, views, sums, state or storage)
    return _tiles(
        op, kernel, D, Do, M, storage, limits, kind.shares, kind.staged, views + PROGRESS, sums,
        state or storage,
    )


@lru_cache(maxsize=1024)
def add_partial_sums(str storage) -> Config:
    """The config of add_partial_sums: each thread computes entries of the sum."""
    fit = _Fit((), 8, 0, 0)
    return _config("add_partial_sums", storage, storage, 1, 1, 1, WARP, 8, 1, 0, fit, 0, 0, None, {})
