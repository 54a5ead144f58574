"""The CPU backend called by itself, and what it is to give: the reference, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from srwm._cy import backend
from srwm.operators.spec import Operator
from srwm.operators.table import OPERATORS
from srwm.reference import loop

SRWM, DELTA = OPERATORS["srwm"], OPERATORS["delta"]
_KERNEL = {"srwm": "", "delta": "delta_"}


def forget() -> None:
    """Let the backend look at the environment and its settings again."""
    for cached in (
        backend.instruction_set,
        backend.kernels,
        backend._default_threads,
        backend._layouts,
        backend._plan,
        backend._gathering,
    ):
        cached.cache_clear()


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


def save(op: Operator, flat: Sequence[Any], **options: Any) -> tuple[Any, ...]:
    """The output, the matrix after the last step, and what forward saved for backward."""
    lead, _ = sizes_of(op, flat)
    arrays, state = _without_state(op, flat)
    forward = getattr(backend, f"{_KERNEL[op.name]}forward")
    return forward(*arrays, lead, keep=True, state=state, **options)


def pull_back(
    op: Operator, flat: Sequence[Any], saved: Any, gradients: Sequence[Any], **options: Any
) -> dict[str, Any]:
    """The gradients of the operands by name, but for those that are not given."""
    lead, _ = sizes_of(op, flat)
    arrays, state = _without_state(op, flat)
    backward = getattr(backend, f"{_KERNEL[op.name]}backward")
    results = backward(*arrays, lead, saved, *gradients, state=state, **options)
    names = [operand.name for operand in op.flat if operand.role not in ("flag", "state")]
    names += [] if state is None else ["state"]
    return {f"g_{name}": g for name, g in zip(names, results, strict=True) if g is not None}


def run(op: Operator, flat: Sequence[Any], gradients: Sequence[Any], **options: Any) -> dict[str, Any]:
    """All results of the CPU backend by name."""
    y, after, saved = save(op, flat, **options)
    return {"y": y, "after": after} | pull_back(op, flat, saved, gradients, **options)


def reference(op: Operator, flat: Sequence[Any], gradients: Sequence[Any]) -> dict[str, Any]:
    """All results of the reference by name, in the operands' precision."""
    lead, sizes = sizes_of(op, flat)
    y, after, saved = loop.forward(op, flat, lead, sizes, save=True)
    results = loop.backward(op, flat, lead, sizes, saved, gradients[0], gradients[1:])
    names = (op.flat[i].name for i in op.differentiable)
    return {"y": y, "after": after} | {
        f"g_{name}": g for name, g in zip(names, results, strict=True) if g is not None
    }


def _without_state(op: Operator, flat: Sequence[Any]) -> tuple[list[Any], Any]:
    place = op.places("state")[0]
    return [a for i, a in enumerate(flat) if i != place], flat[place]
