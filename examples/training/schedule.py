"""The learning rate over a phase of training."""

import math


def cosine(share: float, warmup: float, final: float) -> float:
    """Learning rate relative to its peak when ``share`` (0 to 1) of the training is done.

    It rises in a straight line until ``warmup`` and falls by half a cosine to ``final``.
    """
    if share < warmup:
        return max(share / warmup, 0.01)  # not 0, or the first step would be lost
    falling = (share - warmup) / max(1 - warmup, 1e-9)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(falling, 1.0)))


def published(step: int, d_model: int, warmup_steps: int) -> float:
    """Learning rate of step ``step``, the first being 1, of the paper's code and of the Transformer.

    It rises in a straight line until ``warmup_steps`` and falls by the square root of the step
    (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, equation 3).

    >>> [round(published(step, 256, 5000), 9) for step in (1, 5000, 100_000)]
    [1.77e-07, 0.000883883, 0.000197642]
    """
    return d_model**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)
