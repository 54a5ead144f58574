"""Files that are damaged at random, the same ones every time."""

import random
from collections.abc import Iterator


def damaged(whole: bytes, times: int, most: int, within: int | None = None) -> Iterator[bytes]:
    """The bytes with one wrong, or with ``most``, among the first ``within``."""
    generator = random.Random(0)
    for _ in range(times):
        content = bytearray(whole)
        for _ in range(generator.choice([1, 1, most])):
            content[generator.randrange(min(len(whole), within or len(whole)))] = generator.randrange(256)
        yield bytes(content)
