"""What is known of a call but addresses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from srwm.operators.spec import Operator


class Layout(NamedTuple):
    """One array, without its address."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in bytes
    dtype: str  # "float16", "bfloat16", "float32", "float64" or "bool"


class Call(NamedTuple):
    """All that is known of a call but addresses; checked."""

    operator: Operator
    operands: tuple[Layout | None, ...]  # in the operator's flat order, None where not given
    lead: tuple[int, ...]  # the broadcast of all leading axes
    sizes: Mapping[str, int]  # of the letters of the axes
    dtype: str  # of the data operands and of y
    state_dtype: str  # of the returned states and of the gradients that come for them
    device: int
