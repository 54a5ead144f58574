"""All measurements of a run, in their order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Literal

from benchmarks.cases import Size
from benchmarks.peers import table
from benchmarks.settings import Settings

Mode = Literal["forward", "training", "parts", "memory"]
"""Forward alone, forward + backward, srwm's halves timed apart, peak memory of forward + backward."""

SWEPT = (
    "srwm, NumPy",
    "srwm, torch",
    "PyTorch loop",
    "JAX scan",
    "JAX scan, remat of segments",
    "numba by hand",
    "NumPy loop",
)
"""The peers of the sweeps: the best of each kind."""
QUICK = tuple(name for name in table.ALL if name not in ("JAX scan, unrolled", "JAX scan, remat"))
QUICK_SWEPT = tuple(name for name in SWEPT if name != "JAX scan, remat of segments")
QUICK_UNCOMPILED = ("srwm, NumPy", "srwm, torch", "PyTorch loop")
"""Those of a quick run, of which most is compilation: of the sizes, of the sweeps, of what needs a
process of its own."""

# (B, H, L, D) at which the halves are compared with the processor's peak: so long that what a call costs
# whatever its length is little, so few that what is kept for backward stays in the caches.
PARTS = ((2, 8, 512, 16), (1, 8, 512, 32), (1, 4, 512, 64))
FAMILY_SIZES = ((16, 16, 26, 16), (8, 8, 256, 32))


@dataclass(frozen=True)
class Measurement:
    """One row of the results."""

    section: str
    mode: Mode
    size: Size
    peers: tuple[str, ...]
    threads: int = 1
    member: str = ""
    """Another operator than the self-referential weight matrix (`benchmarks.peers.family`)."""

    @property
    def key(self) -> str:
        """The row's name."""
        peers = f", {self.peers[0]}" if self.mode == "memory" or self.member else ""
        return f"{self.section}, {self.mode}, {self.size}, {self.threads} thread(s){peers}"


def _of_family(member: str, quick: bool) -> tuple[str, ...]:
    """The peers of another operator; in a quick run numba compiles the loops of one of them alone."""
    pairs = table.pairs(member)
    return tuple(chain(*pairs[: 1 if quick and member != table.WITH_NUMBA[0] else None]))


def plan(settings: Settings) -> list[Measurement]:
    """What is to be measured; of the settings as given, quick or not."""
    quick, settings = settings.quick, settings.effective()
    swept = QUICK_SWEPT if quick else SWEPT
    everyone = tuple(
        name
        for name in (QUICK if quick else table.ALL)
        if settings.compile or not name.startswith("torch.compile")
    )
    halves = ("srwm, NumPy",)
    modes: tuple[Mode, Mode] = ("training", "forward")

    rows = [Measurement("peak", "parts", size, halves) for size in PARTS]
    rows += [Measurement("step", "forward", settings.step_size, everyone)]
    rows += [Measurement("sizes", mode, size, everyone) for mode in modes for size in settings.sizes]
    rows += [
        Measurement("family", mode, size, _of_family(member, quick), member=member)
        for mode in modes
        for size in (settings.sizes if quick else FAMILY_SIZES)
        for member in table.FAMILY
    ]
    rows += [
        Measurement("memory", "memory", settings.memory_size, (name,))
        for name in (QUICK_UNCOMPILED if quick else everyone)
    ]
    rows += [
        Measurement("cost", "parts", (1, settings.cost_heads, L, 16), halves) for L in settings.cost_lengths
    ]
    rows += [Measurement("length", mode, (4, 8, L, 16), swept) for mode in modes for L in settings.lengths]
    rows += [Measurement("head", mode, (4, 4, 64, D), swept) for mode in modes for D in settings.heads]
    rows += [
        Measurement("batch", mode, (-(-n // 8), min(8, n), 64, 16), swept)
        for mode in modes
        for n in settings.batches
    ]
    rows += [
        Measurement(
            "threads",
            mode,
            settings.threads_size,
            (*(QUICK_UNCOMPILED if quick else SWEPT), table.ONE_THREAD),
            n,
        )
        for n in settings.thread_counts
        for mode in modes
    ]
    return rows
