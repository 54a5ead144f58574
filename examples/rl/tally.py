"""Episodes that ended, as sums that a report can be made of: of each game their number, the sum of their
returns, unclipped, and that of their lengths."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from .environments.vector import Step

_COUNT, _RETURN, _LENGTH = "episodes/", "returns/", "lengths/"


def add_ended(sums: defaultdict[str, float], step: Step, games: tuple[str, ...]) -> None:
    """Add the episodes that ended with a step, in environments of these games."""
    for row in np.flatnonzero(step.done):
        game = games[row]
        sums[_COUNT + game] += 1
        sums[_RETURN + game] += float(step.episode_return[row])
        sums[_LENGTH + game] += int(step.episode_length[row])


def report_of(sums: Mapping[str, float]) -> dict[str, Any]:
    """Number, mean return and mean length, where episodes ended; of several games each return too, and the
    mean is one over games."""
    games = sorted(
        name.removeprefix(_COUNT) for name, count in sums.items() if name.startswith(_COUNT) and count
    )
    if not games:
        return {"episodes": 0}
    count = sum(sums[_COUNT + game] for game in games)
    returns = {game: sums[_RETURN + game] / sums[_COUNT + game] for game in games}
    return {
        "episodes": int(count),
        "episode_return": sum(returns.values()) / len(returns),
        "episode_length": sum(sums[_LENGTH + game] for game in games) / count,
        **({f"episode_return/{game}": value for game, value in returns.items()} if len(games) > 1 else {}),
    }
