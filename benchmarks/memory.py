"""Peak memory of one forward and backward pass, each in a process of its own. Linux with glibc only."""

from __future__ import annotations

import ctypes
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks.cases import Size, random_case
from benchmarks.peers.table import load

READABLE = Path("/proc/self/clear_refs").exists() and hasattr(ctypes.CDLL(None), "malloc_trim")


def _status(name: str) -> int:
    """An entry of /proc/self/status, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None, name
    return 1024 * int(found[1])


def _growth(peer: str, size: Size, threads: int) -> int:
    torch.set_num_threads(threads)
    B, H, _, D = size
    # Two steps first, so that libraries, thread pools and code compiled for this head are on neither side.
    load(peer).training(random_case((B, H, 2, D))).run()
    run = load(peer).training(random_case(size)).run
    ctypes.CDLL(None).malloc_trim(0)  # what compilers have freed must not serve the pass unseen
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the highest is now what it is now
    before = _status("VmRSS")
    results = run()
    highest = _status("VmHWM")
    del results
    return highest - before


def peak_growth(peer: str, size: Size, threads: int = 1) -> int:
    """Bytes by which a peer's pass raises a fresh process above what it held before, at its highest."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as fresh:
        return fresh.submit(_growth, peer, size, threads).result()
