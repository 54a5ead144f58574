"""The self-referential weight matrix: its description. Letters and steps: `srwm.reference.srwm`."""

from __future__ import annotations

from srwm.operators.spec import Derived, Operand, Operator
from srwm.reference import srwm as reference

SRWM = Operator(
    name="srwm",
    operands=(
        Operand("x", "L D"),
        Operand("W", "D M", "initial"),
        Operand("reset", "L", "flag", optional=True),
    ),
    output=Operand("y", "L Do"),
    reference=reference,
    derived=(
        Derived(
            letter="Do",
            of=lambda sizes: sizes["M"] - 2 * sizes["D"] - 4,
            operand="W",
            expected="M = Do + 2 D + 4 columns [y: Do | q: D | k: D | beta: 4]",
            remedy="build W with srwm.pack",
        ),
    ),
    source="Irie, Schlag, Csordás, Schmidhuber, ICML 2022, equations 5 to 8",
)
