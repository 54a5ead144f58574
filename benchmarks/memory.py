"""Peak memory of one forward and backward pass, each in a process of its own.

    python -m benchmarks.memory PEER B H L D

prints the bytes by which the process grew above what it held before the call, at its highest. Reads
/proc: Linux only.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.peers import PEERS, forward_and_backward, random_case


def peak_growth(peer: str, size: tuple[int, int, int, int]) -> int:
    """Bytes that one forward and backward pass of a peer adds, measured in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", peer, *map(str, size)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _main(peer: str, *size: str) -> None:
    torch.set_num_threads(1)
    # A small call first, so that libraries and thread pools are counted on neither side.
    forward_and_backward(PEERS[peer], *random_case((1, 1, 2, 2)))
    case = random_case(tuple(int(n) for n in size))
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    forward_and_backward(PEERS[peer], *case)
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # it is in KiB on Linux
    print(highest - resident_pages * resource.getpagesize())


if __name__ == "__main__":
    _main(*sys.argv[1:])
