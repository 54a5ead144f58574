"""A memory that modifies itself, with retention: `forward`, `vjp` and `backward`."""

from srwm.operators.self_modifying import backward, forward, vjp

__all__ = ["backward", "forward", "vjp"]
