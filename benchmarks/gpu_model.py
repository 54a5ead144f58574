"""What a time step of the CUDA kernels costs, from their compiled instructions: counts and model cycles.

    python -m benchmarks.gpu_model
    python -m benchmarks.gpu_model --write docs/kernels.md

It is a model and no measurement. NVRTC compiles a kernel, nvdisasm lists it, and the instructions of its
loop over time (no reset, no end of a segment) go through a pipeline of this kind, all warps of one block:
each partition of a multiprocessor starts one instruction a cycle, in order, when its operands are there,
after the latencies below; the memory pipe serves one access to shared vectors a cycle for all partitions,
and 128 bytes of the state that is not in registers (64 where neither shared memory nor the L1 cache is
large enough for it); a barrier opens when all warps have come. It knows nothing of bank conflicts, clock
rates, or other blocks, and branches it takes as they usually go. `make gpu-check` on a device falsifies it:
where the ranking of two kernels by measured time contradicts this table, or a step takes more than twice
the cycles given here.

The kernels that keep their state in memory have loops of other lengths in each warp. Each warp's way is
followed through the whole kernel, from its first instruction (`benchmarks/gpu_trace.py`): calls of 8 and of
16 steps, which differ by a segment of 8. A step is an eighth of the difference, the recomputation of
backward and the states that are saved included. Here the memory pipe serves 128 bytes of one line a cycle,
a line of global memory is in the L1 cache once the block has come to it (working memory only if all of it
fits there), and bank conflicts count.
"""

from __future__ import annotations

import argparse
import re
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import gpu_trace
from benchmarks.compile_matrix import KERNELS, Case, is_replayed, merge_rows
from srwm._raw_kernels import loader
from srwm.operators.spec import REPLAYED_SEGMENT
from srwm.operators.table import OPERATORS

# Cycles until a result can be used (H100: published microbenchmarks; global memory as an L2 hit, since
# every step's operands are fetched a step before).
LATENCY = {
    "LDS": 30,
    "SHFL": 25,
    "MUFU": 20,
    "LDG": 260,
    "LD": 35,  # of working memory that stays in the L1 cache
    "LDC": 30,
    "ULDC": 30,
    "S2R": 30,
    "STS": 1,
    "BAR": 20,
    "WARPSYNC": 5,
}
ARITHMETIC = 4
L1_BYTES = 256 * 1024  # of a multiprocessor, shared memory included
ARCHITECTURE = 90
SIZES = (16, 32, 64, 128)
STEPS = 4  # simulated; the last one is counted, so that what is fetched a step ahead is seen

# Cycles a step by performance counts on paper, ours to stay within 1.5 times of: (D, pass) -> range.
PAPER = {
    (16, "srwm_forward"): (270, 350),
    (32, "srwm_forward"): (450, 500),
    (64, "srwm_forward"): (750, 850),
    (128, "srwm_forward"): (1500, 2000),
    (16, "srwm_backward"): (550, 650),
    (32, "srwm_backward"): (650, 800),
    (64, "srwm_backward"): (1000, 1300),
    (128, "srwm_backward"): (3500, 4500),
}

# A statement of the time loop that few steps come to.
_RARE = re.compile(r"ends_segment &&|resets\(\)\.before|(if|while) \((restores|replays)\)")


class Instruction(NamedTuple):
    """One line of the listing."""

    opcode: str
    writes: tuple[str, ...]
    reads: tuple[str, ...]
    target: str  # of a branch
    predicated: bool
    label: str  # that stands before it
    frames: tuple[tuple[str, int], ...]  # files and lines, innermost first: what is inlined into what
    line: int  # of the kernel's own file
    guard: str  # the predicate under which it runs; "" without one
    operands: tuple[str, ...]


def listing(case: Case) -> str:
    """The disassembly of a case with its lines."""
    import nvidia
    from cupy.cuda import nvrtc

    plan = case.plan()
    program = nvrtc.createProgram(loader.source(plan.kernel), f"{plan.kernel}.cu", [], [])
    options = [f"--gpu-architecture=sm_{case.architecture}", *loader.options(plan), "-lineinfo"]
    nvrtc.compileProgram(program, options)
    found = [Path(folder) / "cu13" / "bin" / "nvdisasm" for folder in nvidia.__path__]
    nvdisasm = next(path for path in found if path.exists())
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(nvrtc.getCUBIN(program) + b"\0")  # CuPy cuts the last byte
        cubin.flush()
        return subprocess.run(
            [str(nvdisasm), "-c", "-gi", cubin.name], capture_output=True, text=True, check=True
        ).stdout


def registers(operand: str, width: int = 1) -> list[str]:
    """The registers and predicates that an operand names."""
    names = []
    for kind, number in re.findall(r"\b(U?[RP])(\d+)\b", operand):
        names += [f"{kind}{int(number) + i}" for i in range(width if kind == "R" else 1)]
    return names


def outputs(base: str, operands: list[str]) -> int:
    """How many of the first operands an instruction writes: carries, too."""
    base = base.removeprefix("U")
    if base in ("ISETP", "FSETP", "DSETP", "PLOP3", "SHFL") or (
        base == "LOP3" and gpu_trace.is_predicate(operands[0])
    ):
        return 2
    if base in ("IADD3", "LEA", "IMAD"):
        return 1 + len(list(takewhile(gpu_trace.is_predicate, operands[1:])))
    return int(operands[0] != "")


def parsed(text: str, kernel: str) -> list[Instruction]:
    """The instructions of a listing."""
    instructions, label, line = [], "", 0
    frames: list[tuple[str, int]] = []
    fresh = True
    for row in text.splitlines():
        places = re.findall(r'"(?:.*/)?([\w.]+)", line (\d+)', row) if "//## File" in row else []
        if places:
            frames = [] if fresh else frames
            frames += [(file, int(number)) for file, number in places]
            fresh = False
            line = next((number for file, number in reversed(frames) if file == f"{kernel}.cu"), line)
            continue
        fresh = True
        if row.startswith(".L"):
            label = row.strip().rstrip(":")
            continue
        code = re.match(r"\s*/\*[0-9a-f]+\*/\s+(@!?U?P\w+)?\s*([A-Z][\w.]*)\s*(.*?);", row)
        if code is None:
            continue
        guard, opcode, rest = code[1] or "", code[2], code[3]
        operands = [o.strip() for o in rest.split(",")]
        wide = 4 if ".128" in opcode else 2 if ".64" in opcode or opcode.startswith("IMAD.WIDE") else 1
        base = opcode.split(".")[0]
        stores = base in (
            "STS",
            "STG",
            "ST",
            "STL",
            "BRA",
            "BAR",
            "EXIT",
            "CALL",
            "RET",
            "WARPSYNC",
            "BSYNC",
        )
        count = 0 if stores else outputs(base, operands)
        writes = [r for o in operands[:count] for r in registers(o, wide)]
        reads = [r for o in operands[count:] for r in registers(o, wide if stores else 1)]
        reads += registers(guard)
        if "PR" in operands:  # several predicates at once, by a mask
            named = [f"P{k}" for k in range(7) if int(operands[-1], 0) >> k & 1]
            writes, reads = (writes, reads + named) if base == "P2R" else (writes + named, reads)
        target = re.search(r"`\((\.L\w+)\)", rest)
        instructions.append(
            Instruction(
                opcode,
                tuple(writes),
                tuple(reads),
                target[1] if target else "",
                bool(guard),
                label,
                tuple(frames),
                line,
                guard.removeprefix("@"),
                tuple(operands),
            )
        )
        label = ""
    return instructions


@cache
def _text(name: str) -> list[str]:
    """The lines of a file of CUDA text."""
    return (loader.FOLDER / name).read_text(encoding="utf-8").splitlines()


@cache
def _lines_of_working_memory() -> set[int]:
    """Lines of group.cuh that read and write what a thread owns and has not in registers."""
    lines = _text("group.cuh")
    begin = [n for n, text in enumerate(lines, 1) if re.search(r"void (fetch|store)\(", text)]
    return set().union(*(block_of(lines, n) for n in begin))


def block_of(lines: list[str], number: int) -> set[int]:
    """Lines of the statement that begins on line `number`."""
    depth, at = 0, number
    while True:
        depth += lines[at - 1].count("{") - lines[at - 1].count("}")
        if depth <= 0 and lines[at - 1].rstrip().endswith((";", "}")):
            return set(range(number, at + 1))
        at += 1


def lines_of(kernel: str) -> tuple[set[int], set[int]]:
    """Lines of the loop over time in a kernel's file, and those among them that few steps come to."""
    lines = _text(f"{kernel}.cu")
    begin = next(n for n, text in enumerate(lines, 1) if re.search(r"for \(long long t = .*t", text))
    loop = block_of(lines, begin)
    rare = [block_of(lines, n) for n in loop if _RARE.search(lines[n - 1])]
    return loop, set().union(*rare)


def time_loop(instructions: list[Instruction], loop: set[int], rare: set[int]) -> tuple[int, int]:
    """First and last instruction of the loop over time: the smallest with many of its FMAs."""
    at = {i.label: n for n, i in enumerate(instructions) if i.label}
    theirs = [
        n for n, i in enumerate(instructions) if i.opcode.startswith("FFMA") and i.line in loop - rare
    ]
    loops = [
        (at[i.target], n)
        for n, i in enumerate(instructions)
        # Jumps back that are always taken come from where lanes that have parted meet again.
        if i.opcode == "BRA"
        and i.predicated
        and i.target in at
        and at[i.target] <= n
        and i.line not in rare
    ]
    # The compiler makes several of it, for what is not wanted (nothing saved, no reset): the one that
    # stores most is that of training.
    large = [
        (first, last) for first, last in loops if 3 * sum(first <= n <= last for n in theirs) >= len(theirs)
    ]
    inner = [a for a in large if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in large)]
    return max(inner, key=lambda ends: sum(i.opcode.startswith("ST") for i in instructions[slice(*ends)]))


def _tiers(quads: int, near: int, held: int) -> list[str]:
    """Where each quad of a matrix is, as group.cuh has them."""
    return ["far"] * (quads - near - held) + ["near"] * near + ["held"] * held


def trips(case: Case, body: list[Instruction]) -> int:
    """Turns of a loop inside a step, by what one turn fetches of the quads that are not in registers."""
    options = dict(o[7:].split("=") for o in case.plan().options if "=" in o)
    of = {name: int(value) for name, value in options.items() if value.isdecimal()}
    if any(re.search(r"int item\b", _text(f"{case.kernel}.cu")[i.line - 1]) for i in body[-1:]):
        return -(-3 * case.D // of["GROUP"])  # the entries that are summed over the warps
    # Quads in a row that are in the same places, each a loop: (places, quads).
    if "HELD" in of:
        tiers: list[tuple[str, ...]] = [(tier,) for tier in _tiers(-(-case.D // 4), of["NEAR"], of["HELD"])]
        lines = of["COLUMNS"]
    else:
        quads, lines = -(-of["COLUMNS"] // 4), -(-case.D // of["ROW_LANES"])
        of_G = _tiers(quads, of["NEAR_G"], of["HELD_G"])
        tiers = list(zip(_tiers(quads, of["NEAR_W"], of["HELD_W"]), of_G, strict=True))
        tiers += [(tier,) for tier in of_G]  # and those that need G alone
    far = sum(i.opcode.startswith("LDG") and ".128" in i.opcode for i in body)
    fmas = sum(i.opcode.startswith(("FFMA", "DFMA")) for i in body)
    for places, count in Counter(tiers).items():
        # Lines are fetched 16 bytes at a time; a sweep of both matrices has more to do than one of G alone.
        if far == places.count("far") * lines and (
            (len(places) == 2) == (fmas > lines * 4) or "HELD" in of
        ):
            return count
    raise RuntimeError(
        f"{case}: a loop of unknown length, {far} loads and {fmas} FMAs, at {body[-1].frames}"
    )


def of_one_step(case: Case, instructions: list[Instruction]) -> list[tuple[Instruction, bool]]:
    """The instructions of an ordinary step in the order in which they run; and which are in inner loops."""
    loop, rare = lines_of(case.kernel)
    first, last = time_loop(instructions, loop, rare)
    at = {i.label: n for n, i in enumerate(instructions) if i.label}
    turns: Counter[int] = Counter()
    path: list[tuple[Instruction, bool]] = []
    n, inside = first, 0
    while n <= last and len(path) < 200_000:
        instruction = instructions[n]
        if instruction.opcode.startswith("BRA") and instruction.target in at and n != last:
            target = at[instruction.target]
            path.append((instruction, inside > 0))
            if target == first and sum(i.line in rare for i in instructions[n + 1 : last]) > 0.8 * (
                last - n - 1
            ):
                break  # the step ends here, but for what few steps come to
            if "DIV" in instruction.opcode or (target <= n and instruction.line in rare):
                n += 1
            elif target <= n:
                turns[n] += 1
                inside = 1
                if turns[n] < trips(case, instructions[target : n + 1]):
                    n = target
                else:
                    turns[n], inside = 0, 0
                    n += 1
            elif not instruction.predicated:
                n = target
            else:
                skipped = instructions[n + 1 : target]
                few_come = sum(i.line in rare for i in skipped) > 0.8 * len(skipped)
                avoided = few_come or any(i.opcode.startswith("CALL") for i in skipped)
                n = target if avoided else n + 1
            continue
        if instruction.line not in rare:
            path.append((instruction, inside > 0))
        n += 1
    return path


class Cost(NamedTuple):
    """Of one step: of a warp, but for cycles and barriers."""

    counts: Mapping[str, float]
    cycles: float


def simulated(case: Case) -> Cost:
    """Counts and cycles of one step of one block."""
    plan = case.plan()
    path = of_one_step(case, parsed(listing(case), case.kernel))
    size = 8 if case.dtype == "float64" else 4
    cached = plan.groups * plan.working * size + plan.shared_bytes + plan.dynamic_bytes <= L1_BYTES
    warps = plan.threads // 32
    partitions = min(4, warps)
    of_partition = [range(p, warps, 4) for p in range(partitions)]
    ready: list[dict[str, int]] = [{} for _ in range(warps)]
    clock = [0] * warps
    pipe, ends = 0, []
    for _ in range(STEPS):
        position = [0] * warps
        while any(p < len(path) for p in position):
            # each warp runs on to its next barrier; partitions share nothing but shared memory
            arrivals = []
            for members in of_partition:
                issue = 0
                running = [w for w in members if position[w] < len(path)]
                while running:
                    w = min(
                        running, key=lambda v: _earliest(path[position[v]][0], ready[v], clock[v], issue)
                    )
                    instruction, _ = path[position[w]]
                    start = _earliest(instruction, ready[w], clock[w], issue)
                    base = instruction.opcode.split(".")[0]
                    if base in ("LDS", "STS") or of_working_memory(instruction):
                        start = max(start, pipe)
                        pipe = start + transfers(instruction, cached)
                    done = start + latency(instruction, cached)
                    for register in instruction.writes:
                        ready[w][register] = done
                    clock[w], issue = start + 1, start + 1
                    position[w] += 1
                    if base == "BAR" or position[w] == len(path):
                        running.remove(w)
                arrivals += [clock[w] for w in members]
                pipe = min(pipe, min(clock))
            if path[min(position[0], len(path)) - 1][0].opcode.startswith("BAR"):
                clock = [max(arrivals) + LATENCY["BAR"]] * warps
                pipe = max(arrivals)
        ends.append(max(clock))
    counts = Counter(instruction.opcode.split(".")[0] for instruction, _ in path)
    return Cost(counts, ends[-1] - ends[-2])


def constants(case: Case, steps: int) -> tuple[bytes, list[str]]:
    """The constants of a call of one block, a sequence for each thread group; the names of its arrays."""
    groups, text = case.plan().groups, "\n".join(_text(f"{case.kernel}.cu"))
    declared = re.search(rf"\b{case.kernel}\(([^)]*)\) \{{", text)
    views = re.search(r"enum \{ (.*), VIEWS \}", text)
    assert declared is not None
    assert views is not None
    *arrays, _ = [re.findall(r"\w+", parameter)[-1] for parameter in declared[1].split(",")]
    segments = -(-steps // REPLAYED_SEGMENT)
    sizes = [groups] if case.kernel.endswith("_forward") else [groups, 1, 1, 1]
    sizes += [steps, segments, 0, 1, groups, *[1] * 7]
    for _ in views[1].split(", "):  # arrays of sequences far from each other
        sizes += [1 << 20, *[0] * 7, case.D, 1]
    settings = [*OPERATORS[case.kernel.rpartition("_")[0]].numbers, *[0.0] * 6][:6]
    arguments = struct.pack(f"{len(sizes)}q6d", *sizes, *settings)
    given = [not re.fullmatch(r"reset|mask|g?state.*", name) for name in arrays]
    return gpu_trace.constants_of(given, arguments), arrays


def followed(case: Case) -> Cost:
    """Counts and cycles of a step of one block, on average over a segment. RuntimeError: it has none."""
    plan, instructions = case.plan(), parsed(listing(case), case.kernel)
    size = 8 if case.dtype == "float64" else 4
    cached = plan.groups * plan.working * size + plan.shared_bytes + plan.dynamic_bytes <= L1_BYTES
    warps = plan.threads // 32
    cycles, counts, lengths = [], [], []
    for steps in (REPLAYED_SEGMENT, 2 * REPLAYED_SEGMENT):
        bank, arrays = constants(case, steps)
        memory = gpu_trace.Memory(bank, None if cached else arrays.index("working") + 1)
        # Groups of one warp all go the same way.
        different = 1 if plan.groups > 1 else warps
        paths = [gpu_trace.Warp(instructions, warp, memory).run() for warp in range(different)]
        paths *= warps // different
        cycles.append(gpu_trace.cycles_of(instructions, paths, LATENCY, ARITHMETIC))
        counts.append(gpu_trace.counted(instructions, paths[0]))
        lengths.append([len(path) for path in paths])
    for warp, (short, long) in enumerate(zip(*lengths, strict=True)):
        if long <= short:
            raise RuntimeError(
                f"{case}: twice as many steps take warp {warp} {long} instructions, no more than the "
                f"{short} of one segment; gpu_trace.py leads it past the loop over time"
            )
    of_a_step = {opcode: (counts[1][opcode] - counts[0][opcode]) / REPLAYED_SEGMENT for opcode in counts[1]}
    return Cost(of_a_step, (cycles[1] - cycles[0]) / REPLAYED_SEGMENT)


def of_working_memory(instruction: Instruction) -> bool:
    """Whether it reads or writes a part of the state that is not in registers."""
    return instruction.opcode.split(".")[0] in ("LDS", "STS", "LD", "ST", "LDG", "STG") and any(
        file == "group.cuh" and line in _lines_of_working_memory() for file, line in instruction.frames
    )


def transfers(instruction: Instruction, cached: bool) -> int:
    """Cycles for which it has the memory pipe; a vector's entries come to all lanes at once."""
    if not of_working_memory(instruction):
        return 1
    bytes_of_warp = 32 * (16 if ".128" in instruction.opcode else 8 if ".64" in instruction.opcode else 4)
    return bytes_of_warp // (128 if cached or instruction.opcode.startswith(("LDS", "STS")) else 64)


def latency(instruction: Instruction, cached: bool) -> int:
    """Cycles until its result can be used; `cached`: the working memory fits the L1 cache."""
    base = instruction.opcode.split(".")[0]
    if base in ("LD", "LDG") and cached and of_working_memory(instruction):
        return LATENCY["LD"]
    return LATENCY.get(base, ARITHMETIC)


def _earliest(instruction: Instruction, ready: dict[str, int], clock: int, issue: int) -> int:
    """The first cycle at which an instruction can start."""
    return max([clock, issue, *(ready.get(r, 0) for r in instruction.reads)])


def published(D: int, pass_: str) -> tuple[int, int, tuple[int, int]]:
    """Barriers, shared float atomics and cycles a step of the published kernels, by the same latencies.

    Their structure: every product term is an atomic addition to shared memory, which is a loop of
    compare-and-swap on every architecture; a chain on one address is D of them long, one after another.
    """
    swap = LATENCY["LDS"] + LATENCY["LDS"]  # read, compare and swap
    barriers, atomics, chains = (
        (10, 9 * D * D + 14 * D, 6) if pass_ == "srwm_forward" else (31, 18 * D * D + 26 * D, 9)
    )
    alone = D * D if pass_ == "srwm_backward" else 0  # three times so many on a single address
    low = barriers * 60 + (chains * D + 3 * alone) * swap
    return barriers, atomics, (low, low * 2)


def row_of(pass_: str, D: int) -> list[Any]:
    """A row of the table."""
    case = Case(pass_, D, D, "float32", ARCHITECTURE)
    cost = followed(case) if is_replayed(pass_) else simulated(case)
    c = Counter(cost.counts)
    atomics = c["ATOMS"] + c["ATOM"] + c["ATOMG"] + c["RED"]
    memory = c["LD"] + c["ST"] + c["LDG"] + c["STG"]
    paper = PAPER.get((D, pass_))
    numbers: list[float] = [
        c["BAR"],
        c["WARPSYNC"],
        c["SHFL"],
        atomics,
        c["LDS"] + c["STS"],
        memory,
        c["FFMA"],
    ]
    numbers += [sum(c.values()), cost.cycles]
    row = [pass_, D, case.plan().threads, *(round(number) for number in numbers)]
    if paper is None:
        return [*row, "", "", "", ""]
    barriers, theirs, (low, high) = published(D, pass_)
    return [*row, f"{paper[0]} to {paper[1]}", barriers, theirs, f"{low:,} to {high:,}"]


def rows(kernels: list[str]) -> Iterator[list[Any]]:
    """The rows of these kernels."""
    cases = [(pass_, D) for pass_ in KERNELS if pass_ in kernels for D in SIZES]
    with ProcessPoolExecutor() as pool:
        yield from pool.map(row_of, *zip(*cases, strict=True))


HEAD = [
    *("kernel", "D = Do", "threads", "barriers", "warp syncs", "shuffles", "atomics", "shared accesses"),
    *("global accesses", "FMAs", "instructions", "cycles", "cycles on paper"),
    *("published: barriers", "published: atomics", "published: cycles"),
]


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", type=Path, help="Markdown file between whose markers the table goes")
    parser.add_argument("--kernels", nargs="*", default=list(KERNELS), help="only these; others' rows stay")
    options = parser.parse_args()
    head = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows(options.kernels)]
    print("\n".join(head + lines))
    if options.write is not None:
        merge_rows(options.write, "gpu_model", head, lines, options.kernels)


if __name__ == "__main__":
    main()
