"""How many threads a call uses: argument, setting, variables; and whether a process may use any."""

from __future__ import annotations

import os

import numpy as np
import pytest

import srwm
from srwm import _threads
from tests.forking import run


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    """No setting, no variable, nothing read before or left for other tests."""

    def forget():
        _threads._srwm_variable.cache_clear()
        _threads._openmp_variable.cache_clear()

    monkeypatch.delenv("SRWM_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    forget()
    yield
    srwm.set_num_threads(None)
    monkeypatch.undo()
    forget()


def processors():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def test_setting_goes_before_its_variable_and_that_before_openmps(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert srwm.get_num_threads() == 5
    monkeypatch.setenv("SRWM_NUM_THREADS", "7")
    assert srwm.get_num_threads() == 5  # read once
    _threads._srwm_variable.cache_clear()
    assert srwm.get_num_threads() == 7
    srwm.set_num_threads(3)
    assert srwm.get_num_threads() == 3
    srwm.set_num_threads(None)
    assert srwm.get_num_threads() == 7


@pytest.mark.parametrize(
    ("value", "threads"),
    [("4", 4), ("4,2", 4), (" 2", 2), ("3 ", 3), (" 6 , 2,1 ", 6), ("+5", 5), ("\t8\n", 8)],
)
def test_openmps_variable_is_read_as_openmp_reads_it(monkeypatch, value, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert srwm.get_num_threads() == threads


@pytest.mark.parametrize("value", ["", " ", "0", "-2", "two", "4,", ",4", "4,0", "4,x", "4 2", "1e3", "٤"])
def test_what_openmp_ignores_is_ignored(monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert srwm.get_num_threads() == processors()


@pytest.mark.parametrize(("value", "threads"), [("", None), ("  ", None), (" 3 ", 3), ("03", 3)])
def test_an_empty_variable_is_no_variable(monkeypatch, value, threads):
    monkeypatch.setenv("SRWM_NUM_THREADS", value)
    assert _threads.threads_asked_for() == threads


@pytest.mark.parametrize("value", ["0", "-1", "two", "4,2", "2.0", "٤"])
def test_a_broken_variable_is_an_error_once(monkeypatch, value):
    monkeypatch.setenv("SRWM_NUM_THREADS", value)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    # To show it is not to raise it.
    assert "SRWM_NUM_THREADS: expected an integer >= 1" in _threads.threads_described()
    with pytest.raises(
        ValueError, match=rf"SRWM_NUM_THREADS: expected an integer >= 1, got '{value}'; corr"
    ):
        srwm.get_num_threads()
    assert srwm.get_num_threads() == 3


@pytest.mark.parametrize("n", [np.int64(2), np.uint8(2), 2])
def test_integers_of_any_library(n):
    x, W = np.full((2, 3, 2), 0.5), np.full((2, 9), 0.1)
    np.testing.assert_array_equal(srwm.forward(x, W, num_threads=n), srwm.forward(x, W, num_threads=2))
    srwm.set_num_threads(n)
    assert srwm.get_num_threads() == 2
    assert type(srwm.get_num_threads()) is int


@pytest.mark.parametrize("n", [0, -1, True, np.True_, 2.0, np.float64(2), "2"])
def test_no_numbers_of_threads(n):
    with pytest.raises(ValueError, match=r"srwm\.set_num_threads: n: expected an int >= 1, got "):
        srwm.set_num_threads(n)
    with pytest.raises(ValueError, match=r"srwm\.forward: num_threads: expected an int >= 1, got "):
        srwm.forward(np.ones((2, 1)), np.ones((1, 7)), num_threads=n)
    assert srwm.get_num_threads() == processors()


def test_what_decides_is_described(monkeypatch):
    assert _threads.threads_described() == f"{processors()}, the processors of this process"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    _threads._openmp_variable.cache_clear()
    assert _threads.threads_described() == "5, by OMP_NUM_THREADS"
    monkeypatch.setenv("SRWM_NUM_THREADS", "7")
    _threads._srwm_variable.cache_clear()
    assert _threads.threads_described() == "7, by SRWM_NUM_THREADS"
    srwm.set_num_threads(3)
    assert _threads.threads_described() == "3, by srwm.set_num_threads"
    monkeypatch.setattr(_threads._Process, "has_lost_threads", True)
    assert _threads.threads_described() == "1, since this process was forked from one with threads"


@pytest.mark.parametrize("instruction_set", ["baseline", ""])
def test_a_forked_child_of_one_with_threads_does_not_wait_for_them(instruction_set):
    program = """
call()
assert allowed()
in_child(lambda: call() and not allowed())
in_child(lambda: call() and in_child(call) is None)
"""
    run(program, SRWM_INSTRUCTION_SET=instruction_set)


def test_a_child_forked_past_python_does_not_wait_either():
    program = """
import ctypes
call()
fork = ctypes.PyDLL(None).fork
child = fork()
if child == 0:
    signal.alarm(60)
    os._exit(0 if call() and not allowed() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    run(program)


def test_a_child_of_a_parent_with_one_thread_may_use_threads():
    program = """
import srwm
srwm.forward(np.ones((2, 1)), np.ones((1, 7)))  # loads OpenMP, and uses no thread of it

def uses_threads():
    return call() and (not on_linux or len(os.listdir("/proc/self/task")) > 1)

in_child(lambda: allowed() == on_linux and uses_threads())
in_child(lambda: uses_threads() and in_child(lambda: call() and not allowed()) is None)
"""
    run(program, OPENBLAS_NUM_THREADS="1")


def test_other_threads_than_openmps_take_nothing_from_a_child():
    program = """
import threading
stop = threading.Event()
other = threading.Thread(target=stop.wait)
other.start()
in_child(lambda: allowed() and call())  # imports srwm, which sees that OpenMP is not loaded
import srwm
in_child(lambda: allowed() == on_linux and call())
stop.set()
"""
    run(program)
