"""The reference as a backend: it runs every operator on arrays of any library, slowly."""

from __future__ import annotations

from typing import Any

from srwm._layouts import real_of
from srwm.operators.spec import Operator
from srwm.reference.loop import saved_shape

RUNS_ON_ARRAYS = True
NEEDS_ALIGNMENT = False


def unusable() -> str | None:
    """Why this backend cannot run here: never."""
    return None


def declines(device: str) -> str | None:
    """Why this backend does not take arrays of `device`: never."""
    del device
    return None


def takes(op: Operator) -> bool:
    """Whether it has this operator: every operator has a reference."""
    del op
    return True


def saved_of(call: Any) -> tuple[tuple[Any, ...], str]:
    """Shape and dtype of the data that forward saves for backward."""
    return saved_shape(call.operator, call.lead, call.sizes), real_of(call.dtype)
