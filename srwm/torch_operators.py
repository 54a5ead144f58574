"""Importing this module registers all operators with torch: `torch.ops.srwm.forward` and so on.

Otherwise an operator is registered when it is first called. A program that loads an exported program, by
`torch.export.load` or as a package of AOTInductor, without calling an operator before, must import this
module first.

    >>> import torch
    >>> import srwm.torch_operators
    >>> torch.ops.srwm.delta_forward
    <OpOverloadPacket(op='srwm.delta_forward')>
"""

from srwm._torch_operator import torch_operator
from srwm.operators.table import OPERATORS

for _operator in OPERATORS.values():
    torch_operator(_operator)
