"""What srwm is compared with. The tests take their independent truth, the PyTorch loop, from here too."""

from benchmarks.peers.eager import eager_forward

__all__ = ["eager_forward"]
