"""Marks of tests that want a CUDA device: `pytest -m gpu` selects them; without one they are skipped."""

from __future__ import annotations

import numpy as np
import pytest

from srwm import _dispatch

ON_A_DEVICE = (
    pytest.mark.gpu,
    pytest.mark.skipif(_dispatch.states()["cuda"] != "usable", reason=_dispatch.states()["cuda"]),
)

each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_A_DEVICE)])


def require_bfloat16_of_cupy() -> None:
    """Skip where CuPy has no arrays of ml_dtypes' bfloat16."""
    cupy = pytest.importorskip("cupy")
    if int(cupy.__version__.partition(".")[0]) < 14 or np.lib.NumpyVersion(np.__version__) < "2.1.2":
        pytest.skip("CuPy has bfloat16 from 14 on, with NumPy 2.1.2 or newer")
