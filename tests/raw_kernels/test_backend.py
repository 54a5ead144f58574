"""Why the CUDA backend cannot run: what is missing is named, and what to install."""

from __future__ import annotations

import sys
from types import SimpleNamespace

from srwm._raw_kernels import backend


def test_without_cupy_the_extras_of_both_versions_of_cuda_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    reason = backend.unusable.__wrapped__()
    assert reason is not None
    assert reason.startswith("CuPy cannot be imported (")
    assert reason.endswith("; install srwm[cuda12] or srwm[cuda13]")


def test_a_cupy_for_rocm_is_refused(monkeypatch):
    runtime = SimpleNamespace(is_hip=True, getDeviceCount=lambda: 1)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
    reason = backend.unusable.__wrapped__()
    assert reason == "CuPy is built for ROCm, and these kernels run on CUDA alone; use CPU arrays"
