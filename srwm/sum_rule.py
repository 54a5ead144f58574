"""Fast weights under the sum rule, linear attention: `forward`, `vjp` and `backward`."""

from srwm.operators.sum_rule import backward, forward, vjp

__all__ = ["backward", "forward", "vjp"]
