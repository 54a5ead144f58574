"""Launch configuration of the CUDA kernels: pure integers, no device needed.

For sizes, dtype and a device's limits it says how many threads work on a sequence, what of the state
each holds in registers, what the kernel is compiled with, and how many blocks are launched. The names
of the definitions are explained where they are used: srwm/_raw_kernels/arrays.cuh, roles.cuh and the
heads of the kernels.
"""

from functools import lru_cache
from typing import NamedTuple

from srwm._cy.backend import SEGMENT

cdef enum:
    WARP = 32
    TEAMS_OF_A_WARP = 4  # teams of one warp to a block: a block slot is as scarce as a register
    VIEW_BYTES = 8  # in which a block remembers where a sequence begins in one array
    SHARED_BYTES = 49152  # of a block without asking for more: every architecture has them
    PARTITIONS = 4  # of a multiprocessor: each has its warps and a share of the registers
    REGISTER_STEP = 8  # registers are given to a thread in eights
    LARGEST_D = 256
    LARGEST_DO = 1024
    WORDS_OF_A_THREAD = 28  # of each form of the state that a backward thread should own, about
    LARGEST_BACKWARD_TEAM = 512  # more threads would leave each too few registers


class Limits(NamedTuple):
    """What a device allows."""

    threads_per_block: int
    shared_bytes_per_block: int
    registers_per_block: int
    threads_per_multiprocessor: int
    multiprocessors: int


# Compute capability -> limits, for tests and for compiling ahead; the multiprocessors are those of a
# large card of that kind.
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
    """A dtype of the caller's arrays, as the kernels know it."""

    type: str  # C++ type of the arrays
    real: str  # of the state and of every sum
    macro: str  # defined for the halves, whose type has a header


STORAGES = {
    "float16": Storage("__half", "float", "SRWM_HALF"),
    "bfloat16": Storage("__nv_bfloat16", "float", "SRWM_BFLOAT16"),
    "float32": Storage("float", "float", ""),
    "float64": Storage("double", "double", ""),
}


class Plan(NamedTuple):
    """How one kernel is compiled and launched for given sizes, dtype and device limits."""

    kernel: str  # function, and stem of its .cu file
    options: tuple[str, ...]  # -D definitions
    team: int  # threads of a team
    teams: int  # of a block
    tiles: int  # teams that share one sequence, each with columns of its own
    rest: int  # entries of working memory for each team
    blocks: int  # resident on a multiprocessor at a time, at the least
    registers: int  # that the compiler may use for a thread
    shared_bytes: int  # of a block

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.team * self.teams


def grid(plan, items, multiprocessors) -> int:
    """Blocks for `items` pieces of work: all that are at hand, but no more than run at a time."""
    wanted = -(-items // plan.teams)
    return max(1, min(wanted, multiprocessors * plan.blocks))


class _Needs(NamedTuple):
    """What the compiler needs of a kernel's registers before any can hold the state.

    Found by the compile matrix, which fails where the compiler disagrees: it would spill.
    """

    fewest: int  # registers of a thread
    always: int  # hundredths of a register
    memory: int  # and so many more where a part of the state is in memory


# By kernel and bytes of the type of the sums.
_NEEDS = {
    ("srwm_forward", 4): _Needs(56, 1400, 1000),
    ("srwm_forward", 8): _Needs(112, 2400, 0),
    ("srwm_backward", 4): _Needs(104, 1500, 1600),
    ("srwm_backward", 8): _Needs(112, 2400, 3000),
    ("delta_forward", 4): _Needs(80, 1650, 0),
    ("delta_forward", 8): _Needs(112, 2400, 0),
    ("delta_backward", 4): _Needs(80, 1500, 800),
    ("delta_backward", 8): _Needs(112, 2400, 0),
}


cdef int _words_held(int registers, int needs):
    """Registers of a thread, of so many, that can hold its part of the state.

    The others hold addresses, loop counts and what is on its way: the more, the more there is to fetch.
    """
    return max(0, (45 * registers - needs) // 100)


cdef int _parts(int n, int size):
    """Parts of `size` that n has, the last one smaller perhaps."""
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
    held: tuple  # groups of each part in registers
    blocks: int
    registers: int


cdef int _registers(int threads, limits):
    """Registers that each of so many threads of a multiprocessor can have, each warp in one partition."""
    cdef int warps = _parts(_parts(threads, WARP), PARTITIONS)
    cdef int file = limits.registers_per_block
    return min(255, file // PARTITIONS // (warps * WARP) // REGISTER_STEP * REGISTER_STEP)


def _fit(str op, kernel, int threads, list parts, int size, limits):
    """How many groups of each part (groups, lines) a thread holds, and how many blocks then fit.

    A group is four entries of `size` bytes in each of a part's lines. Earlier parts go first.
    """
    if threads > limits.threads_per_block:
        raise ValueError(
            f"{op}: {threads} threads a block are needed; this device allows {limits.threads_per_block}"
        )
    cdef int registers = _registers(threads, limits), fewest = _NEEDS[kernel, size].fewest
    if registers < fewest:
        raise ValueError(
            f"{op}: {fewest} registers for each of {threads} threads are needed; this device has "
            f"{limits.registers_per_block} registers a block"
        )
    cdef int needs = _NEEDS[kernel, size].always, whole = 0, held_words = 0, groups, lines, n, blocks = 1
    for groups, lines in parts:
        whole += groups * lines * size
    if _words_held(registers, needs) < whole:
        needs += _NEEDS[kernel, size].memory
    cdef int free = _words_held(registers, needs)
    held = []
    for groups, lines in parts:
        n = min(groups, (free - held_words) // (lines * size))
        held_words += n * lines * size
        held.append(n)
    while (blocks + 1) * threads <= limits.threads_per_multiprocessor:
        registers = _registers((blocks + 1) * threads, limits)
        if registers < fewest or _words_held(registers, needs) < held_words:
            break
        blocks += 1
    return _Fit(tuple(held), blocks, _registers(blocks * threads, limits))


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


def _plan(kernel, storage, int D, int Do, int M, int team, int teams, int tiles, int rest, fit, int shared,
          defines):
    kind = STORAGES[storage]
    macros = [f"-D{kind.macro}"] if kind.macro else []
    values = {
        "STORAGE": kind.type, "REAL": kind.real, "D": D, "DO": Do, "M": M, "TEAM": team, "TEAMS": teams,
        "BLOCKS": fit.blocks, "REST": rest, "SEGMENT": SEGMENT, **defines,
    }
    options = (*macros, *(f"-DSRWM_{name}={value}" for name, value in values.items()))
    return Plan(kernel, options, team, teams, tiles, rest, fit.blocks, fit.registers, shared)


@lru_cache(maxsize=1024)
def forward(int D, int Do, str storage, limits) -> Plan:
    """The plan of srwm_forward: every thread owns whole columns of W."""
    op = "srwm.forward"
    _check_sizes(op, D, Do)
    cdef int size = 8 if storage == "float64" else 4
    cdef int M = Do + 2 * D + 4, columns = 1, team, teams = 1
    cdef int fewest = _NEEDS["srwm_forward", size].fewest
    if D <= 16 and M <= 4 * WARP:
        team, teams, columns = WARP, TEAMS_OF_A_WARP, _parts(M, WARP)
    else:
        team = _up_to(M, WARP)
        while team > limits.threads_per_block or _registers(team, limits) < fewest:
            columns += 1
            team = _up_to(_parts(M, columns), WARP)
    cdef int groups = _up_to(D, 4) // 4
    fit = _fit(op, "srwm_forward", team * teams, [(groups, columns)], size, limits)
    cdef int rest = (groups - <int>fit.held[0]) * columns * 4 * team
    cdef bint each_warp = D <= 64 and team <= 16 * WARP
    cdef int copies = team * teams // (WARP if each_warp else team)
    cdef int shared = size * (teams * _up_to(2 * (2 * D + 4), 4) + copies * 3 * 4 * groups + 4)
    shared += teams * 3 * VIEW_BYTES
    _check_shared(op, shared, limits)
    return _plan(
        "srwm_forward", storage, D, Do, M, team, teams, 1, rest, fit, shared,
        {"COLUMNS": columns, "HELD": fit.held[0]},
    )


def _two_roles(op, kernel, int D, int Do, int M, storage, limits, int vectors, int staged, int views, sums):
    """The plan of a backward kernel: threads with the two roles of roles.cuh.

    `vectors`, `staged`: its shared vectors over columns and over rows; `views`: of its arrays.
    """
    cdef int size = 8 if storage == "float64" else 4
    cdef int rows = _power_of_two(D)
    cdef int most = min(LARGEST_BACKWARD_TEAM, limits.threads_per_block)
    cdef int team = min(max(_power_of_two(_parts(D * M, WORDS_OF_A_THREAD)), WARP), most)
    cdef int lanes = min(max(team // rows, 1), WARP)
    team = max(rows * lanes, WARP)
    lanes = min(team // rows, WARP)
    cdef int teams = TEAMS_OF_A_WARP if team == WARP else 1
    cdef int split = 1
    while split * 2 * M <= team and split < 8:
        split *= 2
    cdef int columns = _parts(M, team // split)
    cdef int M_ = _up_to(M, 4 * lanes), D_ = _up_to(D, 4 * split)
    cdef int row_groups = M_ // (4 * lanes), column_groups = D_ // (4 * split)
    fit = _fit(
        op, kernel, team * teams, [(row_groups, 2), (column_groups, columns)], size, limits
    )
    cdef int rest = 4 * team * (
        (row_groups - <int>fit.held[0]) * 2 + (column_groups - <int>fit.held[1]) * columns
    )
    cdef int besides = teams * (size * (staged * D_ + 16 + 2 * (team // WARP)) + views * VIEW_BYTES)
    cdef bint shared_vectors = besides + size * teams * vectors * M_ <= SHARED_BYTES
    cdef int shared = besides + size * teams * (vectors * M_ if shared_vectors else 4)
    if not shared_vectors:
        rest += vectors * M_
    _check_shared(op, shared, limits)
    return _plan(
        kernel, storage, D, Do, M, team, teams, 1, rest, fit, shared,
        {
            "LANES": lanes, "SPLIT": split, "HELD_ROWS": fit.held[0], "HELD_COLUMNS": fit.held[1],
            "SHARED_VECTORS": int(shared_vectors), "GX": STORAGES[storage].real if sums
            else STORAGES[storage].type,
        },
    )


@lru_cache(maxsize=1024)
def backward(int D, int Do, str storage, limits, sums=False) -> Plan:
    """The plan of srwm_backward; `sums`: gx is summed afterwards, so it is wanted in the type of sums."""
    _check_sizes("srwm.backward", D, Do)
    cdef int M = Do + 2 * D + 4
    return _two_roles("srwm.backward", "srwm_backward", D, Do, M, storage, limits, 5, 6, 7, sums)


@lru_cache(maxsize=1024)
def delta_forward(int D, int Do, str storage, limits) -> Plan:
    """The plan of delta_forward: a warp for each tile of columns of S."""
    op = "srwm.delta_forward"
    _check_sizes(op, D, Do)
    cdef int size = 8 if storage == "float64" else 4
    cdef int columns = 2 if D <= 32 and Do > WARP else 1, groups = _up_to(D, 4) // 4
    cdef int threads = WARP * TEAMS_OF_A_WARP
    fit = _fit(op, "delta_forward", threads, [(groups, columns)], size, limits)
    cdef int rest = (groups - <int>fit.held[0]) * columns * 4 * WARP
    cdef int shared = TEAMS_OF_A_WARP * (size * 4 * 4 * groups + 6 * VIEW_BYTES)
    _check_shared(op, shared, limits)
    return _plan(
        "delta_forward", storage, D, Do, Do, WARP, TEAMS_OF_A_WARP, _parts(Do, WARP * columns), rest, fit,
        shared, {"COLUMNS": columns, "HELD": fit.held[0]},
    )


@lru_cache(maxsize=1024)
def delta_backward(int D, int Do, str storage, limits, sums=False) -> Plan:
    """The plan of delta_backward; `sums` as for `backward`."""
    _check_sizes("srwm.delta_backward", D, Do)
    return _two_roles("srwm.delta_backward", "delta_backward", D, Do, Do, storage, limits, 6, 6, 12, sums)


@lru_cache(maxsize=1024)
def sum_pieces(str storage) -> Plan:
    """The plan of sum_pieces: a thread for each entry of the sum."""
    return _plan("sum_pieces", storage, 1, 1, 1, WARP, 8, 1, 0, _Fit((), 8, 0), 0, {})
