"""The Recurrent Delta Net: `forward`, `vjp` and `backward`."""

from srwm.operators.recurrent_delta import backward, forward, vjp

__all__ = ["backward", "forward", "vjp"]
