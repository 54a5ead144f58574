"""Threads on the CPU: how many a call may use, and whether this process can use more than one.

The number is the argument `num_threads`, else that of `set_num_threads`, else the variable
SRWM_NUM_THREADS, else OMP_NUM_THREADS as OpenMP reads it, else the number of processors of this process.
For torch tensors ``torch.get_num_threads()`` takes the place of the last two. The variables are read once,
when they are first needed: by a call with enough work for two threads.

A forked child has only the thread that forked. An OpenMP library that had more threads in the parent does
not notice, and waits for them forever, no matter whether srwm, torch or another library used it. Therefore
calls in a forked child use one thread, unless OpenMP certainly has nothing to wait for: the parent had only
one thread, or no OpenMP library was loaded. Both can be checked on Linux. Elsewhere a forked child uses one
thread, but a child that imports srwm only after the fork cannot be recognised.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from srwm import _checks

# The bit of a process's flags (/proc/self/stat) for: forked, without a later exec.
_FORKED_WITHOUT_EXEC = 0x40

# The OpenMP libraries of GNU, LLVM and Intel, also under the names of their copies in wheels.
_OPENMP_LIBRARY = re.compile(r"/lib(?:g|i)?omp[^/\n]*\.so")

# "4", " 4 ", "4,2": numbers for nested levels of threads. A call uses the first.
_OPENMP_LIST = re.compile(r"\s*\+?[0-9]+\s*(?:,\s*\+?[0-9]+\s*)*", re.ASCII)


class _Process:
    """The running process, and whether an OpenMP library may wait for threads lost by a fork."""

    number = os.getpid()
    has_lost_threads = False
    # Whether a child that is forked now would lose threads.
    child_loses_threads = True


def _of_process(field: int) -> int | None:
    """A numeric field of /proc/self/stat, counted from 1 as in its manual page; None without this file."""
    try:
        text = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[field - 3])  # field 2, the name, may contain anything


def _has_openmp() -> bool:
    """Whether an OpenMP library is loaded; true if that is unknown."""
    try:
        text = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return _OPENMP_LIBRARY.search(text) is not None


def _before_fork() -> None:
    _Process.child_loses_threads = _of_process(20) != 1 and _has_openmp()


def _after_fork_in_child() -> None:
    _Process.number = os.getpid()
    _Process.has_lost_threads |= _Process.child_loses_threads


def _is_forked() -> bool:
    """Whether this process was forked, perhaps by a parent that had not loaded this module."""
    flags = _of_process(9)
    return flags is not None and flags & _FORKED_WITHOUT_EXEC != 0


if hasattr(os, "register_at_fork"):
    _Process.has_lost_threads = _is_forked() and _has_openmp()
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)


def threads_allowed() -> bool:
    """Whether a call may use more than one thread."""
    if os.getpid() != _Process.number:  # forked without os.fork, so _before_fork did not run
        _Process.number, _Process.has_lost_threads = os.getpid(), True
    return not _Process.has_lost_threads


class _Setting:
    """The number given to `set_num_threads`."""

    number: int | None = None


@cache
def _srwm_variable() -> tuple[int | None, list[str]]:
    """SRWM_NUM_THREADS or None, and an error message for a wrong value, until it has been raised."""
    value = os.environ.get("SRWM_NUM_THREADS", "").strip()
    if not value or (value.isascii() and value.isdecimal() and 0 < len(value) < 10 and int(value) >= 1):
        return int(value or 0) or None, []
    return None, [
        f"SRWM_NUM_THREADS: expected an integer >= 1, got {value!r}; correct the variable or unset it "
        "(this error is raised once: from now on this process ignores the variable)"
    ]


@cache
def _openmp_variable() -> int | None:
    """OMP_NUM_THREADS or None: the first of a list of numbers; OpenMP ignores anything else."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    if not _OPENMP_LIST.fullmatch(value):
        return None
    numbers = [int(number) for number in value.split(",")]
    return numbers[0] if min(numbers) >= 1 else None


def threads_asked_for() -> int | None:
    """The number given by `set_num_threads` or SRWM_NUM_THREADS; None if neither is set."""
    number, complaint = _srwm_variable()
    if _Setting.number is None and complaint:
        raise ValueError(complaint.pop())
    return _Setting.number or number


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """The number of threads of a call without `num_threads`."""
    return threads_asked_for() or _openmp_variable() or _processors()


def threads_described() -> str:
    """The number of threads of a call without `num_threads`, and what decides it."""
    number, complaint = _srwm_variable()
    if not threads_allowed():
        return "1, since this process was forked from one with threads"
    if complaint and _Setting.number is None:
        return complaint[0]
    for chosen, what in (
        (_Setting.number, "by srwm.set_num_threads"),
        (number, "by SRWM_NUM_THREADS"),
        (_openmp_variable(), "by OMP_NUM_THREADS"),
    ):
        if chosen is not None:
            return f"{chosen}, {what}"
    return f"{_processors()}, the processors of this process"


def set_num_threads(n: int | None) -> None:
    """Set how many threads a call on the CPU may use if it has no `num_threads`.

    An argument `num_threads` overrides this number. This number overrides the variables SRWM_NUM_THREADS
    and OMP_NUM_THREADS, and for torch tensors also ``torch.get_num_threads()``. It applies to all threads
    of this process, from their next call on.

    Parameters
    ----------
    n : int or None
        At least 1. None removes the number: the variables decide again.

    Raises
    ------
    ValueError
        `n` is neither an integer >= 1 nor None.

    Examples
    --------
    >>> import srwm
    >>> srwm.set_num_threads(2)
    >>> srwm.get_num_threads()
    2
    >>> srwm.set_num_threads(None)
    """
    _Setting.number = None if n is None else _checks.thread_count("srwm.set_num_threads", "n", n)


def get_num_threads() -> int:
    """Return how many threads a call on CPU arrays may use if it has no `num_threads`.

    This is the number of `set_num_threads`, else of SRWM_NUM_THREADS, else of OMP_NUM_THREADS, else the
    number of processors that this process may use. A call with too little work uses fewer threads, and a
    call in a forked child whose parent had threads uses one. For torch tensors ``torch.get_num_threads()``
    takes the place of OMP_NUM_THREADS and of the number of processors.

    Returns
    -------
    n : int

    Raises
    ------
    ValueError
        SRWM_NUM_THREADS is not an integer >= 1. This is raised once; then the variable is ignored.

    Examples
    --------
    >>> import srwm
    >>> srwm.get_num_threads() >= 1
    True
    """
    return default_threads()
