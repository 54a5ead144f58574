"""Tests marked `gpu` of CuPy arrays, run without a device: by CuPy itself (cuda_host/under_cupy.py)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from srwm import _dispatch
from tests.cuda_host import backend

ROOT = Path(__file__).parents[1]

pytestmark = [
    # Without a C++ compiler no kernel can be built; in CI tests/operators.py fails for that.
    pytest.mark.skipif(backend.unusable() is not None, reason=str(backend.unusable())),
    pytest.mark.skipif(_dispatch.states()["cuda"] == "usable", reason="there is a device to run them on"),
]


SOME = "forward_alone or backward_gives or any_strides or two_parts or single_steps"


@pytest.mark.parametrize(
    ("marks", "chosen"),
    [
        ("gpu and not slow", ["tests/test_cupy.py"]),
        pytest.param("gpu and slow", ["tests/test_cupy.py"], marks=pytest.mark.slow),
        ("gpu and not slow", ["tests/test_parity.py", "-k", SOME]),
        pytest.param(
            "gpu and not slow", ["tests/test_parity.py", "-k", f"not ({SOME})"], marks=pytest.mark.slow
        ),
    ],
    ids=["of CuPy alone", "slow ones of CuPy alone", "parity", "all of parity"],
)
def test_tests_of_cupy_arrays_pass(marks, chosen):
    pytest.importorskip("cupy")
    command = [sys.executable, "-m", "pytest", "-q", "-m", marks, "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-n", "0", *chosen],
        cwd=ROOT,
        env=os.environ | {"SRWM_TEST_CUDA": "host"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-2000:]}"
    assert re.search(r"^\d+ passed", done.stdout, re.M), done.stdout[-2000:]
