"""The built-in task of memory: a cue must be named after distractors, and the next episode follows.

Letters in the shapes: B environments, K = 4 cues, C x H x W pixels.
"""

from typing import Any

import numpy as np

from .vector import Step

COLOURS = ("red", "green", "blue", "yellow")
_PIXELS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
_K = len(COLOURS)
_LEAST, _MOST = 2, 8  # distractors in an episode


class CueEnvironment:
    """B environments in which the colour of an episode's first frame must be named at its last.

    The first frame of an episode shows the cue, one of K colours, in a white border. Distractors follow, at
    random from 2 to 8: each shows a random one of the same colours, without the border. At the last frame,
    grey all over, the action must be the cue's number: the reward is 1 if it is and 0 if not. Actions at
    other frames do nothing and are rewarded with 0. The next episode follows at once.

    So the return of an episode is the success at it, 0 or 1. Who remembers the cue always succeeds. Who
    remembers nothing succeeds with probability 1/4, whatever the policy: all that can be seen at the last
    frame is the same in every episode. So does who remembers no more frames than the least number of
    distractors: these are drawn independently of the cue, as is their number.

    Episode n of environment i, counted from ``first`` on, is a function of (seed, i, n).

    Parameters
    ----------
    count, seed, first : as for `ProcgenEnvironment`.
    """

    frame_shape = (3, 8, 8)
    n_actions = _K

    def __init__(self, count: int, seed: int, *, first: int = 0) -> None:
        self.count, self.seed, self.first = count, seed, first
        self.names = ("cue",) * count
        self._pictures = _draw_pictures()
        self._shown = np.zeros((count, _MOST + 2), np.int64)  # of each episode, its frames' pictures
        self._episode, self._position, self._length = np.zeros((3, count), np.int64)
        self._last = self.reset()

    def reset(self) -> Step:
        """Begin the first episode everywhere."""
        return self._stand(*np.zeros((4, self.count), np.int64))

    def step(self, actions: np.ndarray) -> Step:
        """Take an action, (B,) integers below K, in each."""
        done = self._position == self._length - 1
        reward = (done & (actions == self._shown[:, 0])).astype(np.float32)
        ended = np.where(done, self._length, 0)
        self._episode = self._episode + done
        self._position = np.where(done, 0, self._position + 1)
        for environment in np.flatnonzero(done).tolist():
            self._begin(environment)
        return self._answer(reward, ended)

    def state(self) -> dict[str, Any]:
        """What `load_state` continues from: integers and lists of numbers, which a checkpoint can hold."""
        return {
            "seed": self.seed,
            "first": self.first,
            "episode": self._episode.tolist(),
            "position": self._position.tolist(),
            "reward": self._last.reward.tolist(),
            "ended": self._last.episode_length.tolist(),
        }

    def load_state(self, state: dict[str, Any]) -> Step:
        """Stand where `state` was taken, with its seed and numbers; returns the step returned last."""
        self.seed, self.first = int(state["seed"]), int(state["first"])
        # Of runs from before these were lists they are tensors.
        return self._stand(
            *(np.asarray(state[name]) for name in ("episode", "position", "reward", "ended"))
        )

    def close(self) -> None:
        """Nothing is held."""

    def _stand(
        self, episode: np.ndarray, position: np.ndarray, reward: np.ndarray, ended: np.ndarray
    ) -> Step:
        self._episode, self._position = episode, position
        for environment in range(self.count):
            self._begin(environment)
        return self._answer(reward.astype(np.float32), ended.astype(np.int64))

    def _begin(self, environment: int) -> None:
        """Draw the episode that an environment is in."""
        number = self.first + environment
        rng = np.random.default_rng((self.seed, number, self._episode[environment]))
        cue, distractors = rng.integers(_K), rng.integers(_LEAST, _MOST + 1)
        colours = rng.integers(_K, size=distractors)
        self._shown[environment, : distractors + 2] = [cue, *(_K + colours), 2 * _K]
        self._length[environment] = distractors + 2

    def _answer(self, reward: np.ndarray, ended: np.ndarray) -> Step:
        """The step after a reward (B,), where episodes of these lengths (B,) ended, or of none, 0."""
        self._last = Step(
            frame=self._pictures[self._shown[np.arange(self.count), self._position]],
            reward=reward,
            done=self._position == 0,
            episode_return=np.where(ended > 0, reward.astype(np.float64), np.nan),
            episode_length=ended,
        )
        return self._last


def _draw_pictures() -> np.ndarray:
    """(2 K + 1, C, H, W) uint8: the cues, the distractors, and the frame to act at."""
    C, H, W = CueEnvironment.frame_shape
    colours = np.broadcast_to(_PIXELS[:, :, None, None], (_K, C, H - 2, W - 2))
    border = ((0, 0), (0, 0), (1, 1), (1, 1))
    cues, distractors = (np.pad(colours, border, constant_values=value) for value in (255, 0))
    return np.concatenate([cues, distractors, np.full((1, C, H, W), 128, np.uint8)])
