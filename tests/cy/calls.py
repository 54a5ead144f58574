"""The CPU backend called by itself, and what it is to give: the reference, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import srwm
from srwm import _plan, _threads
from srwm._cy import backend, cpu, host
from srwm._layouts import Call, Layout
from srwm.operators.spec import Operator
from srwm.operators.table import OPERATORS
from srwm.reference import loop
from tests.cases import DeltaCase

SRWM, DELTA = OPERATORS["srwm"], OPERATORS["delta"]


def forget() -> None:
    """Let the backend look at the environment and its settings again."""
    for cached in (backend.instruction_set, backend.kernels, _threads._srwm_variable):
        cached.cache_clear()
    cpu.forget()
    _plan.forget()


def poisoned_room(size: int) -> tuple[int, Any]:
    """Working memory that is full of NaN wherever it was not written."""
    memory = np.full(size + 64, 0xFF, np.uint8)
    return -(-memory.ctypes.data // 64) * 64, memory


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all memory of NumPy's calls be full of NaN: what is not written shows."""

    def empty(shape: tuple[int, ...], dtype: str, like: Any) -> Any:
        kind = host.dtype_of(dtype, like)
        return np.full((*shape, kind.itemsize), 0xFF, np.uint8).view(kind)[..., 0]

    monkeypatch.setattr(host.Host, "empty", staticmethod(empty))
    monkeypatch.setattr(host.Host, "room", staticmethod(lambda like: poisoned_room))


def sizes_of(op: Operator, flat: Sequence[Any]) -> tuple[tuple[int, ...], dict[str, int]]:
    """The leading axes that all operands broadcast to, and the sizes of their letters."""
    leads, sizes = [], {}
    for operand, a in zip(op.flat, flat, strict=True):
        if a is not None:
            leads.append(a.shape[: a.ndim - operand.core])
            sizes |= dict(zip(operand.letters, a.shape[a.ndim - operand.core :], strict=True))
    sizes |= {derived.letter: derived.of(sizes) for derived in op.derived}
    return np.broadcast_shapes(*leads), sizes


def random_operands(
    op: Operator,
    lead: tuple[int, ...],
    sizes: dict[str, int],
    *,
    own: dict[str, tuple[int, ...]] | None = None,
    without: Sequence[str] = (),
    seed: int = 0,
) -> list[Any]:
    """Random operands in flat order, in float64, with the leading axes `lead`, or those that `own` says."""
    rng = np.random.default_rng(seed)
    flat = []
    for operand in op.flat:
        shape = operand.shape((own or {}).get(operand.name, lead), sizes)
        if operand.name in without:
            flat.append(None)
        elif operand.role == "flag":
            flat.append(rng.random(shape) < 0.15)
        elif operand.name == "beta":
            flat.append(rng.random(shape))
        else:
            flat.append(rng.standard_normal(shape) / (np.sqrt(sizes["D"]) if operand.name != "x" else 1))
    return flat


def random_gradients(op: Operator, lead: tuple[int, ...], sizes: dict[str, int]) -> tuple[Any, Any]:
    """Random gradients of the output and of the matrix after the last step, in float64."""
    rng = np.random.default_rng(7)
    return tuple(rng.standard_normal(result.shape(lead, sizes)) for result in op.results)


def as_dtype(arrays: Sequence[Any], dtype: Any) -> list[Any]:
    """The arrays, but for flags and None, rounded to a dtype."""
    return [a if a is None or a.dtype == bool else a.astype(dtype) for a in arrays]


def layout_of(a: Any) -> Layout | None:
    """What a plan knows of an array."""
    if a is None:
        return None
    return Layout(a.shape, a.strides, "bfloat16" if a.dtype == ml_dtypes.bfloat16 else a.dtype.name)


def call_of(op: Operator, flat: Sequence[Any]) -> Call:
    """What a plan knows of a call with these operands."""
    lead, sizes = sizes_of(op, flat)
    layouts = tuple(map(layout_of, flat))
    state = layouts[op.places("state")[0]] or layouts[0]
    return Call(op, layouts, lead, sizes, layouts[0].dtype, state.dtype, 0)


def address_of(a: Any) -> int:
    """The address of an array, 0 of None."""
    return 0 if a is None else a.ctypes.data


def new(shape: tuple[int, ...], like: Any) -> Any:
    """An array full of NaN, so that what is not written shows."""
    return np.full(shape, np.nan, like.dtype)


def options_of(num_threads: int | None) -> dict[str, Any]:
    """What a run on addresses is told beside them."""
    return {"num_threads": num_threads or _threads.default_threads, "stream": 0, "empty": poisoned_room}


def save(op: Operator, flat: Sequence[Any], *, num_threads: int | None = None) -> tuple[Any, ...]:
    """The output, the matrix after the last step, and what forward saved for backward."""
    call, state = call_of(op, flat), flat[op.places("state")[0]]
    y_shape, after_shape = (of.shape(call.lead, call.sizes) for of in op.results)
    y, after = new(y_shape, flat[0]), new(after_shape, flat[0] if state is None else state)
    shape, dtype = backend.saved_of(call)
    saved = np.full(shape, np.nan, dtype)
    at = tuple(map(address_of, flat))
    run_forward = backend.forward_of(call, True)
    run_forward(at, (address_of(y), address_of(after)), address_of(saved), **options_of(num_threads))
    return y, after, saved


def pull_back(
    op: Operator,
    flat: Sequence[Any],
    saved: Any,
    gradients: Sequence[Any],
    *,
    num_threads: int | None = None,
    wanted: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The gradients of the operands by name, but for those that are not given, or not among `wanted`."""
    call = call_of(op, flat)
    names = [op.flat[i].name for i in op.differentiable]
    results = [
        None
        if flat[i] is None or (wanted is not None and name not in wanted)
        else new(flat[i].shape, flat[i])
        for i, name in zip(op.differentiable, names, strict=True)
    ]
    run_backward = backend.backward_of(call, tuple(map(layout_of, gradients)))
    at, into = tuple(map(address_of, flat)), tuple(map(address_of, results))
    incoming = tuple(map(address_of, gradients))
    run_backward(at, address_of(saved), incoming, into, **options_of(num_threads))
    return {f"g_{name}": g for name, g in zip(names, results, strict=True) if g is not None}


def run(op: Operator, flat: Sequence[Any], gradients: Sequence[Any], **options: Any) -> dict[str, Any]:
    """All results of the CPU backend by name."""
    y, after, saved = save(op, flat, **options)
    return {"y": y, "after": after} | pull_back(op, flat, saved, gradients, **options)


def reference(op: Operator, flat: Sequence[Any], gradients: Sequence[Any]) -> dict[str, Any]:
    """All results of the reference by name, in the operands' precision."""
    lead, sizes = sizes_of(op, flat)
    y, after, saved = loop.forward(op, flat, lead, sizes, True)
    results = loop.backward(op, flat, lead, sizes, saved, gradients)
    names = (op.flat[i].name for i in op.differentiable)
    return {"y": y, "after": after} | {
        f"g_{name}": g for name, g in zip(names, results, strict=True) if g is not None
    }


def run_delta(case: DeltaCase, **options: Any) -> dict[str, Any]:
    """All results of a case of the delta rule by name, from `srwm.delta.vjp`."""
    operands = (case.q, case.k, case.v, case.beta, case.S)
    (y, S_next), pullback = srwm.delta.vjp(*operands, reset=case.reset, **options)
    names = ("gq", "gk", "gv", "gbeta", "gS")
    gradients = dict(zip(names, pullback(case.grad_y, case.grad_S_next), strict=True))
    return {"y": y, "S_next": S_next} | {name: g for name, g in gradients.items() if g is not None}
