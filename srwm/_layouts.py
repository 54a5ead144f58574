"""How arrays lie in memory, and what is known of a call but their addresses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from srwm.operators.spec import Operator


class Layout(NamedTuple):
    """One array, but for its address."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in bytes
    dtype: str


class Call(NamedTuple):
    """What is known of a call of an operator: all but addresses and options."""

    operator: Operator
    operands: tuple[Layout | None, ...]  # in the order of ``operator.flat``; None where not given
    lead: tuple[int, ...]  # the broadcast of their leading axes
    sizes: Mapping[str, int]  # of the letters of their axes
    dtype: str  # of the data operands and of the output
    state_dtype: str  # of the matrices after the last step, and of their gradients
    device: int  # its index

    @property
    def result_dtypes(self) -> tuple[str, ...]:
        """The dtypes of ``operator.results``."""
        return (self.dtype, *(self.state_dtype for _ in self.operator.states))
