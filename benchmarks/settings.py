"""What a run measures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.cases import Size
from benchmarks.threads import available


def _thread_counts() -> tuple[int, ...]:
    """1, 2, 4, ... up to this machine's processors."""
    return tuple(2**i for i in range(available().bit_length()))


@dataclass(frozen=True)
class Settings:
    """Times the operator beside its peers: outputs first, interleaved rounds, medians."""

    sizes: tuple[Size, ...] = ((16, 16, 26, 16), (32, 16, 150, 16), (8, 8, 256, 32), (4, 8, 512, 64))
    """(B, H, L, D) at which every peer runs: batch, heads, steps, entries per head; Do = D."""
    step_size: Size = (1, 8, 1, 16)
    """(B, H, L, D) of one step of an acting agent."""
    memory_size: Size = (2, 4, 2048, 64)
    """(B, H, L, D) of the peak memory."""
    threads_size: Size = (32, 16, 150, 16)
    """(B, H, L, D) of the sweep over threads."""
    thread_counts: tuple[int, ...] = field(default_factory=_thread_counts)
    """Of the sweep over threads; everything else runs on one."""
    lengths: tuple[int, ...] = (16, 64, 256, 1024)
    """L of the sweep over L, at (4, 8, L, 16)."""
    heads: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    """D of the sweep over D, at (4, 4, 64, D)."""
    batches: tuple[int, ...] = (1, 8, 64, 512)
    """B·H of the sweep over B·H, at (B, 8, 64, 16); of fewer than 8, at one sequence."""
    cost_lengths: tuple[int, ...] = (16, 64, 256, 1024, 4096, 16384, 65536)
    """L at which the cost of one step is taken."""
    cost_heads: int = 32
    """Sequences there, each with a W of its own."""
    rounds: int = 7
    """Interleaved rounds; medians are over these."""
    compile: bool = True
    """Whether the torch.compile peers run: each size of the step takes half a minute to compile, the
    whole loop minutes."""
    out: Path = Path("runs", "bench")
    """Folder for results.json, results.md and the plots."""
    resume: bool = False
    """Keep what is finished in the folder, and go on from there."""
    quick: bool = False
    """Every kind of measurement once, small, in under two minutes: that it runs, not how fast. Takes the
    place of all sizes and rounds."""

    def effective(self) -> Settings:
        """These settings, or the quick ones in their place."""
        if not self.quick:
            return self
        return replace(
            self,
            sizes=((4, 4, 26, 16),),
            memory_size=(2, 4, 128, 16),
            threads_size=(4, 4, 26, 16),
            lengths=(16,),
            heads=(16,),
            batches=(1,),
            cost_lengths=(16, 256),
            rounds=3,
            compile=False,
        )
