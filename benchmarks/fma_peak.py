"""The processor's own limit: float32 operations per second of one thread that only multiplies and adds.

Measured beside what it is compared with, since the clock of a shared machine is not always the same. The
loop is C (fma_peak.c), compiled for this very processor by the compiler that builds srwm.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
TURNS = 100_000  # about half a millisecond


@dataclass(frozen=True)
class Peak:
    """The loop, to be timed."""

    run: Callable[[], float]
    operations: int
    """Floating-point operations of one run."""


@cache
def peak() -> Peak:
    """Compile the loop and load it."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "fma_peak.so"
        flags = ["-O2", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
        subprocess.run([compiler, *flags, "-o", str(library), str(SOURCE)], check=True)
        loaded = ctypes.CDLL(str(library))  # once loaded it no longer needs its file
    loop = loaded.multiply_add
    loop.argtypes = [ctypes.c_long, ctypes.c_float, ctypes.c_float]
    loop.restype = ctypes.c_float
    return Peak(lambda: loop(TURNS, 0.5, 1.0), TURNS * int(loaded.operations()))
