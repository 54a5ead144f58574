"""Threads on the CPU: how many a call may use, and whether this process can have any.

How many: the argument `num_threads`, else `set_num_threads`, else the variable SRWM_NUM_THREADS, else
OMP_NUM_THREADS as OpenMP reads it, else the processors of this process. For torch tensors
``torch.get_num_threads()`` stands in the place of the last two. The variables are read once, when they
are first needed.

Whether any: a forked child has only the thread that forked. An OpenMP library that had others before does
not notice and waits for them for ever, whoever used it: srwm, torch or another library. Calls therefore use
one thread in a forked child, unless it is certain that there is nothing to wait for: the parent had a
single thread in all, or no OpenMP library was loaded. Both can be seen on Linux; elsewhere no forked child
has threads, and a child that imports srwm only after the fork cannot be recognised.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from srwm import _checks

# The bit of a process's flags (/proc/self/stat) that says: forked, and no other program started since.
_FORKED_WITHOUT_EXEC = 0x40

# GNU's, LLVM's and Intel's OpenMP, also under the names that wheels give to their copies.
_OPENMP_LIBRARY = re.compile(r"/lib(?:g|i)?omp[^/\n]*\.so")

# "4", " 4 ", "4,2": numbers for nested levels of threads, of which a call uses the first.
_OPENMP_LIST = re.compile(r"\s*\+?[0-9]+\s*(?:,\s*\+?[0-9]+\s*)*", re.ASCII)


class _Process:
    """The running process: its number, and whether an OpenMP library may wait for threads it lacks."""

    number = os.getpid()
    has_lost_threads = False
    # Whether a child that is forked now would lose some.
    child_loses_threads = True


def _of_process(field: int) -> int | None:
    """A numeric field of /proc/self/stat, counted from 1 as in its manual page; None without that file."""
    try:
        text = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[field - 3])  # field 2, the name, may hold anything


def _has_openmp() -> bool:
    """Whether an OpenMP library is loaded; true where that cannot be seen."""
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
    """Whether this process was forked, by a parent that may not have loaded this module."""
    flags = _of_process(9)
    return flags is not None and flags & _FORKED_WITHOUT_EXEC != 0


if hasattr(os, "register_at_fork"):
    _Process.has_lost_threads = _is_forked() and _has_openmp()
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)


def threads_allowed() -> bool:
    """Whether a call may use more threads than its own."""
    if os.getpid() != _Process.number:  # forked by other means than Python's: nobody looked before
        _Process.number, _Process.has_lost_threads = os.getpid(), True
    return not _Process.has_lost_threads


class _Setting:
    """What `set_num_threads` asked for."""

    number: int | None = None


@cache
def _srwm_variable() -> tuple[int | None, list[str]]:
    """SRWM_NUM_THREADS or None, and what is wrong with it, as long as nobody has been told."""
    value = os.environ.get("SRWM_NUM_THREADS", "").strip()
    if not value or (value.isascii() and value.isdecimal() and int(value) >= 1):
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
    """What was asked for of srwm alone, by `set_num_threads` or SRWM_NUM_THREADS; None: nothing was."""
    number, complaint = _srwm_variable()
    if _Setting.number is None and complaint:
        raise ValueError(complaint.pop())
    return _Setting.number or number


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """The threads of a call on arrays that names no number."""
    return threads_asked_for() or _openmp_variable() or _processors()


def threads_described() -> str:
    """The threads of a call that names no number, and what decides that."""
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
    """Set how many threads a call on the CPU may use that does not say it itself.

    An argument `num_threads` goes before this number; this number goes before the variables
    SRWM_NUM_THREADS and OMP_NUM_THREADS, and before ``torch.get_num_threads()`` for torch tensors. It
    holds for all threads of this process, from their next call on.

    Parameters
    ----------
    n : int or None
        At least 1. None takes the number back: the variables decide again.

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
    """Return how many threads a call on CPU arrays may use that does not say it itself.

    The number of `set_num_threads`, else of SRWM_NUM_THREADS, else of OMP_NUM_THREADS, else of the
    processors that this process may use. A call uses fewer where it has too little work for them, and
    one in a forked child whose parent had threads. For torch tensors ``torch.get_num_threads()`` takes
    the place of OMP_NUM_THREADS and of the processors.

    Returns
    -------
    n : int

    Raises
    ------
    ValueError
        SRWM_NUM_THREADS is not an integer >= 1: once, then the variable is ignored.

    Examples
    --------
    >>> import srwm
    >>> srwm.get_num_threads() >= 1
    True
    """
    return default_threads()
