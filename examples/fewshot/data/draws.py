"""Random draws that are a function of a seed and an index alone.

Item ``i`` of a stream owns a fixed range of the counters of a counter-based generator (Philox), and
consecutive items are consecutive ranges, so one call draws a whole batch. All arithmetic after it is
elementwise with exactly rounded operations, whose results depend neither on the batch nor on the
machine.
"""

import numpy as np


def stream_key(seed: int, stream: int) -> np.ndarray:
    """The Philox key of a stream; two streams of one seed share no numbers."""
    if seed < 0:
        raise ValueError(f"stream_key: seed (--seed) must be non-negative, got {seed}")
    return np.random.SeedSequence(seed, spawn_key=(stream,)).generate_state(2, np.uint64)


def uniform_rows(key: np.ndarray, first: int, size: int, count: int) -> np.ndarray:
    """(size, count) float64 in [0, 1); row r depends on the key and on ``first + r`` alone."""
    blocks = -(-count // 4)  # a Philox counter yields four numbers; a row owns whole counters
    generator = np.random.Generator(np.random.Philox(counter=first * blocks, key=key))
    return generator.random((size, 4 * blocks))[:, :count]


def below(numbers: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Integers in [0, bound) from numbers in [0, 1)."""
    return (numbers * bound).astype(np.int64)


def skip(draws: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The ``draws``-th of the integers that are not ``taken``; taken (..., T) for draws (...)."""
    for one in np.moveaxis(np.sort(taken, axis=-1), -1, 0):
        draws = draws + (draws >= one)
    return draws


def without_replacement(numbers: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Ordered draws without replacement: numbers (..., T), bound (...) -> (..., T) int64."""
    drawn = np.empty(numbers.shape, np.int64)
    for t in range(numbers.shape[-1]):
        drawn[..., t] = skip(below(numbers[..., t], bound - t), drawn[..., :t])
    return drawn
