"""How long the parts of a training take."""

from __future__ import annotations

import time


class Clock:
    """The time that goes by between two looks at it.

    Attributes
    ----------
    shown : when the progress bar was last brought up to date; the loop's own.
    """

    def __init__(self) -> None:
        self.shown = self.last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        return seconds
