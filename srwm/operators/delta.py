"""Fast weights under the delta rule: their description. Letters and steps: `srwm.reference.delta`."""

from __future__ import annotations

from srwm.operators.spec import Operand, Operator
from srwm.reference import delta as reference

DELTA = Operator(
    name="delta",
    operands=(
        Operand("q", "L D"),
        Operand("k", "L D"),
        Operand("v", "L Do"),
        Operand("beta", "L"),
        Operand("S", "D Do", "initial", optional=True),
        Operand("reset", "L", "flag", optional=True),
    ),
    output=Operand("y", "L Do"),
    reference=reference,
    source="Schlag, Irie, Schmidhuber, ICML 2021, equations 23 to 25; read after write as in Irie, Schlag, "
    "Csordás, Schmidhuber, NeurIPS 2021",
)
