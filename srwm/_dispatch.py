"""The ordered table of backends, and who takes an array: the first row that does not decline.

A backend is a module with this constant and these functions:

    BFLOAT16_AS_INT16 -> whether it takes int16 arrays as ones of bfloat16
    unusable() -> why it cannot run on this machine, or None
    declines(device) -> why it does not take arrays of that device, or None
    forward(x, W, reset, lead, *, keep, return_state, num_threads) -> y, W_next or None, kept or None
    kept_shape(dtype, lead, L, D, Do) -> shape of kept, the one array that forward keeps for backward
    backward(x, W, reset, lead, kept, grad_y, grad_W_next, *, num_threads) -> gx, gW
    delta_forward(q, k, v, beta, S, reset, lead, *, keep, return_state, num_threads)
        -> y, S_next or None, kept or None
    delta_kept_shape(dtype, lead, L, D, Do) -> shape of kept
    delta_backward(q, k, v, beta, S, reset, lead, kept, grad_y, grad_S_next, *, num_threads)
        -> gq, gk, gv, gbeta, gS

The first three of the six are the self-referential weight matrix (srwm/_reference.py), the others the
delta rule (srwm/_delta_reference.py). `lead` is the broadcast of all leading axes; reset and grad_*_next
may be None, S may not. A new backend is one more row. Modules are imported when first asked for.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any, NamedTuple

BACKENDS = {
    "cython": "srwm._cy.backend",
    "cuda": "srwm._raw_kernels.backend",
    "reference": "srwm._reference",
}

# Array types with operators of their own around the backends, by the name of the type's package.
ARRAY_FRONT_ENDS = {"torch": "srwm.autograd"}


@cache
def _module(path: str) -> Any:
    return importlib.import_module(path)


class _NotBuilt(NamedTuple):
    """What stands for a backend whose module cannot be imported: srwm/_cy/__init__.py says why."""

    reason: str

    def unusable(self) -> str:
        return self.reason


def _backend(name: str) -> Any:
    try:
        return _module(BACKENDS[name])
    except ImportError as missing:
        return _NotBuilt(str(missing))


# Their modules, once needed.
front_ends: dict[str, Any] = {}


def front_end_of(array_type: type) -> str | None:
    """The key in `front_ends` of the operators for arrays of this type; None: NumPy and DLPack."""
    for base in array_type.__mro__:
        package = base.__module__.partition(".")[0]
        if package in ARRAY_FRONT_ENDS:
            front_ends[package] = _module(ARRAY_FRONT_ENDS[package])
            return package
    return None


# torch.compiler.assume_constant_result, without importing torch: torch.compile calls it, not traces.
front_end_of._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _resolve(device: str, backend: str | None) -> tuple[Any, str]:
    """(backend module, "") or (None, why there is none)."""
    if backend is not None:
        module = _backend(backend)
        reason = module.unusable() or (None if backend == "reference" else module.declines(device))
        return (module, "") if reason is None else (None, f"backend {backend!r} cannot run: {reason}")
    reasons = []
    for name in BACKENDS:
        module = _backend(name)
        if isinstance(module, _NotBuilt):
            return None, module.reason
        reason = module.declines(device) or module.unusable()
        if reason is None:
            return module, ""
        reasons.append(f"{name}: {reason}")
    return None, f"no backend takes arrays on the {device} here ({'; '.join(reasons)})"


def resolve(op: str, device: str, backend: str | None) -> Any:
    """The backend module for arrays on `device` ("cpu", "cuda"), or the one asked for by name.

    Raises ValueError for a name that is not in the table, RuntimeError with the reason where the
    named backend, or every one, cannot run. Nothing falls back silently.
    """
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"{op}: backend: expected one of {', '.join(BACKENDS)} or None, got {backend!r}")
    module, reason = _resolve(device, backend)
    if module is None:
        raise RuntimeError(f"{op}: {reason}")
    return module


def states() -> dict[str, str]:
    """Each backend's name and "usable", or why it is not."""
    return {name: _backend(name).unusable() or "usable" for name in BACKENDS}


def cpu_configuration() -> dict[str, str]:
    """What the CPU backend computes with, by what it is; nothing where the backend cannot run."""
    module = _backend("cython")
    return {} if module.unusable() else module.configuration()
