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
from tests.operators import EVERYTHING, each_operator
from tests.operators import random_case as random_row_case

ALONE = {"backend": "cython", "num_threads": 1}
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


def misplaced(a, offset, apart, between=0):
    """A copy that begins `offset` bytes behind an aligned address, with `apart` bytes between entries.

    And with `between` bytes between rows.
    """
    if a is None or a.dtype == bool:
        return a
    step = a.itemsize + apart
    row = a.shape[-1] * step + between
    strides = (*np.cumprod([row, *a.shape[-2:0:-1]])[::-1], step) if a.ndim > 1 else (step,)
    memory = np.zeros(offset + a.size // a.shape[-1] * row + a.itemsize, np.uint8)
    copy = np.ndarray(a.shape, a.dtype, memory, offset, tuple(int(stride) for stride in strides))
    copy[...] = a
    return copy


@pytest.mark.parametrize(
    ("offset", "apart", "between"), [(1, 0, 0), (0, 16, 0), (0, 0, 16), (0, 0, 1)], ids=str
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_operator
def test_rows_of_whole_vectors_anywhere(layout, row, dtype, offset, apart, between):
    """Some kernels use these where they are, if they can."""
    case = random_row_case(row, ((18,), (18,), 9, 16, 32), **EVERYTHING).astype(dtype)
    moved = case.map(lambda a: misplaced(a, offset, apart, between))
    got, expected = (
        (*row.forward(c.flat, **ALONE), *row.backward(c.flat, *c.incoming, **ALONE)) for c in (moved, case)
    )
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def results(case):
    """Forward and backward as they are called: `vjp` would compute on aligned copies."""
    options = {"reset": case.reset, **ALONE}
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
