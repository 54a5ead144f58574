"""Arrays that begin at any address and whose rows and entries are any number of bytes apart.

The numbers are those of aligned arrays on every processor that loads and stores at any address. That the
kernels' text allows it as well, so that compilers may not build on alignment, is seen by `make sanitize`.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import srwm
from srwm._cy import cpu
from tests.cases import Case, random_case, random_delta_case
from tests.cy.calls import forget

DTYPES = ["float32", "float64", "float16", ml_dtypes.bfloat16]


@pytest.fixture(params=["one", "many"])
def layout(request, monkeypatch):
    """Sequences one at a time, and side by side."""
    most = 1 << 30 if request.param == "many" else 0
    monkeypatch.setattr(cpu, "most_bytes", lambda layout, save: most)
    forget()
    yield request.param
    monkeypatch.undo()
    forget()


def misplaced(a, offset, apart):
    """A copy that begins `offset` bytes behind an aligned address, with `apart` bytes between entries."""
    if a is None or a.dtype == bool:
        return a
    step = a.itemsize + apart
    strides = np.cumprod([step, *a.shape[:0:-1]])[::-1]
    memory = np.zeros(offset + a.size * step + a.itemsize, np.uint8)
    copy = np.ndarray(a.shape, a.dtype, memory, offset, tuple(int(stride) for stride in strides))
    copy[...] = a
    return copy


def results(case):
    """Forward and backward as they are called: `vjp` would compute on aligned copies."""
    options = {"reset": case.reset, "backend": "cython", "num_threads": 1}
    if isinstance(case, Case):
        operands, forward, backward = case[:2], srwm.forward, srwm.backward
    else:
        operands, forward, backward = case[:5], srwm.delta.forward, srwm.delta.backward
    return *forward(*operands, return_state=True, **options), *backward(*operands, *case[-2:], **options)


def rounded(case, dtype):
    return type(case)(*(a if a is None or a.dtype == bool else a.astype(dtype) for a in case))


@pytest.mark.parametrize(("offset", "apart"), [(1, 0), (2, 0), (3, 0), (6, 0), (1, 1), (0, 3), (5, 8)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("D", [3, 8, 21])
def test_operands_anywhere(layout, dtype, D, offset, apart):
    size = ((18,), (18,), 9, D, D + 2)
    for case in (random_case(size, with_reset=True), random_delta_case(size, with_reset=True)):
        aligned = rounded(case, dtype)
        moved = type(case)(*(misplaced(a, offset, apart) for a in aligned))
        assert moved[0].ctypes.data % 8 == offset % 8
        for got, expected in zip(results(moved), results(aligned), strict=True):
            np.testing.assert_array_equal(got, expected)
