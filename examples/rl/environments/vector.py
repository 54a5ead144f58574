"""Many environments that are stepped together.

Letters in the shapes: B environments, C x H x W pixels.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Step:
    """What B environments answer. Where an episode begins, the reward is the last one's of that before."""

    frame: np.ndarray  # (B, C, H, W) uint8, what is seen now
    reward: np.ndarray  # (B,) float32, unclipped, of the action just taken; 0 at the very first step
    done: np.ndarray  # (B,) bool, whether this frame is the first of an episode, as at the very first step
    episode_return: np.ndarray  # (B,) float64, of the episode that just ended; nan where none did
    episode_length: np.ndarray  # (B,) int64, likewise; 0 where none did


class VectorEnvironment(Protocol):
    """B environments, each of which begins a new episode by itself when one has ended."""

    count: int  # B
    frame_shape: tuple[int, int, int]  # (C, H, W)
    n_actions: int
    names: tuple[str, ...]  # the game of each

    def reset(self) -> Step:
        """Begin an episode everywhere."""

    def step(self, actions: np.ndarray) -> Step:
        """Take an action, (B,) int64 from 0 to ``n_actions`` - 1, in each."""

    def state(self) -> dict[str, Any] | None:
        """What `load_state` continues from, in lists and numbers; None where it cannot be saved."""

    def load_state(self, state: dict[str, Any]) -> Step:
        """Stand where `state` was taken; returns the step that was returned last."""

    def close(self) -> None:
        """Release what is held."""
