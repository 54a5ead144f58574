"""Launch configuration of the CUDA kernels: pure integers, no device needed.

For sizes, dtype and a device's limits it says how many threads work on a sequence, what of the state
each holds in registers, what the kernel is compiled with, and how many blocks are launched. The names
of the definitions are explained where they are used: srwm/_raw_kernels/arrays.cuh, tile.cuh and the
heads of the kernels.
"""

from functools import lru_cache
from typing import NamedTuple

cdef enum:
    WARP = 32
    TEAMS_OF_A_WARP = 4  # teams of one warp to a block: a block slot is as scarce as a register
    VIEW_BYTES = 8  # in which a block remembers where a sequence begins in one array
    TURN = 4  # more such places of a backward team: tile.cuh
    PARTITIONS = 4  # of a multiprocessor: each has its warps and a share of the registers
    REGISTER_STEP = 8  # registers are given to a thread in eights
    LARGEST_D = 256
    LARGEST_DO = 1024
    WORDS_OF_A_THREAD = 28  # of the state that a backward thread should own, about, and of its gradient
    LARGEST_CACHED = 204800  # bytes of a state that a block may keep: arrays.cuh
    MOST_BACKWARD_WARPS = 16  # more would leave each thread too few registers
    REPLAYED = 4  # steps after the last saved matrix that backward does again, at the most

SEGMENT = 32  # steps from one saved matrix to the next
SHARED_BYTES = 49152  # of a block without asking for more: every architecture has them


class Limits(NamedTuple):
    """What a device allows."""

    threads_per_block: int
    shared_bytes_per_block: int  # of those that ask for more than all have
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
    bytes: int  # of an entry of the arrays


STORAGES = {
    "float16": Storage("__half", "float", "SRWM_HALF", 2),
    "bfloat16": Storage("__nv_bfloat16", "float", "SRWM_BFLOAT16", 2),
    "float32": Storage("float", "float", "", 4),
    "float64": Storage("double", "double", "", 8),
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
    shared_bytes: int  # of a block, declared in the kernel
    dynamic_bytes: int  # and those that a launch adds
    cached_bytes: int  # and those for a state with which all sequences begin, if there is room

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.team * self.teams


def segments(L) -> int:
    """Segments of L steps whose last matrix is saved: all but a last one of at most REPLAYED steps."""
    return (L + SEGMENT - 1 - REPLAYED) // SEGMENT


def grid(plan, items, multiprocessors) -> int:
    """Blocks for `items` pieces of work: all that are at hand, but no more than run at a time."""
    wanted = -(-items // plan.teams)
    return max(1, min(wanted, multiprocessors * plan.blocks))


class _Needs(NamedTuple):
    """What the compiler needs of a kernel's registers before any can hold the state.

    Found by the compile matrix, which fails where the compiler disagrees: it would spill.
    """

    fewest: int  # registers of a thread
    share: int  # hundredths of its registers that can hold the state; others hold what is on its way
    always: int  # and besides, in hundredths of a register, not these
    memory: int  # nor so many more for each entry of a group where a part of the state is in memory


# By kernel and bytes of the type of the sums.
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


cdef int _words_held(int registers, needs, int of_group):
    """Registers of a thread, of so many, that can hold its part of the state; below 0: more are needed.

    `of_group`: those of a group that is in memory, 0 where none is.
    """
    return (<int>needs.share * registers - <int>needs.always - <int>needs.memory * of_group) // 100


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
    free: int  # registers left, below 0 where the compiler will want more


cdef int _registers(int threads, limits):
    """Registers that each of so many threads of a multiprocessor can have, each warp in one partition."""
    cdef int warps = _parts(_parts(threads, WARP), PARTITIONS)
    cdef int file = limits.registers_per_block
    return min(255, file // PARTITIONS // (warps * WARP) // REGISTER_STEP * REGISTER_STEP)


def _fit(str op, kernel, int threads, list parts, int size, limits):
    """How many groups of each part (groups, lines, absent) a thread holds, and how many blocks then fit.

    A group is four entries of `size` bytes in each of a part's lines; in the last one so many are absent,
    and it is the first to be held. Earlier parts go first.
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
    cdef int whole = 0, held_words = 0, of_group = 0, groups, lines, absent, n, blocks = 1
    cdef int of_line = size // 4
    for groups, lines, absent in parts:
        whole += (4 * groups - absent) * lines * of_line
        of_group = max(of_group, 4 * lines * of_line)
    if _words_held(registers, needs, 0) >= whole:
        of_group = 0
    cdef int free = _words_held(registers, needs, of_group)
    held = []
    for groups, lines, absent in parts:
        n = min(groups, (max(0, free - held_words) // (lines * of_line) + absent) // 4)
        if n > 0:
            held_words += (4 * n - absent) * lines * of_line
        held.append(n)
    while (blocks + 1) * threads <= limits.threads_per_multiprocessor:
        registers = _registers((blocks + 1) * threads, limits)
        if registers < fewest or _words_held(registers, needs, of_group) < held_words:
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


def _plan(kernel, storage, state, int D, int Do, int M, int team, int teams, int tiles, int rest, fit, int shared,
          int dynamic, limits, defines):
    kind = STORAGES[storage]
    macros = [f"-D{kind.macro}"] if kind.macro else []
    values = {
        "STORAGE": kind.type, "STATE": STORAGES[state].type, "REAL": kind.real, "D": D, "DO": Do, "M": M, "TEAM": team, "TEAMS": teams,
        "BLOCKS": fit.blocks, "REST": rest, "SEGMENT": SEGMENT, **defines,
    }
    options = (*macros, *(f"-DSRWM_{name}={value}" for name, value in values.items()))
    cdef int cached = _up_to(D * M * kind.bytes, 16)
    if (
        limits is None
        or cached > LARGEST_CACHED
        or fit.blocks * (shared + dynamic + cached) > limits.shared_bytes_per_block
    ):
        cached = 0
    return Plan(
        kernel, options, team, teams, tiles, rest, fit.blocks, fit.registers, shared, dynamic, cached
    )


cdef int _near(int groups, int held, long group_bytes, long room):
    """Groups not in registers for which there is room in shared memory; few are not worth a loop."""
    cdef int near = min(groups - held, max(0, room) // group_bytes)
    return near if near == groups - held or 8 * near >= groups else 0


def _resident(fit, int threads, int shared, limits):
    """The same fit with no more blocks than shared memory is enough for."""
    cdef int blocks = max(1, min(<int>fit.blocks, <int>limits.shared_bytes_per_block // shared))
    return fit._replace(blocks=blocks, registers=_registers(blocks * threads, limits))


def _columns_of_a_team(str op, int D, int Do, int M, str storage, limits, int views, state):
    """The plan of srwm_forward: every thread owns whole columns of W."""
    cdef int size = 8 if storage == "float64" else 4
    cdef int groups = _parts(D, 4), teams = 1
    cdef int columns, team, held, other_team
    if D <= 16 and M <= 4 * WARP:
        team, teams, columns = WARP, TEAMS_OF_A_WARP, _parts(M, WARP)
        fit = _fit(op, "srwm_forward", team * teams, [(groups, columns, 0)], size, limits)
    else:
        # The number of columns that leaves the least of W in memory and then gives a partition the least to
        # do: a warp's work for its columns, and about that of one more for what every warp does.
        best = None
        for other in range(1, 9):
            other_team = _up_to(_parts(M, other), WARP)
            if other_team > limits.threads_per_block:
                continue
            if _registers(other_team, limits) < _NEEDS["srwm_forward", size].fewest:
                continue
            other_fit = _fit(op, "srwm_forward", other_team, [(groups, other, 0)], size, limits)
            cost = (
                other_fit.free < 0,
                (groups - <int>other_fit.held[0]) * 4 * other * other_team,
                _parts(other_team // WARP, PARTITIONS) * (other + 1),
            )
            if best is None or cost < best:
                best, fit, columns, team = cost, other_fit, other, other_team
    held = fit.held[0]
    cdef bint each_warp = D <= 64 and team <= 16 * WARP
    cdef int copies = team * teams // (WARP if each_warp else team)
    cdef int shared = size * (teams * 2 * (8 * groups + 4) + copies * 3 * 4 * groups + 4)
    shared += teams * views * VIEW_BYTES
    _check_shared(op, shared, limits)
    cdef int group = 4 * columns * team, near
    near = _near(groups, held, teams * size * group, limits.shared_bytes_per_block - shared)
    cdef int dynamic = teams * size * near * group
    return _plan(
        "srwm_forward", storage, state, D, Do, M, team, teams, 1, (groups - held - near) * group,
        _resident(fit, team * teams, shared + dynamic, limits), shared, dynamic,
        limits, {"COLUMNS": columns, "HELD": held, "NEAR": near},
    )


class _Tile(NamedTuple):
    """How the threads of a team share a state of D rows and M columns in a backward pass."""

    row_lanes: int
    rows: int  # of a thread, and likewise
    columns: int
    groups: int  # of four columns
    warps: int  # of a team


def _tile(int D, int M, int warps):
    """The tile of each thread of so many warps, of which those that would have no columns are left out."""
    cdef int row_lanes = min(max(_power_of_two(_parts(D, 4)), 4), WARP)
    cdef int lanes = WARP // row_lanes, columns = _parts(M, warps * lanes)
    return _Tile(row_lanes, _parts(D, row_lanes), columns, _parts(columns, 4), _parts(M, columns * lanes))


def _tiles(str op, kernel, int D, int Do, int M, storage, limits, int shares, int staged, int views, sums, state):
    """The plan of a backward kernel, whose threads own tiles of the state and of its gradient: tile.cuh.

    For each team the kernel has `shares` vectors over rows from each warp, `staged` from memory, and
    `views` places that it remembers.
    """
    cdef int size = 8 if storage == "float64" else 4
    cdef int natural = max(1, _parts(D * M, WORDS_OF_A_THREAD * WARP)), least = -1, words, teams
    natural = min(natural, MOST_BACKWARD_WARPS, limits.threads_per_block // WARP)
    # Of the numbers of warps that leave about the least in memory the largest.
    for warps in (natural, 8, 4):
        other = _tile(D, M, min(warps, natural))
        teams = TEAMS_OF_A_WARP if other.warps == 1 else 1
        part = other.groups, other.rows, 4 * other.groups - other.columns
        other_fit = _fit(op, kernel, other.warps * WARP * teams, [part, part], size, limits)
        words = (2 * other.groups - sum(other_fit.held)) * 4 * other.rows * other.warps * WARP
        if least < 0 or 10 * words < 9 * least or fit.free < 0 <= other_fit.free:
            least, tile, fit = words, other, other_fit
    teams = TEAMS_OF_A_WARP if tile.warps == 1 else 1
    cdef int team = tile.warps * WARP
    cdef int rows = tile.row_lanes * _up_to(tile.rows, 4)
    cdef int columns = team // tile.row_lanes * 4 * (tile.groups + 1 - tile.groups % 2)
    cdef int exchanged = 3 * columns + (shares * tile.warps * rows if tile.warps > 1 else 0)
    cdef int shared = teams * (size * (staged * rows + 8 + 6 * tile.warps) + views * VIEW_BYTES)
    _check_shared(op, shared, limits)
    # What is exchanged, and what is not in registers, is in shared memory where there is room; G before W,
    # since it is read more often.
    cdef int held_G = fit.held[0], held_W = fit.held[1], near_G, near_W
    cdef int of_group = teams * size * 4 * tile.rows * team
    cdef int room = limits.shared_bytes_per_block - shared, dynamic = 0, rest
    cdef bint shared_sums = teams * size * exchanged <= room
    if shared_sums:
        dynamic = teams * size * exchanged
    near_G = _near(tile.groups, held_G, of_group, room - dynamic)
    dynamic += of_group * near_G
    near_W = _near(tile.groups, held_W, of_group, room - dynamic)
    dynamic += of_group * near_W
    rest = 4 * tile.rows * team * (2 * tile.groups - held_G - held_W - near_G - near_W)
    rest += exchanged * (not shared_sums)
    fit = _resident(fit, team * teams, shared + dynamic, limits)
    return _plan(
        kernel, storage, state, D, Do, M, team, teams, 1, rest, fit, shared, dynamic,
        limits, {
            "ROW_LANES": tile.row_lanes, "COLUMNS": tile.columns, "HELD_W": held_W, "HELD_G": held_G,
            "NEAR_W": near_W, "NEAR_G": near_G, "SHARED_SUMS": int(shared_sums),
            "GX": STORAGES[storage].real if sums else STORAGES[storage].type,
            "GSTATE": STORAGES[storage].real if sums else STORAGES[state].type,
        },
    )


def _columns_of_warps(str op, int D, int Do, int M, str storage, limits, int views, state):
    """The plan of delta_forward: a warp for each tile of columns of S."""
    cdef int size = 8 if storage == "float64" else 4
    cdef int columns = 2 if D <= 32 and Do > WARP else 1, groups = _parts(D, 4)
    cdef int threads = WARP * TEAMS_OF_A_WARP
    fit = _fit(op, "delta_forward", threads, [(groups, columns, 0)], size, limits)
    cdef int shared = TEAMS_OF_A_WARP * (size * 4 * 4 * groups + views * VIEW_BYTES)
    _check_shared(op, shared, limits)
    cdef int group = 4 * columns * WARP, held = fit.held[0], near, dynamic
    near = _near(groups, held, TEAMS_OF_A_WARP * size * group, limits.shared_bytes_per_block - shared)
    dynamic = TEAMS_OF_A_WARP * size * near * group
    return _plan(
        "delta_forward", storage, state, D, Do, M, WARP, TEAMS_OF_A_WARP, _parts(Do, WARP * columns),
        (groups - held - near) * group, _resident(fit, threads, shared + dynamic, limits), shared, dynamic,
        limits, {"COLUMNS": columns, "HELD": held, "NEAR": near},
    )


class Kernels(NamedTuple):
    """What the kernels of an operator need of a launch."""

    columns: object  # of its matrix: a function of D and Do
    saved: object  # entries of a step that forward saves for backward: likewise
    forward: object  # the plan of its forward kernel: by the way in which threads share the columns
    forward_views: int  # arrays in which a team remembers where a sequence begins
    backward_views: int  # the same of the backward kernel
    shares: int  # vectors over rows from each warp of a backward team
    staged: int  # vectors over rows that a backward team reads from memory, two of each


# By name of the operator.
OPERATORS = {
    "srwm": Kernels(
        lambda D, Do: Do + 2 * D + 4, lambda D, Do: 2 * (2 * D + 4) + Do, _columns_of_a_team, 4, 10, 3, 6
    ),
    "delta": Kernels(lambda D, Do: Do, lambda D, Do: Do, _columns_of_warps, 7, 16, 4, 4),
}
cdef _label(operator):
    """The operator as messages name it."""
    return "srwm" if operator == "srwm" else f"srwm.{operator}"


def saved_entries(str operator, L, D, Do) -> int:
    """Entries that forward saves of a sequence for backward: of each step, then a matrix for each segment."""
    kind = OPERATORS[operator]
    return L * kind.saved(D, Do) + segments(L) * D * kind.columns(D, Do)


@lru_cache(maxsize=1024)
def forward(str operator, int D, int Do, str storage, limits, state=None) -> Plan:
    """The plan of an operator's forward kernel.

    `state`: the dtype of the states that come and go, float32 perhaps where `storage` is a half.
    """
    op, kind = f"{_label(operator)}.forward", OPERATORS[operator]
    _check_sizes(op, D, Do)
    return kind.forward(op, D, Do, kind.columns(D, Do), storage, limits, kind.forward_views, state or storage)


@lru_cache(maxsize=1024)
def backward(str operator, int D, int Do, str storage, limits, sums=False, state=None) -> Plan:
    """The plan of an operator's backward kernel; `state` as for `forward`.

    `sums`: a gradient of each sequence is summed afterwards, so all of them are wanted in the type of sums.
    """
    op, kind = f"{_label(operator)}.backward", OPERATORS[operator]
    _check_sizes(op, D, Do)
    return _tiles(
        op, f"{operator}_backward", D, Do, kind.columns(D, Do), storage, limits, kind.shares, kind.staged,
        kind.backward_views + TURN, sums, state or storage,
    )


@lru_cache(maxsize=1024)
def sum_pieces(str storage) -> Plan:
    """The plan of sum_pieces: a thread for each entry of the sum."""
    return _plan("sum_pieces", storage, storage, 1, 1, 1, WARP, 8, 1, 0, _Fit((), 8, 0, 0), 0, 0, None, {})
