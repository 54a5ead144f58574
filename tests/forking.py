"""Runs programs that fork: what each of them begins with, and an end for those that hang."""

from __future__ import annotations

import os
import subprocess
import sys

# What every program begins with. A child that hangs is ended by its alarm.
PROGRAM = """
import os, signal, sys
import numpy as np

on_linux = sys.platform == "linux"  # elsewhere no forked child is allowed threads

def call():
    import srwm
    x, W = np.full((64, 200, 32), 0.1, np.float32), np.full((32, 100), 0.01, np.float32)
    y, pullback = srwm.vjp(x, W, num_threads=4)
    gx, gW = pullback(y[0])
    return bool(np.isfinite(gW).all())

def in_child(work):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            os._exit(0 if work() else 1)
        finally:
            sys.excepthook(*sys.exc_info())
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, status

def allowed():
    from srwm._threads import threads_allowed
    return threads_allowed()
"""


def run(program: str, **environment: str) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM + program],
        env=variables | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
