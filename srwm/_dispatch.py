"""The ordered table of backends, and who takes an array: the first row that does not decline.

A backend is a module with these constants and functions; `call` is a `srwm._layouts.Call`:

    RUNS_ON_ARRAYS    whether it is no backend of addresses, but the reference, which takes arrays
    NEEDS_ALIGNMENT   whether entries must lie on whole entries: others are copied before
    unusable() -> why it cannot run on this machine, or None
    declines(device) -> why it does not take arrays of that kind of device, or None
    takes(operator) -> whether it has kernels of that operator
    saved_of(call) -> shape and dtype of the one array that forward saves for backward
    forward_of(call, save) -> run(operands, results, saved, num_threads, stream, empty)
    backward_of(call, incoming) -> run(operands, saved, incoming, gradients, num_threads, stream, empty)

`forward_of` and `backward_of` bind once what follows from layouts; a run takes addresses, 0 for what is
not given or not wanted, in the order of ``operator.flat``, of ``operator.results``, and of the operands
that have a gradient. `incoming` are the layouts, then the addresses, of the gradients of the results.
`num_threads` is a number, or a function that gives it. `stream` is a device's, and ``empty(bytes)`` gives
room there: an address, and what keeps it alive. A new backend is one more row. Modules are imported when
first asked for.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from srwm._version import __version__
from srwm.operators.spec import Operator

BACKENDS = {
    "cython": "srwm._cy.backend",
    "cuda": "srwm._raw_kernels.backend",
    "reference": "srwm.reference.backend",
}


@cache
def module(backend: str) -> Any:
    """The module of a backend, by its name in the table."""
    return importlib.import_module(BACKENDS[backend])


@cache
def _resolve(op: Operator, device: str, backend: str | None) -> tuple[Any, str]:
    """(backend module, "") or (None, why there is none)."""
    reasons = []
    for name in BACKENDS if backend is None else (backend,):
        found = module(name)
        lacks = None if found.takes(op) else f"it has no kernels of {op.label}"
        reason = found.declines(device) or lacks or found.unusable()
        if reason is None and backend is None and found.RUNS_ON_ARRAYS and _has_kernels(op):
            reason = "it is the readable definition, and runs only when asked for by name"
        if reason is None:
            return found, ""
        reasons.append(f"{name}: {reason}")
    if backend is not None:
        return None, f"backend {backend!r} cannot run: {reason}; ask for another or none"
    return None, f"no backend takes arrays on the {device} device here ({'; '.join(reasons)})"


def _has_kernels(op: Operator) -> bool:
    return any(not module(name).RUNS_ON_ARRAYS and module(name).takes(op) for name in BACKENDS)


def resolve(name: str, op: Operator, device: str, backend: str | None) -> Any:
    """The backend module for an operator's arrays on `device` (`srwm._plan.kind_of`), or the one asked for.

    Raises ValueError for a name that is not in the table, RuntimeError with the reason where the named
    backend, or every one, cannot run; messages begin with `name`. Nothing falls back silently: the
    reference runs by itself only an operator of which no backend has kernels.
    """
    if backend is not None and backend not in BACKENDS:
        known = ", ".join(BACKENDS)
        raise ValueError(f"{name}: backend: expected one of {known} or None, got {backend!r}; pass one")
    found, reason = _resolve(op, device, backend)
    if found is None:
        raise RuntimeError(f"{name}: {reason}")
    return found


def layout_of_saved() -> str:
    """A name of how what forward saves for backward is laid out, on every backend of this process."""
    try:
        instructions = module("cython").instruction_set()
    except ImportError:  # its kernels are not built
        instructions = "none"
    return f"{__version__} {instructions}"


# As torch.compiler.assume_constant_result, without torch: its compiler calls it, and does not trace it.
layout_of_saved._dynamo_marked_constant = True  # type: ignore[attr-defined]


def states() -> dict[str, str]:
    """Each backend's name and "usable", or why it is not."""
    reasons = {}
    for name in BACKENDS:
        try:
            importlib.import_module("srwm._cy")  # calls of every backend go through it
            reasons[name] = module(name).unusable() or "usable"
        except ImportError as missing:  # its kernels are not built
            reasons[name] = str(missing)
    return reasons
