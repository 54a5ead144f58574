"""Time, threads, the processor's peak and memory: what they are said to be."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.fma_peak import peak
from benchmarks.memory import READABLE, peak_growth
from benchmarks.threads import available, confined
from benchmarks.timing import medians, seconds


def test_rounds_are_interleaved_and_medians_taken() -> None:
    order = []
    times = {"a": iter([5.0, 1.0, 3.0]), "b": iter([2.0, 2.0, 9.0])}

    def clock(call):
        name = call()
        order.append(name)
        return next(times[name])

    assert medians({"a": lambda: "a", "b": lambda: "b"}, 3, clock=clock) == {"a": 3.0, "b": 2.0}
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_a_sample_is_long_enough() -> None:
    now = [0.0]
    calls = []

    def call() -> None:
        calls.append(None)
        now[0] += 0.003

    assert seconds(call, least=0.02, now=lambda: now[0]) == pytest.approx(0.003)
    assert len(calls) == 7


def test_peak_is_that_of_a_processor() -> None:
    loop = peak()
    assert loop.operations > 0
    gflops = loop.operations / min(seconds(loop.run) for _ in range(5)) / 1e9
    assert (
        1 < gflops < 1000
    )  # one scalar operation a cycle of a slow clock; two vectors of 16 of a fast one


def test_processes_inherit_the_number_of_threads() -> None:
    program = "import os, torch, numba, jax; print(torch.get_num_threads(), numba.get_num_threads())"
    if hasattr(os, "sched_getaffinity"):
        program += "; print(len(os.sched_getaffinity(0)))"
    before = available()
    with confined(1):
        printed = subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True
        ).stdout
        assert os.environ["SRWM_NUM_THREADS"] == "1"
    assert set(printed.split()) == {"1"}
    assert available() == before


@pytest.mark.skipif(not READABLE, reason="memory is read from Linux's /proc")
def test_memory_of_a_pass() -> None:
    """The loop keeps W of every step, and some of what it computed from it; srwm a thirtieth of that."""
    B, H, L, D = size = (2, 4, 512, 32)
    every_W = 4 * B * H * L * D * (3 * D + 4)
    assert every_W < peak_growth("PyTorch loop", size) < 4 * every_W
    assert peak_growth("srwm, torch", size) < every_W / 4
