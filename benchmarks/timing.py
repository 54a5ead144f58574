"""How time is taken: interleaved rounds, so that what else the machine does falls on all alike; medians."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from tqdm import tqdm

LEAST_SECONDS = 0.02
"""A sample repeats a call for at least this long, above the grain of clock and scheduler."""


def seconds(
    call: Callable[[], Any],
    least: float = LEAST_SECONDS,
    now: Callable[[], float] = time.perf_counter,
) -> float:
    """Time of one call, over as many as take `least` seconds."""
    calls, taken = 0, 0.0
    start = now()
    while taken < least:
        call()
        calls += 1
        taken = now() - start
    return taken / calls


def thread_seconds(call: Callable[[], Any]) -> float:
    """As `seconds`, only while the calling thread ran: for calls of one thread that never wait.

    So that on a shared machine a share of the processor's peak does not depend on who else had it.
    """
    return seconds(call, now=time.thread_time)


def medians(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    label: str = "",
    clock: Callable[[Callable[[], Any]], float] = seconds,
) -> dict[str, float]:
    """Median time of each call over rounds in which every call has its turn.

    Every second round goes backwards: no call always follows the same one, whose data it would find in
    the cache.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for turn in tqdm(range(rounds), desc=label, leave=False, disable=None):
        for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            samples[name].append(clock(calls[name]))
    return {name: median(of_name) for name, of_name in samples.items()}
