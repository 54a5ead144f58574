"""Files that are damaged at random, the same ones every time."""

import random
from collections.abc import Callable
from pathlib import Path


def messages_of(
    path: Path,
    whole: bytes,
    times: int,
    most: int,
    read: Callable[[], object],
    within: int | None = None,
) -> list[str]:
    """What is said of a file with a byte wrong, or ``most``, among the first ``within``.

    All errors are ValueErrors that name it. Some damages cannot be told from other content.
    """
    generator, messages = random.Random(0), []
    for _ in range(times):
        content = bytearray(whole)
        for _ in range(generator.choice([1, 1, most])):
            content[generator.randrange(min(len(whole), within or len(whole)))] = generator.randrange(256)
        path.write_bytes(content)
        try:
            read()
        except ValueError as error:
            messages.append(str(error))
            assert str(path) in messages[-1]
    return messages
