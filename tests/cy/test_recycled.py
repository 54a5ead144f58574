"""Memory that is used again: never by two at once, bounded, on a cache line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

import srwm
from srwm._cy.recycled import Recycled, idle_bytes, release_idle
from tests.cases import assert_close, random_case, run


def address(memory):
    return np.frombuffer(memory, np.uint8).ctypes.data


@pytest.mark.parametrize("size", [1, 63, 4096, 5_000_000])
def test_is_as_large_as_asked_for_and_on_a_cache_line(size):
    memory = Recycled(size)
    view = np.frombuffer(memory, np.uint8)
    assert view.size == size
    assert address(memory) % 64 == 0
    view[:] = 7


def test_nothing_at_all():
    assert memoryview(Recycled(0)).nbytes == 0


def all_idle_for(size):
    """What other tests left idle and would be taken for this size, taken."""
    taken = []
    while True:
        before = idle_bytes()
        taken.append(Recycled(size))
        if idle_bytes() == before:
            return taken


def test_what_is_given_back_is_taken_again_and_what_is_in_use_never():
    in_use = all_idle_for(99_999)
    first, second = Recycled(100_000), Recycled(100_000)
    assert address(first) != address(second)
    given_back = address(first)
    del first
    third, fourth = Recycled(99_999), Recycled(99_999)
    assert address(third) == given_back
    later = [second, third, fourth]
    assert len(set(map(address, in_use + later))) == len(in_use) + len(later)


def test_a_view_keeps_the_memory_from_being_taken():
    view = np.frombuffer(Recycled(200_000), np.float32).reshape(100, -1)[3:, ::2]
    assert not np.shares_memory(view, np.frombuffer(Recycled(200_000), np.float32))


def test_a_small_call_does_not_hold_what_a_large_one_wants():
    large = Recycled(3_000_000)
    held = address(large)
    del large
    small = Recycled(1_000)
    assert address(small) != held


MOST = 256 << 20  # as docs/performance-cpu.md and srwm.free_memory say


def test_what_nobody_uses_is_bounded():
    several = [Recycled(60 << 20) for _ in range(9)]  # never touched: addresses, not memory
    del several
    assert MOST // 2 < idle_bytes() <= MOST
    larger_than_that = Recycled(300 << 20)
    before = idle_bytes()
    del larger_than_that
    assert idle_bytes() == before


def test_what_has_been_idle_for_longest_goes_first():
    release_idle()
    first, second, third = Recycled(80 << 20), Recycled(90 << 20), Recycled(60 << 20)
    del first, second, third
    fourth = Recycled(40 << 20)
    del fourth  # 270 MiB: the first has to go
    sizes = (90 << 20, 60 << 20, 40 << 20)
    before = idle_bytes()
    assert sum(sizes) <= before <= MOST
    taken = [Recycled(size) for size in sizes]
    assert idle_bytes() == 0
    del taken
    new = Recycled(80 << 20)
    assert idle_bytes() == before
    del new


@pytest.mark.parametrize("size", [*range(1, 70), 1023, 1024, 1025, 1 << 20, (1 << 20) + 1, 123_456_789])
def test_little_more_is_held_than_is_asked_for(size):
    release_idle()
    memory = Recycled(size)
    del memory
    assert size <= idle_bytes() <= size + max(63, size // 8)


def test_order_of_taking_and_giving_back_does_not_matter():
    # Links of the middle, the top, the oldest and the newest, of several classes, against a plain count.
    rng = np.random.default_rng(0)
    release_idle()
    classes = [64, 128, 1024, 73_728, 1 << 20, 3 << 20]  # what is held of them is their very size
    held, idle = [], []
    for _ in range(5000):
        if held and rng.random() < 0.5:
            memory, size = held.pop(rng.integers(len(held)))
            assert (np.frombuffer(memory, np.uint8)[:64] == size % 251).all()  # nobody else wrote there
            del memory
            idle.append(size)
        else:
            size = int(rng.choice(classes))
            memory = Recycled(size)
            np.frombuffer(memory, np.uint8)[:64] = size % 251
            held.append((memory, size))
            if size in idle:
                idle.remove(size)
        assert idle_bytes() == sum(idle)
    assert len({address(memory) for memory, _ in held}) == len(held)


def test_memory_is_given_back():
    keep = np.ones((3000, 16)), np.ones((16, 52))
    y = srwm.forward(*keep)
    expected = y.copy()
    again = srwm.forward(*keep)
    del again
    assert idle_bytes() > 0
    srwm.free_memory()
    assert idle_bytes() == 0
    np.testing.assert_array_equal(y, expected)  # what is in use is left alone
    srwm.free_memory()


def resident_bytes():
    text = Path("/proc/self/statm").read_text()
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_system_gets_it():
    blocks, between = [], []
    for _ in range(2000):  # on the C library's heap, from whose middle free() alone returns nothing
        blocks.append(Recycled(100 << 10))
        np.frombuffer(blocks[-1], np.uint8)[:] = 1
        between.append(bytearray(3000))
    del blocks
    on_linux = sys.platform == "linux"  # elsewhere nothing says what the system has
    before = resident_bytes() if on_linux else 0
    srwm.free_memory()
    assert idle_bytes() == 0
    assert not on_linux or before - resident_bytes() > 150 << 20
    assert len(between) == 2000


def test_working_memory_goes_back_when_a_call_ends():
    x, W = np.ones((2, 600, 300)), np.ones((2, 300, 1204)) / 1000  # scratch of more than a megabyte
    srwm.backward(x, W, np.ones((2, 600, 600)), num_threads=2)
    assert idle_bytes() > 1 << 20
    srwm.free_memory()
    assert idle_bytes() == 0


def test_pullbacks_that_live_side_by_side_keep_what_is_theirs():
    cases = [random_case(((20,), (20,), 40, 8, 8), seed=seed) for seed in range(4)]
    expected = [run(srwm, case, backend="reference") for case in cases]
    pullbacks = [srwm.vjp(case.x, case.W)[1] for case in cases]
    for case, pullback, truth in zip(cases, pullbacks, expected, strict=True):
        gx, gW = pullback(case.grad_y, case.grad_W_next)
        assert_close({"gx": gx, "gW": gW}, {name: truth[name] for name in ("gx", "gW")}, 1e-11)
