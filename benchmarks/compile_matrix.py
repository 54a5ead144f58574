"""Every CUDA kernel, compiled for every architecture as CuPy would: registers, spills, stack, shared bytes.

    python -m benchmarks.compile_matrix           # what CI compiles; fails on a spill
    python -m benchmarks.compile_matrix --all     # every shipped specialisation
    python -m benchmarks.compile_matrix --all --write docs/kernels.md
    python -m benchmarks.compile_matrix --all --kernels sum_rule_forward --write docs/kernels.md

No GPU is needed: NVRTC compiles for any.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from srwm._cy import launch
from srwm._raw_kernels import loader

ARCHITECTURES = (70, 75, 80, 86, 89, 90, 100, 120)

# The plans that are shipped compiled and seen: heads of these sizes, Do = D, in every dtype, and of the
# halves with states in float32 too.
SIZES = (8, 16, 32, 64, 128, 256)
DTYPES = ("float16", "bfloat16", "float32", "float64")
STATE_DTYPES = {dtype: (dtype,) for dtype in DTYPES} | {
    half: (half, "float32") for half in ("float16", "bfloat16")
}
KERNELS: dict[str, Callable[..., launch.Config]] = {
    f"{operator}_{direction.__name__}": partial(direction, operator)
    for operator in launch.OPERATORS
    for direction in (launch.forward, launch.backward)
}

# A head of a width of its own, beside those.
ODD = (28, 40)

# The same of the kernels whose state is in memory: the oldest architecture that CUDA 13 has, the newest,
# and one between; states in the dtype of the arrays. Their registers hardly depend on the size.
REPLAYED_SIZES = (16, 28, 64, 128)
REPLAYED_ARCHITECTURES = (75, 90, 120)

# What CI compiles: all architectures in float32, and one for the other dtypes. Of the kernels whose state
# is in memory two architectures and sizes.
CI_SIZES = (16, 32, 64, 128)
CI_ARCHITECTURE = 90
CI_REPLAYED_SIZES, CI_REPLAYED_ARCHITECTURES = (16, 128), (75, 90)


class Case(NamedTuple):
    """One specialisation for one architecture."""

    kernel: str
    D: int
    Do: int
    dtype: str
    architecture: int
    state: str | None = None  # dtype of the states that come and go; None: that of the arrays

    def plan(self) -> launch.Config:
        """How it is compiled and launched there."""
        limits = launch.ARCHITECTURES[self.architecture]
        return KERNELS[self.kernel](self.D, self.Do, self.dtype, limits, state=self.state)


class Compiled(NamedTuple):
    """What the compiler reports of one case."""

    case: Case
    registers: int
    spilled_bytes: int
    stack_bytes: int
    shared_bytes: int
    cubin: bytes


def compiled(case: Case) -> Compiled:
    """Compile one case by NVRTC, as CuPy does."""
    from cupy.cuda import nvrtc

    plan = case.plan()
    program = nvrtc.createProgram(loader.source(plan.kernel), f"{plan.kernel}.cu", [], [])
    options = [f"--gpu-architecture=sm_{case.architecture}", *loader.options(plan), "--ptxas-options=-v"]
    try:
        nvrtc.compileProgram(program, options)
        log, cubin = (
            nvrtc.getProgramLog(program),
            nvrtc.getCUBIN(program) + b"\0",
        )  # of which CuPy cuts the end
    except nvrtc.NVRTCError as error:
        raise RuntimeError(f"{case}: {nvrtc.getProgramLog(program)}") from error
    finally:
        nvrtc.destroyProgram(program)

    def number(pattern: str) -> int:
        found = re.findall(pattern, log)
        return int(found[-1]) if found else 0

    return Compiled(
        case,
        number(r"Used (\d+) registers"),
        number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        number(r"(\d+) bytes stack frame"),
        number(r"(\d+) bytes smem"),
        cubin,
    )


def architectures() -> tuple[int, ...]:
    """Those that the installed NVRTC compiles for: CUDA 13 has dropped Volta, 70."""
    from cupy.cuda import nvrtc

    known = nvrtc.getSupportedArchs()
    return tuple(architecture for architecture in ARCHITECTURES if architecture in known)


def is_replayed(kernel: str) -> bool:
    """Whether a kernel keeps its state in memory."""
    return isinstance(launch.OPERATORS[kernel.rpartition("_")[0]], launch.Replayed)


def shipped() -> Iterator[Case]:
    """The shipped specialisations on the architectures that the compiler knows."""
    known = architectures()
    for kernel in KERNELS:
        for D in sorted((*SIZES, *ODD)):
            for dtype in DTYPES:
                for state in STATE_DTYPES[dtype]:
                    for architecture in known:
                        case = Case(kernel, D, D, dtype, architecture, state)
                        if not is_replayed(kernel) or (
                            D in REPLAYED_SIZES
                            and architecture in REPLAYED_ARCHITECTURES
                            and state == dtype
                        ):
                            yield case


def of_ci() -> Iterator[Case]:
    """Those that CI compiles."""
    for case in shipped():
        sizes: tuple[int, ...] = CI_SIZES
        if is_replayed(case.kernel):
            sizes = CI_REPLAYED_SIZES
            if case.architecture not in CI_REPLAYED_ARCHITECTURES:
                continue
        if case.D in sizes and (case.dtype == "float32" or case.architecture == CI_ARCHITECTURE):
            yield case


def each(cases: Iterable[Case], workers: int | None = None) -> Iterator[Compiled]:
    """Compile cases in parallel, in their order, behind a progress bar."""
    cases = list(cases)
    with ProcessPoolExecutor(workers) as pool:
        yield from tqdm(pool.map(compiled, cases, chunksize=4), total=len(cases), unit="kernel")


def table(results: Iterable[Compiled]) -> tuple[list[str], list[str]]:
    """Markdown: the head, and a row for each kernel, size and dtype, of all architectures."""
    rows: dict[tuple[str, int, str], list[Compiled]] = {}
    for result in results:
        case = result.case
        dtype = case.dtype if case.state in (case.dtype, None) else f"{case.dtype}, state {case.state}"
        rows.setdefault((case.kernel, case.D, dtype), []).append(result)
    head = [
        "| kernel | D = Do | dtype | threads | blocks | registers | spilled bytes | stack bytes "
        "| shared bytes | working memory of a group, KB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]

    lines = []

    def span(numbers: Iterable[int]) -> str:
        low, high = min(numbers := list(numbers)), max(numbers)
        return str(low) if low == high else f"{low} to {high}"

    for (kernel, D, dtype), results in rows.items():
        plans = [result.case.plan() for result in results]
        size = 8 if results[0].case.dtype == "float64" else 4
        lines.append(
            f"| {kernel} | {D} | {dtype} "
            f"| {span(p.threads for p in plans)} | {span(p.blocks for p in plans)} "
            f"| {span(r.registers for r in results)} | {span(r.spilled_bytes for r in results)} "
            f"| {span(r.stack_bytes for r in results)} | {span(r.shared_bytes for r in results)} "
            f"| {plans[0].working * size / 1024:.3g} |"
        )
    return head, lines


def markdown_between(path: Path, name: str, text: str) -> None:
    """Put `text` between the two markers of that name in a Markdown file."""
    page = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, after = page.partition(begin)
    path.write_text(f"{before}{begin}\n{text}\n{end}{after.partition(end)[2]}", encoding="utf-8")


def merge_rows(path: Path, name: str, head: list[str], rows: list[str], kernels: Collection[str]) -> None:
    """Put rows of these kernels into a table between two markers. Those of other kernels stay."""

    def kernel_of(row: str) -> str:
        return row.strip("| ").partition(" ")[0]

    found = path.read_text(encoding="utf-8").partition(f"<!-- {name} -->")[2].partition("<!--")[0]
    stay = [row for row in found.splitlines() if kernel_of(row) in set(KERNELS) - {*kernels}]
    merged = sorted([*rows, *stay], key=lambda row: list(KERNELS).index(kernel_of(row)))
    markdown_between(path, name, "\n".join([*head, *merged]))


def main() -> None:
    """Compile, print the table, fail on a spill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every shipped specialisation; minutes")
    parser.add_argument("--write", type=Path, help="Markdown file between whose markers the table goes")
    parser.add_argument("--kernels", nargs="*", default=list(KERNELS), help="only these; others' rows stay")
    options = parser.parse_args()
    cases = shipped() if options.all else of_ci()
    results = list(each(case for case in cases if case.kernel in options.kernels))
    head, rows = table(results)
    if options.write is None:
        print("\n".join(head + rows))
    else:
        merge_rows(options.write, "compile_matrix", head, rows, options.kernels)
    spilled = [result for result in results if result.spilled_bytes]
    for result in spilled:
        print(
            f"spills: {result.case}: {result.spilled_bytes} bytes, {result.registers} registers",
            file=sys.stderr,
        )
    known = architectures()
    for architecture in sorted(set(ARCHITECTURES) - set(known)):
        print(f"sm_{architecture} is left out: the installed NVRTC does not compile for it")
    print(f"{len(results)} compiled for {len(known)} architectures, {len(spilled)} spill")
    sys.exit(bool(spilled))


if __name__ == "__main__":
    main()
