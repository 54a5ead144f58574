"""The table of backends: who takes what, and the reasons of those that do not."""

from __future__ import annotations

import numpy as np
import pytest

from srwm import _dispatch, _reference
from srwm._cy import backend as cython_backend


@pytest.fixture(autouse=True)
def fresh_table(monkeypatch):
    """The package's own table, nothing remembered from other tests, or for them."""
    monkeypatch.delitem(_dispatch.BACKENDS, "cuda-on-host", raising=False)
    _dispatch._resolve.cache_clear()
    yield
    _dispatch._resolve.cache_clear()


def test_cpu_arrays_go_to_cython():
    assert _dispatch.resolve("op", "cpu", None) is cython_backend


def test_the_reference_runs_only_when_asked_for():
    assert _dispatch.resolve("op", "cpu", "reference") is _reference


def test_nothing_falls_back_silently(monkeypatch):
    monkeypatch.setattr(cython_backend, "unusable", lambda: "its kernels are on holiday")
    with pytest.raises(
        RuntimeError, match=r"op: no backend takes arrays on the cpu here \(cython: its kernels"
    ):
        _dispatch.resolve("op", "cpu", None)
    with pytest.raises(RuntimeError, match=r"op: backend 'cython' cannot run: its kernels are on holiday"):
        _dispatch.resolve("op", "cpu", "cython")


def test_a_backend_asked_for_does_not_take_arrays_from_elsewhere():
    with pytest.raises(
        RuntimeError,
        match=r"backend 'cython' cannot run: it takes CPU arrays, these are on the cuda",
    ):
        _dispatch.resolve("op", "cuda", "cython")


def test_modules_not_built_are_said_to_be(monkeypatch):
    def missing(real, layout):
        raise ImportError(f"No module named 'srwm._cy.avx2_f32_{layout}'")

    monkeypatch.setattr(cython_backend, "kernels", missing)
    assert "not built" in cython_backend.unusable()
    assert "reinstall srwm" in cython_backend.unusable()


def test_arrays_that_are_no_tensors_have_no_front_end():
    assert _dispatch.front_end_of(np.ndarray) is None
    assert _dispatch.front_end_of(list) is None
