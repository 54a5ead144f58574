"""The learning rate over a phase of training."""

from __future__ import annotations

import math


def schedule(share: float, warmup: float, final: float) -> float:
    """Learning rate relative to its peak when ``share`` (0 to 1) of the training is done.

    It rises in a straight line until ``warmup`` and falls by half a cosine to ``final``.
    """
    if share < warmup:
        return max(share / warmup, 0.01)  # not 0, or the first step would be lost
    falling = (share - warmup) / max(1 - warmup, 1e-9)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(falling, 1.0)))
