"""The sixteen games of Procgen, as EnvPool has them.

Procgen: Cobbe et al., ICML 2020, https://arxiv.org/abs/1912.01588; EnvPool: Weng et al., NeurIPS 2022,
https://arxiv.org/abs/2206.10558.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from .vector import Step

Mode = Literal["easy", "hard", "extreme", "memory", "exploration"]

# Distributions of levels that each game has.
MODES: dict[str, tuple[Mode, ...]] = {
    "bigfish": ("easy", "hard"),
    "bossfight": ("easy", "hard"),
    "caveflyer": ("easy", "hard", "memory", "exploration"),
    "chaser": ("easy", "hard", "extreme"),
    "climber": ("easy", "hard", "exploration"),
    "coinrun": ("easy", "hard", "exploration"),
    "dodgeball": ("easy", "hard", "extreme", "memory"),
    "fruitbot": ("easy", "hard"),
    "heist": ("easy", "hard", "memory", "exploration"),
    "jumper": ("easy", "hard", "memory", "exploration"),
    "leaper": ("easy", "hard", "extreme", "exploration"),
    "maze": ("easy", "hard", "memory", "exploration"),
    "miner": ("easy", "hard", "memory"),
    "ninja": ("easy", "hard", "exploration"),
    "plunder": ("easy", "hard"),
    "starpilot": ("easy", "hard", "extreme"),
}

# What each action presses, by number.
ACTIONS = (
    "left down", "left", "left up", "down", "nothing", "up", "right down", "right", "right up",
    "D", "A", "W", "S", "Q", "E",
)  # fmt: skip

_LARGEST = 2**31 - 1  # seeds and levels are 32-bit integers


class ProcgenEnvironment:
    """B environments of one game or several, all in one distribution and one range of levels.

    Frames are (3, 64, 64), actions 0 to 14, rewards as the games give them. As in the published experiments
    an episode also ends, as any other, when the game's time is over, after 500 to 6,000 steps.

    The levels that environment i, counted from ``first`` on, plays one after the other are a function of
    (seed, i): what happens is a function of that and the actions, whatever the number of threads. The games
    cannot say where they stand, so `state` is None.

    EnvPool returns the last frame of an episode that ends, and begins the next one in the step after it,
    whatever the action. Here, as in Procgen itself, the next one begins at once: with the last reward comes
    its first frame, the last frame is never seen, and no action is lost.

    Parameters
    ----------
    names : the games; environment i plays ``names[i % len(names)]``.
    count : B.
    seed : of the levels.
    first : the number of the first environment among all that share the seed.
    mode : the distribution of levels.
    levels : the first level, and how many there are from it on; 0 for all that can be made. In exploration
        mode every game has one level, and (0, 0) is right.
    threads : that the games are played in, shared among the games; 0 leaves EnvPool's own choice.
    """

    frame_shape = (3, 64, 64)
    n_actions = 15

    def __init__(
        self,
        names: Sequence[str],
        count: int,
        seed: int,
        *,
        first: int = 0,
        mode: Mode = "easy",
        levels: tuple[int, int] = (0, 0),
        threads: int = 0,
    ) -> None:
        _check(names, mode, levels)
        reason = unusable()
        if reason is not None:
            raise ImportError(reason)
        import envpool

        self.count = count
        numbers = range(first, first + count)
        self.names = tuple(names[number % len(names)] for number in numbers)
        games = sorted(set(self.names))
        self._pools: list[tuple[np.ndarray, Any]] = []  # of each game, its rows among all, and EnvPool's
        for game in games:
            rows = np.flatnonzero([name == game for name in self.names])
            pool = envpool.make_gymnasium(
                f"{game.capitalize()}{mode.capitalize()}-v0",
                num_envs=len(rows),
                seed=[_seed(seed, numbers[row]) for row in rows],
                num_threads=max(1, threads // len(games)) if threads else 0,
                start_level=levels[0],
                num_levels=levels[1],
            )
            self._pools.append((rows, pool))
        self._return, self._length = np.zeros(count), np.zeros(count, np.int64)

    def reset(self) -> Step:
        """Begin an episode everywhere, on a new level."""
        frame = self._empty_frame()
        for rows, pool in self._pools:
            frame[rows], _ = pool.reset()
        self._return[:] = self._length[:] = 0
        reward, done = np.zeros(self.count, np.float32), np.ones(self.count, bool)
        return Step(frame, reward, done, np.full(self.count, np.nan), np.zeros(self.count, np.int64))

    def step(self, actions: np.ndarray) -> Step:
        """Take an action, (B,) integers below 15, in each."""
        for rows, pool in self._pools:  # all games are under way before any is waited for
            pool.send(actions[rows].astype(np.int32))
        frame, done = self._empty_frame(), np.empty(self.count, bool)
        reward = np.empty(self.count, np.float32)
        for rows, pool in self._pools:
            frame[rows], reward[rows], terminated, truncated, _ = pool.recv()
            done[rows] = over = terminated | truncated
            if over.any():
                ended = np.flatnonzero(over)
                frame[rows[ended]], _ = pool.reset(ended.astype(np.int32))
        self._return += reward
        self._length += 1
        episode_return = np.where(done, self._return, np.nan)
        episode_length = np.where(done, self._length, 0)
        self._return[done] = self._length[done] = 0
        return Step(frame, reward, done, episode_return, episode_length)

    def state(self) -> None:
        """None: EnvPool cannot save its games."""
        return None

    def load_state(self, state: dict[str, Any]) -> Step:
        raise NotImplementedError("load_state: EnvPool cannot save Procgen's games; call reset")

    def close(self) -> None:
        """End the threads; nothing can be played afterwards."""
        self._pools = []

    def _empty_frame(self) -> np.ndarray:
        return np.empty((self.count, *self.frame_shape), np.uint8)


def unusable() -> str | None:
    """Why Procgen cannot be played here and what to install, in a line; None if it can."""
    try:
        import envpool  # noqa: F401
    except ImportError as error:
        return (
            "procgen: EnvPool is missing; install it with: make procgen, or python -m pip install envpool "
            f"(it has wheels for Python 3.11 and later) [{error}]"
        )
    try:
        from envpool.procgen import ProcgenEnvSpec  # noqa: F401
    except ImportError as error:
        return (
            "procgen: Qt 5, which the games draw with, is missing; install it with: make procgen, apt-get "
            "install libqt5gui5 (Debian, Ubuntu) or dnf install qt5-qtbase-gui (Fedora) "
            f"[{error.__cause__ or error}]"
        )
    return None


def _check(names: Sequence[str], mode: Mode, levels: tuple[int, int]) -> None:
    """Raise ValueError for a mode that a game does not have, or levels that there are not."""
    for name in names:
        if mode not in MODES[name]:
            has = ", ".join(MODES[name])
            raise ValueError(f"make_environment: mode must be one that {name} has, {has}; got {mode!r}")
    wanted = None
    if sum(levels) > _LARGEST:
        wanted = f"a first level and a number of levels, together at most {_LARGEST}"
    elif mode == "exploration" and levels != (0, 0):
        wanted = "(0, 0) in exploration mode, which has one level of each game"
    if wanted is not None:
        raise ValueError(f"make_environment: levels must be {wanted}, got {levels}")


def _seed(seed: int, environment: int) -> int:
    return int(np.random.SeedSequence((seed, environment)).generate_state(1)[0]) & _LARGEST
