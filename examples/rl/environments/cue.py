"""The built-in task of memory: a cue must be named after distractors, and the next episode follows.

Letters in the shapes: B environments, K cues, C x H x W pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .vector import Step, check_actions

COLOURS = ("red", "green", "blue", "yellow", "magenta", "cyan")
_PIXELS = np.array(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]], np.uint8
)


class CueEnvironment:
    """B environments in which the colour of an episode's first frame must be named at its last.

    The first frame of an episode shows the cue, one of K colours, in a white border. Distractors follow, at
    random from 2 to 8 by default: each shows a random one of the same colours, without the border. At the
    last frame, grey all over, the action must be the cue's number: the reward is 1 if it is and 0 if not.
    Actions at other frames do nothing and are rewarded with 0. The next episode follows at once.

    So the return of an episode is the success at it, 0 or 1. Who remembers the cue always succeeds. Who
    remembers nothing succeeds with probability 1 / K, 1/4 by default, whatever the policy: all that can be
    seen at the last frame is the same in every episode. So does who remembers no more frames than the least
    number of distractors: these are drawn independently of the cue, as is their number.

    Episode n of environment i, counted from ``first`` on, is a function of (seed, i, n).

    Parameters
    ----------
    count, seed, first : B, at least 1; and as for `ProcgenEnvironment`.
    n_cues : K, from 2 to 6; also the number of actions.
    distractors : the least and the largest number of them.
    """

    frame_shape = (3, 8, 8)

    def __init__(
        self,
        count: int,
        seed: int,
        *,
        first: int = 0,
        n_cues: int = 4,
        distractors: tuple[int, int] = (2, 8),
    ) -> None:
        least, most = distractors
        if count < 1 or seed < 0 or first < 0:
            raise ValueError(
                "CueEnvironment: count must be at least 1, seed and first at least 0, "
                f"got {count}, {seed} and {first}"
            )
        if not 2 <= n_cues <= len(COLOURS):
            raise ValueError(f"CueEnvironment: n_cues must be from 2 to {len(COLOURS)}, got {n_cues}")
        if not 0 <= least <= most:
            raise ValueError(
                "CueEnvironment: distractors must be a least number, at least 0, and a largest one, "
                f"got {distractors}"
            )
        self.count, self.seed, self.first, self.n_actions = count, seed, first, n_cues
        self.names = ("cue",) * count
        self.distractors = distractors
        self._rules = {"n_cues": n_cues, "least_distractors": least, "most_distractors": most}
        self._pictures = _draw_pictures(n_cues)
        self._shown = np.zeros((count, most + 2), np.int64)  # of each episode, its frames' pictures
        self._episode, self._position, self._length = np.zeros((3, count), np.int64)
        self._last: Step | None = None

    def reset(self) -> Step:
        """Begin the first episode everywhere."""
        return self._stand(*np.zeros((4, self.count), np.int64))

    def step(self, actions: np.ndarray) -> Step:
        """Take an action, (B,) integers below K, in each."""
        check_actions(actions, self.count, self.n_actions)
        self._require_reset("step")
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
        last = self._require_reset("state")
        return {
            **self._rules,
            "seed": self.seed,
            "first": self.first,
            "episode": self._episode.tolist(),
            "position": self._position.tolist(),
            "reward": last.reward.tolist(),
            "ended": last.episode_length.tolist(),
        }

    def load_state(self, state: dict[str, Any]) -> Step:
        """Stand where `state` was taken, with its seed and numbers; returns the step returned last."""
        count, rules = len(state["episode"]), {name: int(state[name]) for name in self._rules}
        if (count, rules) != (self.count, self._rules):
            raise ValueError(
                f"load_state: state must be of {self.count} environments with {self._rules}, got one of "
                f"{count} with {rules}; make as many, with the same n_cues and distractors"
            )
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
        K, (least, most) = self.n_actions, self.distractors
        cue, distractors = rng.integers(K), rng.integers(least, most + 1)
        colours = rng.integers(K, size=distractors)
        self._shown[environment, : distractors + 2] = [cue, *(K + colours), 2 * K]
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

    def _require_reset(self, operation: str) -> Step:
        if self._last is None:
            raise ValueError(f"{operation}: no episode has begun; call reset first")
        return self._last


def _draw_pictures(n_cues: int) -> np.ndarray:
    """(2 K + 1, C, H, W) uint8: the cues, the distractors, and the frame to act at."""
    C, H, W = CueEnvironment.frame_shape
    colours = np.broadcast_to(_PIXELS[:n_cues, :, None, None], (n_cues, C, H - 2, W - 2))
    border = ((0, 0), (0, 0), (1, 1), (1, 1))
    cues, distractors = (np.pad(colours, border, constant_values=value) for value in (255, 0))
    return np.concatenate([cues, distractors, np.full((1, C, H, W), 128, np.uint8)])
