"""How leading axes reach the kernels: merged, ordered by sharing, refused where they are too many."""

from __future__ import annotations

import numpy as np
import pytest

from srwm._cy.cuda import View, order_by_sharing, sizes, view_of
from tests.cuda_host.calls import layout_of

# One number, `Axes` and two times `View`, as arrays.cuh has them.
VIEW = np.dtype([("lead", np.int64, (8,)), ("row", np.int64), ("entry", np.int64)])
AXES = np.dtype([("count", np.int64), ("sizes", np.int64, (8,))])
TYPE = np.dtype([("steps", np.int64), ("lead", AXES), ("a", VIEW), ("b", VIEW)])


def numbers_of(lead, order, steps, *views):
    """A kernel's last parameter, by the names of what is in it."""
    (numbers,) = np.frombuffer(sizes("op", lead, order, (steps,), views), TYPE)
    return numbers


def walked(numbers, name):
    """Where each sequence begins in an array, as start_of in arrays.cuh computes it."""
    count = int(numbers["lead"]["count"])
    of_axis = [int(n) for n in numbers["lead"]["sizes"][:count]]
    strides = numbers[name]["lead"][:count]
    return [int(np.dot(index, strides)) for index in np.ndindex(*of_axis)]


def test_axes_that_follow_each_other_are_one():
    a, b = layout_of(np.zeros((2, 3, 4, 5, 6))), layout_of(np.zeros((4, 5, 6)))
    lead = (2, 3, 4)
    numbers = numbers_of(lead, (0, 1, 2), 7, view_of(a, lead, 2), view_of(b, lead, 2))
    assert int(numbers["steps"]) == 7
    assert int(numbers["lead"]["count"]) == 2  # the two over which b is broadcast, and its own
    assert walked(numbers, "a") == [30 * n for n in range(24)]
    assert walked(numbers, "b") == [30 * (n % 4) for n in range(24)]
    assert (int(numbers["a"]["row"]), int(numbers["a"]["entry"])) == (6, 1)


def test_sequences_that_share_an_entry_follow_each_other():
    order, sharing = order_by_sharing((2, 3, 4), (3, 1))
    assert (order, sharing) == ([1, 0, 2], 8)
    shared = view_of(layout_of(np.zeros((3, 1, 5, 6))), (2, 3, 4), 2)
    numbers = numbers_of((2, 3, 4), order, 0, shared, shared)
    assert walked(numbers, "a") == [30 * (n // 8) for n in range(24)]


def test_more_axes_than_a_kernel_walks_are_refused():
    lead = (2,) * 10
    alternating = View(tuple(1 << i if i % 2 else 0 for i in range(10)))
    others = View(tuple(0 if i % 2 else 1 << i for i in range(10)))
    with pytest.raises(ValueError, match=r"^srwm\.forward: expected at most 8 leading axes .* got 10"):
        sizes("srwm.forward", lead, range(10), (0,), (alternating, others))
