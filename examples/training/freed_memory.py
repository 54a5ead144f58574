"""Memory that big tensors give back: kept by the process, not returned to the system at every step."""

import ctypes

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for what is allocated next, as long as the process lives.

    glibc maps what is larger than some MB anew from the system each time, and the system then clears it
    page by page as it is first written. A step of training on a CPU frees all its activations and
    allocates them again: that took a quarter to nearly half of the time of the agents of examples/rl.
    What was needed at the most stays allocated. Where the C library is another one (macOS, musl),
    nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)  # never
