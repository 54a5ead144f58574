"""Fast weights under the delta rule: `forward`, `vjp` and `backward`."""

from srwm.operators.delta import backward, forward, vjp

__all__ = ["backward", "forward", "vjp"]
