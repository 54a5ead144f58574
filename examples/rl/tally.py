"""Episodes that ended, as sums that a report can be made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from .rollouts import Episode

_COUNT, _RETURN, _LENGTH = "episodes/", "returns/", "lengths/"


def sums_of(episodes: Iterable[Episode]) -> Counter[str]:
    """How many ended in each game, the sum of their returns and that of their lengths, by name."""
    sums: Counter[str] = Counter()
    for episode in episodes:
        values = {_COUNT: 1, _RETURN: episode.episode_return, _LENGTH: episode.length}
        sums.update({name + episode.game: value for name, value in values.items()})
    return sums


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
    found: dict[str, Any] = {
        "episodes": int(count),
        "episode_return": sum(returns.values()) / len(returns),
        "episode_length": sum(sums[_LENGTH + game] for game in games) / count,
    }
    if len(games) > 1:
        found |= {f"episode_return/{game}": value for game, value in returns.items()}
    return found
