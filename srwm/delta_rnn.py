"""The Delta RNN: `forward`, `vjp` and `backward`."""

from srwm.operators.delta_rnn import backward, forward, vjp

__all__ = ["backward", "forward", "vjp"]
