"""What a peer is: a name, and how it is made ready to be called on a case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.cases import Case


@dataclass(frozen=True)
class Ready:
    """A call with everything that comes before it done: operands in the peer's own kind of array."""

    run: Callable[[], Any]
    """What is timed."""
    arrays: Callable[[Any], tuple[np.ndarray, ...]]
    """What `run` returned, as y, or y and the gradients of all operands: to be compared."""


@dataclass(frozen=True)
class Peer:
    """One way to compute the operator, in float32."""

    name: str
    forward: Callable[[Case], Ready]
    training: Callable[[Case], Ready]
    """Forward and backward."""
    most_steps: int | None = None
    """Sequences longer than this are not tried;"""
    because: str = ""
    """for this reason."""

    def why_not(self, L: int) -> str | None:
        """Why sequences of L steps are not tried, or None where they are."""
        return self.because if self.most_steps is not None and self.most_steps < L else None
