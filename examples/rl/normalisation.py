"""Returns of Procgen's games on a common scale: 0 is what a trivial policy gets, 1 about the most there is.

Constants of Cobbe et al. 2020, appendix C (https://arxiv.org/abs/1912.01588), for the easy and the hard
distribution. For the other distributions none have been published.
"""

from __future__ import annotations

import numpy as np

# Game -> the least and the largest return of the easy and of the hard distribution.
_RANGES = {
    "bigfish": ((1.0, 40.0), (0.0, 40.0)),
    "bossfight": ((0.5, 13.0), (0.5, 13.0)),
    "caveflyer": ((3.5, 12.0), (2.0, 13.4)),
    "chaser": ((0.5, 13.0), (0.5, 14.2)),
    "climber": ((2.0, 12.6), (1.0, 12.6)),
    "coinrun": ((5.0, 10.0), (5.0, 10.0)),
    "dodgeball": ((1.5, 19.0), (1.5, 19.0)),
    "fruitbot": ((-1.5, 32.4), (-0.5, 27.2)),
    "heist": ((3.5, 10.0), (2.0, 10.0)),
    "jumper": ((3.0, 10.0), (1.0, 10.0)),
    "leaper": ((3.0, 10.0), (1.5, 10.0)),
    "maze": ((5.0, 10.0), (4.0, 10.0)),
    "miner": ((1.5, 13.0), (1.5, 20.0)),
    "ninja": ((3.5, 10.0), (2.0, 10.0)),
    "plunder": ((4.5, 30.0), (3.0, 30.0)),
    "starpilot": ((2.5, 64.0), (1.5, 35.0)),
}
_MODES = ("easy", "hard")


def has_constants(game: str, mode: str) -> bool:
    """Whether returns of this game in this mode can be normalised."""
    return game in _RANGES and mode in _MODES


def normalise(returns: np.ndarray, game: str, mode: str) -> np.ndarray:
    """``(R - least) / (largest - least)`` of each of the returns R (E,)."""
    if not has_constants(game, mode):
        raise ValueError(
            f"normalise: game and mode must be one of {', '.join(_RANGES)} in one of {', '.join(_MODES)}, "
            f"for which there are published constants; got {game!r} in {mode!r}; report raw returns"
        )
    least, largest = _RANGES[game][_MODES.index(mode)]
    return (np.asarray(returns, np.float64) - least) / (largest - least)
