"""How long the parts of a training take."""

import time


class Clock:
    """The time that goes by between two looks at it."""

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since it was last asked."""
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        return seconds
