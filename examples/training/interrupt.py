"""Ctrl-C that waits for the end of a training step."""

from __future__ import annotations

import signal
import threading
from types import FrameType

INTERRUPTED = 130  # the shell's exit status for a program ended by Ctrl-C


class StopRequest:
    """Within the block, the first SIGINT or SIGTERM sets `made`; the second interrupts at once.

    A step cut in the middle would leave weights and optimiser in different places, so the loop
    looks at `made` between steps. Outside the main thread, where Python handles no signals, the
    block changes nothing.
    """

    def __init__(self) -> None:
        self.made = False
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.made:
            raise KeyboardInterrupt
        self.made = True
