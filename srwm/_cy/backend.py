"""The CPU backend: picks the kernels for this processor. cpu.pyx binds calls of any operator to them.

The operators that have kernels are those of srwm/_cy/kernels.pxi. Kernels exist for each instruction set,
real type and layout. The best instruction set of this processor is used; the variable SRWM_INSTRUCTION_SET
(baseline, avx2, avx512) selects one by name.

Sequences are distributed among threads (srwm/_threads.py). If there are fewer sequences than threads and
their heads are large, several threads share the columns of one sequence. The last bits of results depend on
how many do, but never on timing. If there are many small heads, enough for all threads, sequences are
computed side by side. The last bits depend on that too, and on whether another sequence in the same vector
has a reset or a state that grows.
"""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import Any

from srwm._cy import cpu, processor
from srwm._layouts import Call, Layout, real_of
from srwm._threads import threads_described
from srwm.operators.spec import Operator

RUNS_ON_ARRAYS = False
NEEDS_ALIGNMENT = False

INSTRUCTION_SETS = ("avx512", "avx2", "baseline")  # best first


def unusable() -> str | None:
    """Why this backend cannot run here."""
    try:
        kernels("float32", "one")
    except ImportError as missing:
        return f"its extension modules are not built ({missing}); reinstall srwm"
    return None


def declines(device: str) -> str | None:
    """Why this backend does not take arrays of `device` ("cpu", "cuda", "rocm")."""
    return None if device == "cpu" else f"it takes CPU arrays, these are on the {device} device"


def takes(operator: Operator) -> bool:
    """Whether there are kernels for this operator."""
    return bool(kernels("float32", "one").is_registered(operator.name))


def configuration() -> dict[str, str]:
    """The settings of this backend, for `show_config`."""
    asked = " (asked for by SRWM_INSTRUCTION_SET)" if os.environ.get("SRWM_INSTRUCTION_SET") else ""
    return {
        "instruction set": instruction_set() + asked,
        "OpenMP": "yes" if processor.has_openmp() else "no, the kernels were built without",
        "threads": threads_described() if processor.has_openmp() else "1, for want of OpenMP",
    }


@cache
def instruction_set() -> str:
    """The instruction set whose kernels are used."""
    asked = os.environ.get("SRWM_INSTRUCTION_SET")
    if not asked:
        return next(name for name in INSTRUCTION_SETS if processor.has(name))
    if asked not in INSTRUCTION_SETS or not processor.has(asked):
        usable = ", ".join(name for name in INSTRUCTION_SETS if processor.has(name))
        raise ValueError(f"SRWM_INSTRUCTION_SET: expected one of {usable} here, got {asked!r}; unset it")
    return asked


@cache
def kernels(real: str, layout: str) -> Any:
    """The kernel module for computation in `real`, with sequences in the layout "one" or "many"."""
    real_type = {"float32": "f32", "float64": "f64"}[real]
    return importlib.import_module(f"srwm._cy.{instruction_set()}_{real_type}_{layout}")


def saved_of(call: Call) -> tuple[tuple[int, ...], str]:
    """Shape (*lead, K) and dtype of the one array that forward saves for backward.

    Its content is private to this backend; K depends on sizes and dtype, and on the processor.
    """
    return (*call.lead, cpu.entries_saved(kernels, call)), real_of(call.dtype)


def forward_of(call: Call, save: bool) -> cpu.Forward:
    """The forward pass of a call, to be run on addresses; `save`: a backward pass may follow."""
    return cpu.Forward(kernels, call, save)


def backward_of(call: Call, incoming: tuple[Layout | None, ...]) -> cpu.Backward:
    """The backward pass of a call, for gradients of its results with these layouts, None for zero."""
    return cpu.Backward(kernels, call, incoming)
