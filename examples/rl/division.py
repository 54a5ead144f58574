"""How the environments and the unrolls of an update are divided over processes."""

from __future__ import annotations

import math
from typing import NamedTuple

from .settings import Settings


class Division(NamedTuple):
    """What one process plays."""

    rows: range  # those of the joined batch that it collects
    blocks: tuple[range, ...]  # its environments, among all there are: some blocks make up an unroll


def divide(settings: Settings, rank: int, processes: int) -> Division:
    """The part of process ``rank`` of as many as train together.

    With more environments than an update learns from, blocks of them take turns: of 48 for 32, two of
    three blocks of 16. Which rows an environment fills then depends on the number of processes; with as
    many as an update learns from, environment i fills row i.
    """
    for what, units in (("--batch-size", settings.batch_size), ("--environments", settings.played)):
        if units % processes:
            raise ValueError(
                f"train: {what} must be a multiple of the number of processes, {processes}, got {units}"
            )
    rows, played = settings.batch_size // processes, settings.played // processes
    size = math.gcd(rows, played)
    mine = range(rank * played, (rank + 1) * played, size)
    return Division(
        range(rank * rows, (rank + 1) * rows), tuple(range(first, first + size) for first in mine)
    )
