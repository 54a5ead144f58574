"""Returns of Procgen's games on a common scale: 0 is what a trivial policy gets, 1 about the most there is.

Constants of Cobbe et al. 2020, appendix C (https://arxiv.org/abs/1912.01588), for the easy and the hard
distribution. For the other distributions none have been published.
"""

from __future__ import annotations

import numpy as np

from .environments.procgen import MODES

# Game -> the least and the largest return.
_EASY = {
    "bigfish": (1.0, 40.0),
    "bossfight": (0.5, 13.0),
    "caveflyer": (3.5, 12.0),
    "chaser": (0.5, 13.0),
    "climber": (2.0, 12.6),
    "coinrun": (5.0, 10.0),
    "dodgeball": (1.5, 19.0),
    "fruitbot": (-1.5, 32.4),
    "heist": (3.5, 10.0),
    "jumper": (3.0, 10.0),
    "leaper": (3.0, 10.0),
    "maze": (5.0, 10.0),
    "miner": (1.5, 13.0),
    "ninja": (3.5, 10.0),
    "plunder": (4.5, 30.0),
    "starpilot": (2.5, 64.0),
}
_HARD = {
    "bigfish": (0.0, 40.0),
    "bossfight": (0.5, 13.0),
    "caveflyer": (2.0, 13.4),
    "chaser": (0.5, 14.2),
    "climber": (1.0, 12.6),
    "coinrun": (5.0, 10.0),
    "dodgeball": (1.5, 19.0),
    "fruitbot": (-0.5, 27.2),
    "heist": (2.0, 10.0),
    "jumper": (1.0, 10.0),
    "leaper": (1.5, 10.0),
    "maze": (4.0, 10.0),
    "miner": (1.5, 20.0),
    "ninja": (2.0, 10.0),
    "plunder": (3.0, 30.0),
    "starpilot": (1.5, 35.0),
}
_CONSTANTS = {"easy": _EASY, "hard": _HARD}


def return_range(game: str, mode: str) -> tuple[float, float]:
    """The returns that count as 0 and as 1.

    Raises
    ------
    ValueError : for a game or a mode without published constants; `has_constants` says which have them.
    """
    if not has_constants(game, mode):
        raise ValueError(
            f"return_range: game and mode must be one of {', '.join(MODES)} in one of "
            f"{', '.join(_CONSTANTS)}, for which there are published constants; got {game!r} in {mode!r}; "
            "report raw returns"
        )
    return _CONSTANTS[mode][game]


def has_constants(game: str, mode: str) -> bool:
    """Whether returns of this game in this mode can be normalised."""
    return game in _CONSTANTS.get(mode, {})


def normalise(returns: np.ndarray, game: str, mode: str) -> np.ndarray:
    """``(R - least) / (largest - least)`` of each of the returns R (E,).

    Raises
    ------
    ValueError : for a game or a mode without published constants.

    Examples
    --------
    >>> normalise(np.array([5.0, 10.0]), "coinrun", "easy").tolist()
    [0.0, 1.0]
    """
    least, largest = return_range(game, mode)
    return (np.asarray(returns, np.float64) - least) / (largest - least)
