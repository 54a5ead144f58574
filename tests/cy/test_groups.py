"""Threads that share one sequence, each some of its columns: against the reference, and to the bit."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import srwm
from srwm._cy import cpu
from tests.cases import (
    TOLERANCE,
    Case,
    assert_close,
    random_case,
    random_delta_case,
    run,
    run_delta,
)
from tests.cy.calls import SRWM, forget, poison, pull_back, save

REAL_TYPES = ["float32", "float64"]


@pytest.fixture(autouse=True)
def always_groups(monkeypatch):
    """Every thread that is asked for is used, however little there is for it to do."""
    monkeypatch.setattr(cpu, "WORK_PER_THREAD", 1)
    monkeypatch.setattr(cpu, "WORK_PER_MEMBER", 1)
    forget()
    yield
    forget()


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Working memory that is full of NaN wherever it was not written."""
    poison(monkeypatch)


def group_case(lead: tuple[int, ...], L: int, D: int, Do: int, resets: list[int] | None = None) -> Case:
    """A case with a W for each sequence, and resets before those steps of the first."""
    case = random_case((lead, lead, L, D, Do), seed=L + D)
    if resets is None:
        return case
    reset = np.zeros((*lead, L), bool)
    reset[(0,) * len(lead)][resets] = True
    return case._replace(reset=reset)


def assert_group_equals_reference(case: Case, threads: int, dtype: str) -> None:
    case = case.astype(dtype)
    truth = run(srwm, case.astype("float64"), backend="reference")
    assert_close(run(srwm, case, backend="cython", num_threads=threads), truth, TOLERANCE[dtype], dtype)


@pytest.mark.parametrize("dtype", REAL_TYPES)
@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("D", [5, 16, 27, 64, 100])
@pytest.mark.parametrize("resets", [None, [0, 31, 32, 33, 64, 69]], ids=["", "reset"])
def test_equals_the_reference(D, threads, dtype, resets):
    assert_group_equals_reference(group_case((), 70, D, D, resets), threads, dtype)


@pytest.mark.parametrize("dtype", REAL_TYPES)
@pytest.mark.parametrize("L", [0, 1, 2, 31, 32, 33, 70])
@pytest.mark.parametrize("with_reset", [False, True], ids=["", "reset"])
def test_any_length(L, dtype, with_reset):
    resets = [t for t in (0, 1, 2, 30, 31, 32, 33, 64) if t < L] if with_reset else None
    assert_group_equals_reference(group_case((), L, 27, 20, resets), 3, dtype)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("L", [1, 2, 40])
def test_nothing_but_y(L, threads):
    case = group_case((), L, 64, 50)
    y = srwm.forward(case.x, case.W, num_threads=threads)
    assert_close({"y": y}, {"y": srwm.forward(case.x, case.W, backend="reference")}, TOLERANCE["float64"])


def test_more_threads_than_columns():
    assert_group_equals_reference(group_case((), 40, 2, 1, [7]), 9, "float64")


@pytest.mark.parametrize("Do", [1, 3, 130])
def test_members_begin_and_end_inside_blocks(Do):
    for threads in (2, 3, 4, 5, 6, 7):
        assert_group_equals_reference(group_case((), 9, 28, Do, [4]), threads, "float32")


@pytest.mark.parametrize("threads", [4, 5, 7])
def test_several_groups(threads):
    assert_group_equals_reference(group_case((2,), 40, 27, 27, [3, 32]), threads, "float64")


def test_one_group_for_several_sequences_in_turn(monkeypatch):
    # One W for all of them in one chunk, and a NaN in one that must stay in it.
    monkeypatch.setattr(cpu, "CHUNKS", 1)
    forget()
    case = random_case(((3,), (3,), 33, 20, 20), with_reset=True)
    case.x[0, 20] = np.nan
    got = run(srwm, case, backend="cython", num_threads=3)
    truth = run(srwm, case, backend="reference")
    forget()
    for name in truth:
        assert_close({name: got[name][1:]}, {name: truth[name][1:]}, TOLERANCE["float64"])


@pytest.mark.parametrize("D", [16, 64])
def test_halves(D):
    case = group_case((), 40, D, D, [9]).astype("float16")
    assert_group_equals_reference(case, 3, "float16")


def test_any_strides():
    case = group_case((), 37, 27, 18, [5, 32])
    strided = case._replace(
        x=case.x[::-1].copy()[::-1],
        W=np.asfortranarray(case.W),
        reset=np.repeat(case.reset, 2)[::2],
        grad_y=np.repeat(case.grad_y, 3, axis=-1)[:, ::3],
        grad_W_next=np.asfortranarray(case.grad_W_next),
    )
    truth = run(srwm, case, backend="reference")
    assert_close(run(srwm, strided, num_threads=3), truth, TOLERANCE["float64"])


@pytest.mark.parametrize("dtype", REAL_TYPES)
@pytest.mark.parametrize("threads", [2, 5])
def test_results_are_the_same_to_the_bit_from_run_to_run(threads, dtype):
    case = group_case((), 70, 64, 64, [31, 50]).astype(dtype)
    first = run(srwm, case, num_threads=threads)
    for _ in range(20):
        again = run(srwm, case, num_threads=threads)
        for name in first:
            np.testing.assert_array_equal(again[name], first[name], name)


def test_another_number_of_threads_forward_than_backward():
    case = group_case((), 70, 40, 30, [20])
    truth = run(srwm, case, backend="reference")
    got = {}
    flat = (case.x, case.W, None, case.reset)
    y, W_next, saved = save(SRWM, flat, num_threads=3)
    for threads in (1, 2, 5):
        g = pull_back(SRWM, flat, saved, (case.grad_y, case.grad_W_next), num_threads=threads)
        got = {"y": y, "W_next": W_next, "gx": g["g_x"], "gW": g["g_W"]}
        assert_close(got, truth, TOLERANCE["float64"], f"{threads} threads")


@pytest.mark.parametrize("dtype", REAL_TYPES)
@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("L", [0, 1, 2, 33, 70])
@pytest.mark.parametrize(("D", "Do"), [(5, 27), (27, 64), (40, 100)])
@pytest.mark.parametrize("with_reset", [False, True], ids=["", "reset"])
def test_delta_rule(L, D, Do, threads, dtype, with_reset):
    case = random_delta_case(((), (), L, D, Do), with_reset=with_reset).astype(dtype)
    truth = run_delta(srwm, case.astype("float64"), backend="reference")
    assert_close(run_delta(srwm, case, num_threads=threads), truth, TOLERANCE[dtype], dtype)


def test_delta_rule_of_several_sequences_in_turn(monkeypatch):
    monkeypatch.setattr(cpu, "CHUNKS", 1)
    forget()
    case = random_delta_case(((3,), (3,), 33, 20, 40), with_reset=True)
    case.k[0, 20] = np.nan
    got = run_delta(srwm, case, num_threads=3)
    truth = run_delta(srwm, case, backend="reference")
    forget()
    for name in truth:
        assert_close({name: got[name][1:]}, {name: truth[name][1:]}, TOLERANCE["float64"])


@pytest.mark.parametrize("threads", [2, 5])
def test_delta_rule_is_the_same_to_the_bit_from_run_to_run(threads):
    case = random_delta_case(((), (), 70, 64, 64), with_reset=True)
    first = run_delta(srwm, case, num_threads=threads)
    for _ in range(20):
        again = run_delta(srwm, case, num_threads=threads)
        for name in first:
            np.testing.assert_array_equal(again[name], first[name], name)


FORKED = """
import os, signal
import numpy as np, srwm
from srwm._cy import cpu
cpu.WORK_PER_THREAD = cpu.WORK_PER_MEMBER = 1
x, W = np.full((40, 64), 0.1), np.full((64, 196), 0.01)
y = srwm.forward(x, W, num_threads=2)
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends a child that hangs
    os._exit(0 if np.allclose(srwm.forward(x, W, num_threads=2), y) else 1)
raise SystemExit(os.waitpid(child, 0)[1] != 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_wait_for_threads_it_lacks():
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], check=True)
