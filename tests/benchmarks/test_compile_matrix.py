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
