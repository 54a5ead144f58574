"""How the environments and the unrolls of an update are divided over processes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .rollouts import Rows
from .settings import Settings


@dataclass(frozen=True)
class Block:
    """Environments that are stepped together: their number, and that of the first among all there are."""

    first: int
    count: int


@dataclass(frozen=True)
class Division:
    """What one process plays.

    Attributes
    ----------
    rows : those of the joined batch that it collects.
    blocks : its environments, in blocks that some of make up an unroll.
    """

    rows: Rows
    blocks: tuple[Block, ...]


def session_seed(seed: int, update: int) -> int:
    """Of all environments of a run in a session that begins with an update, below 2^31."""
    return int(np.random.SeedSequence((seed, update)).generate_state(1)[0] >> 1)


def divide(settings: Settings, rank: int, processes: int) -> Division:
    """The part of process ``rank`` of as many as train together.

    With more environments than an update learns from, blocks of them take turns: of 48 for 32, two of
    three blocks of 16. Which rows an environment fills then depends on the number of processes; with as
    many as an update learns from, environment i fills row i.

    Raises
    ------
    ValueError : if unrolls or environments cannot be shared evenly.
    """
    for what, units in (("--batch-size", settings.batch_size), ("--environments", settings.played)):
        if units % processes:
            raise ValueError(
                f"train: {what} must be a multiple of the number of processes, {processes}, got {units}"
            )
    rows, played = settings.batch_size // processes, settings.played // processes
    size = math.gcd(rows, played)
    first = rank * played
    return Division(
        Rows(first=rank * rows, count=rows, total=settings.batch_size),
        tuple(Block(start, size) for start in range(first, first + played, size)),
    )
