"""The same number of threads for everybody.

Each library asks in its own way how many threads it may have, most of them while they are imported, and
XLA has no setting for it at all: it starts one for every processor that the process may run on. So the
process is what is confined, before it starts: to as many processors as there are to be threads; and the
variables of the others are set to agree. Where the system cannot confine a process (macOS) the variables
alone are set, and JAX takes what it wants.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def available() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def confined(threads: int) -> Iterator[None]:
    """Processes started within inherit `threads` processors, and the variables that say so."""
    names = ("SRWM", "NUMBA", "OMP", "MKL", "OPENBLAS")
    wanted = {f"{name}_NUM_THREADS": str(threads) for name in names}
    if threads == 1:
        wanted["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    before = dict(os.environ)
    processors = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if processors is not None:
        # The last ones: the first also serve the system's interrupts.
        os.sched_setaffinity(0, sorted(processors)[-threads:])
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        if processors is not None:
            os.sched_setaffinity(0, processors)
