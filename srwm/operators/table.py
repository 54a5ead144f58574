"""All operators of the package, by name."""

from __future__ import annotations

from srwm.operators.delta import DELTA
from srwm.operators.spec import Operator
from srwm.operators.srwm import SRWM

OPERATORS: dict[str, Operator] = {op.name: op for op in (SRWM, DELTA)}
