"""The backends that one suite compares, each called as `srwm` is, on NumPy arrays."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import srwm
from srwm import _dispatch

_dispatch.BACKENDS["cuda-on-host"] = "tests.cuda_host.backend"


class Backend:
    """`srwm.vjp` on one backend; skips the test, saying why, where that cannot run."""

    def __init__(self, name: str) -> None:
        self.name = name
        # As the module of that name.
        self.delta = SimpleNamespace(vjp=lambda *a, **options: self._on_arrays(srwm.delta.vjp, a, options))

    def __repr__(self) -> str:
        return self.name

    def vjp(self, *operands: Any, **options: Any) -> tuple[Any, Callable[..., Any]]:
        """As `srwm.vjp`."""
        return self._on_arrays(srwm.vjp, operands, options)

    def _on_arrays(self, vjp: Callable[..., Any], operands: Any, options: Any) -> Any:
        reason = _dispatch.states()[self.name] if self.name in _dispatch.BACKENDS else ""
        if reason != "usable":
            if self.name == "cuda-on-host" and "CI" in os.environ:
                pytest.fail(f"CI is to run the CUDA kernels on the CPU: {reason}")
            pytest.skip(reason)  # a machine without a device, or without a compiler, runs the other rows
        options = {name: self._to(a) for name, a in options.items()}
        results, pullback = vjp(*map(self._to, operands), backend=self.name, **options)

        def pull_back(*gradients: Any) -> Any:
            return tuple(map(self._back, pullback(*map(self._to, gradients))))

        return tuple(map(self._back, results)), pull_back

    def _to(self, a: Any) -> Any:
        if self.name != "cuda" or not isinstance(a, np.ndarray):
            return a
        import cupy

        return cupy.asarray(a)

    def _back(self, a: Any) -> Any:
        return a.get() if self.name == "cuda" and a is not None else a


REFERENCE, CYTHON, CUDA_ON_HOST, CUDA = map(Backend, ("reference", "cython", "cuda-on-host", "cuda"))
each_backend = pytest.mark.parametrize(
    "backend",
    [REFERENCE, CYTHON, CUDA_ON_HOST, pytest.param(CUDA, marks=pytest.mark.gpu)],
    ids=repr,
)
