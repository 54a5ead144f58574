"""The compile matrix, as far as it takes seconds."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import compile_matrix
from srwm._raw_kernels import loader


def test_a_kernel_of_halves_compiles_with_the_headers_of_its_compiler():
    """Compiled here, without a device, by the NVRTC that is installed."""
    nvrtc = pytest.importorskip("cupy").cuda.nvrtc
    major, minor = nvrtc.getVersion()
    (option,) = loader.headers()
    text = Path(option.removeprefix("-I"), "cuda_runtime_api.h").read_text(encoding="utf-8")
    assert re.search(rf"define CUDART_VERSION\s+{major * 1000 + minor * 10}$", text, re.MULTILINE)
    for dtype in ("float16", "bfloat16"):
        compiled = compile_matrix.compiled(compile_matrix.Case("delta_forward", 8, 8, dtype, 80))
        assert compiled.registers > 0


def test_only_architectures_that_the_compiler_knows_are_compiled(monkeypatch):
    """CUDA 13 has dropped those before 7.5."""
    of_cuda_13 = (75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121)
    cuda = SimpleNamespace(nvrtc=SimpleNamespace(getSupportedArchs=lambda: of_cuda_13))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    wanted = {case.architecture for case in compile_matrix.shipped()}
    assert wanted == set(compile_matrix.ARCHITECTURES) - {70}


@pytest.mark.parametrize(
    ("D", "Do", "dtype", "architecture"),
    [
        (256, 256, "float16", 100),  # many rows of a thread
        (100, 100, "float16", 90),  # more than 256 threads, which have 168 registers each
        (128, 16, "float16", 100),  # the same of several blocks
        (128, 1024, "float32", 90),  # many columns of a thread
    ],
)
def test_delta_backward_does_not_spill_where_registers_are_scarce(D, Do, dtype, architecture):
    """What it loads to see whether S may have grown needs more of them than a step."""
    pytest.importorskip("cupy")
    if architecture not in compile_matrix.architectures():
        pytest.skip(f"the installed NVRTC does not compile for sm_{architecture}")
    compiled = compile_matrix.compiled(compile_matrix.Case("delta_backward", D, Do, dtype, architecture))
    assert compiled.registers > 0
    assert compiled.spilled_bytes == 0
