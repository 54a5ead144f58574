"""Memory that is used again: never by two at once, bounded, on a cache line."""

from __future__ import annotations

import numpy as np
import pytest

import srwm
from srwm._cy.recycled import Recycled, idle_bytes
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


def test_what_nobody_uses_is_bounded():
    several = [Recycled(100 << 20) for _ in range(15)]  # never touched: addresses, not memory
    del several
    assert 1 << 29 < idle_bytes() <= 1 << 30
    larger_than_that = Recycled(2 << 30)
    del larger_than_that
    assert idle_bytes() <= 1 << 30


def test_pullbacks_that_live_side_by_side_keep_what_is_theirs():
    cases = [random_case(((20,), (20,), 40, 8, 8), seed=seed) for seed in range(4)]
    expected = [run(srwm, case, backend="reference") for case in cases]
    pullbacks = [srwm.vjp(case.x, case.W)[1] for case in cases]
    for case, pullback, truth in zip(cases, pullbacks, expected, strict=True):
        gx, gW = pullback(case.grad_y, case.grad_W_next)
        assert_close({"gx": gx, "gW": gW}, {name: truth[name] for name in ("gx", "gW")}, 1e-11)
