"""The table of backends: who takes what, and the reasons of those that do not."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from srwm import _call, _dispatch, _numpy
from srwm.reference import backend as reference
from tests.operators import ROWS, SRWM, each_operator, random_case


@pytest.fixture(autouse=True)
def fresh_table(monkeypatch):
    """The package's own table, nothing remembered from other tests, or for them."""
    monkeypatch.delitem(_dispatch.BACKENDS, "cuda-on-host", raising=False)
    _dispatch._resolve.cache_clear()
    yield
    _dispatch._resolve.cache_clear()


@pytest.fixture
def kernels(monkeypatch):
    """A backend of the CPU in the place of "cython", which can be changed."""
    backend = SimpleNamespace(
        RUNS_ON_ARRAYS=False,
        NEEDS_ALIGNMENT=False,
        unusable=lambda: None,
        declines=lambda device: (
            None if device == "cpu" else f"it takes CPU arrays, these are on the {device} device"
        ),
        takes=lambda op: True,
    )
    found = {"cython": backend}
    original = _dispatch.module
    monkeypatch.setattr(_dispatch, "module", lambda name: found.get(name) or original(name))
    return backend


@each_operator
def test_cpu_arrays_go_to_the_kernels(row, kernels):
    assert _dispatch.resolve("op", row.op, "cpu", None) is kernels


@each_operator
def test_the_reference_runs_only_when_asked_for(row, kernels):
    assert _dispatch.resolve("op", row.op, "cpu", "reference") is reference
    assert _dispatch.resolve("op", row.op, "cuda", "reference") is reference
    kernels.unusable = lambda: "its kernels are on holiday"
    with pytest.raises(
        RuntimeError,
        match=r"^op: no backend takes arrays on the cpu device here \(cython: its kernels are on holiday; ",
    ) as refused:
        _dispatch.resolve("op", row.op, "cpu", None)
    assert "reference: it is the readable definition, and runs only when asked for by name" in str(
        refused.value
    )
    with pytest.raises(
        RuntimeError,
        match=r"^op: backend 'cython' cannot run: its kernels are on holiday; ask for",
    ):
        _dispatch.resolve("op", row.op, "cpu", "cython")


def test_an_operator_without_kernels_runs_by_its_reference(kernels):
    kernels.takes = lambda op: False

    class Other:
        label, name = "srwm.other", "other"

    other = Other()
    assert _dispatch.resolve("op", other, "cpu", None) is reference
    with pytest.raises(
        RuntimeError,
        match=r"^op: backend 'cython' cannot run: it has no kernels of srwm\.other; ask for",
    ):
        _dispatch.resolve("op", other, "cpu", "cython")


def test_a_backend_asked_for_does_not_take_arrays_from_elsewhere(kernels):
    message = r"backend 'cython' cannot run: it takes CPU arrays, these are on the cuda"
    with pytest.raises(RuntimeError, match=message):
        _dispatch.resolve("op", SRWM.op, "cuda", "cython")


def test_names_that_are_not_in_the_table():
    for name in ("cupy", "", "Cython", 3):
        got = re.escape(repr(name))
        message = rf"^op: backend: expected one of cython, cuda, reference or None, got {got}; pass one$"
        with pytest.raises(ValueError, match=message):
            _dispatch.resolve("op", SRWM.op, "cpu", name)


def test_what_was_resolved_is_remembered(kernels):
    first = _dispatch.resolve("op", SRWM.op, "cpu", None)
    kernels.unusable = lambda: "asked again"
    assert _dispatch.resolve("op", SRWM.op, "cpu", None) is first


def test_states_name_every_backend(kernels):
    kernels.unusable = lambda: "its kernels are on holiday"
    states = _dispatch.states()
    assert list(states) == list(_dispatch.BACKENDS)
    assert states["cython"] == "its kernels are on holiday"
    assert states["reference"] == "usable"


def test_every_backend_has_what_the_table_says():
    for name in _dispatch.BACKENDS:
        backend = _dispatch.module(name)
        assert isinstance(backend.RUNS_ON_ARRAYS, bool)
        assert isinstance(backend.NEEDS_ALIGNMENT, bool)
        assert all(isinstance(backend.takes(row.op), bool) for row in ROWS)
        assert callable(backend.saved_of)
        assert backend.RUNS_ON_ARRAYS or (callable(backend.forward_of) and callable(backend.backward_of))


def test_front_ends_by_array_type():
    torch = pytest.importorskip("torch")

    class Parameters(torch.nn.Parameter):
        pass

    class Array:
        pass

    assert _call.front_end_of(torch.Tensor).__name__ == "srwm._torch"
    assert _call.front_end_of(torch.nn.Parameter).__name__ == "srwm._torch"
    assert _call.front_end_of(Parameters).__name__ == "srwm._torch"
    for kind in (np.ndarray, Array, list, type(None)):
        assert _call.front_end_of(kind) is _numpy


@each_operator
def test_a_front_end_is_chosen_by_the_first_operand_alone(row):
    torch = pytest.importorskip("torch")

    case = random_case(row)
    mixed = (torch.from_numpy(case.flat[0]), *case.flat[1:])
    with pytest.raises(TypeError, match="expected the array type of"):
        row.forward(mixed)
