"""Who collects unrolls for the learner: in its place, or beside it while it computes.

Beside it is a thread of the learner's process. What takes time, convolutions, the operator's kernels and
environments in C++, leaves Python's lock to others, so two cores are kept busy; and an unroll, some 20 MB
of frames, needs neither be copied nor sent, as between processes.

The run stays a function of its seed: an unroll is played to its end with the weights that the learner
had when it was started, copied then, whenever the actor gets to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from .agent import Agent
from .rollouts import Collector, Unroll


class Actor:
    """Collects an unroll when it is asked for, or beside the learner from `start` on.

    No thread can be ended from outside: `close` and the program's end wait for a game that hangs in a step,
    until they are interrupted too.

    Parameters
    ----------
    learner : the agent whose weights are acted with, as they are at every `start`.
    collector : plays with an agent of its own, the same in its parts.
    beside : collect while the learner computes.
    """

    def __init__(self, learner: Agent, collector: Collector, *, beside: bool) -> None:
        self.learner, self.collector = learner, collector
        # All that the unroll begun last depends on: its number, the weights, the environments.
        self.snapshot: dict[str, Any] | None = None
        self._number: int | None = None
        self._closing = threading.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="actor") if beside else None

    def start(self, number: int) -> None:
        """Begin unroll ``number`` with the learner's weights as they are now."""
        if self._number is not None:
            raise RuntimeError(f"start: unroll {self._number} must be finished before {number} is started")
        self._begin(number, self.learner.state_dict())

    def resume(self, snapshot: dict[str, Any], environments: list[dict[str, Any]] | None) -> None:
        """Begin the unroll of a `snapshot` again, with its weights; without games, where these stand."""
        if environments is not None:
            self.collector.load_state(environments)
        self._begin(snapshot["number"], snapshot["weights"])

    def _begin(self, number: int, weights: dict[str, Any]) -> None:
        acting = self.collector.agent
        acting.load_state_dict(weights)
        # The weights are not copied: until `start` they stay.
        self.snapshot = {
            "number": number,
            "weights": acting.state_dict(),
            "environments": self.collector.state(),
        }
        self._number = number
        collect = partial(self.collector.collect, number, lambda: not self._closing.is_set())
        self._wait: Callable[[], Unroll | None] = (
            self._executor.submit(collect).result if self._executor else collect
        )

    def finish(self) -> Unroll:
        """The unroll that was started; raises what collecting it raised."""
        if self._number is None:
            raise RuntimeError("finish: no unroll was started")
        unroll = self._wait()
        assert unroll is not None, "only a closed actor gives up"
        self._number = None
        return unroll

    def close(self) -> None:
        """Give up what was started, within a step, and close the environments."""
        self._closing.set()
        if self._executor:
            self._executor.shutdown()
        self.collector.close()
