"""What has happened since the last report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .rollouts import Episode


@dataclass
class Tally:
    """Sums over updates and episodes; plain values, so that a checkpoint can hold it.

    Attributes
    ----------
    sums : of whatever an update is measured by, by name.
    episodes : game -> how many ended, the sum of their returns and that of their lengths.
    """

    sums: dict[str, float] = field(default_factory=dict)
    episodes: dict[str, list[float]] = field(default_factory=dict)

    def add(self, values: dict[str, float]) -> None:
        """Count an update."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def add_episodes(self, episodes: Iterable[Episode]) -> None:
        """Count episodes that ended."""
        for episode in episodes:
            self._add_to_game(episode.game, (1, episode.episode_return, episode.length))

    def merge(self, other: Tally) -> None:
        """Count what another process has."""
        self.add(other.sums)
        for game, values in other.episodes.items():
            self._add_to_game(game, values)

    def _add_to_game(self, game: str, values: Iterable[float]) -> None:
        before = self.episodes.get(game, [0, 0.0, 0])
        self.episodes[game] = [a + b for a, b in zip(before, values, strict=True)]

    def of_episodes(self) -> dict[str, Any]:
        """Number, mean return and mean length, where episodes ended; of several games each return too,
        and the mean is one over games."""
        ended = {game: values for game, values in sorted(self.episodes.items()) if values[0]}
        if not ended:
            return {"episodes": 0}
        count = sum(values[0] for values in ended.values())
        returns = {game: total / number for game, (number, total, _) in ended.items()}
        found: dict[str, Any] = {
            "episodes": int(count),
            "episode_return": sum(returns.values()) / len(returns),
            "episode_length": sum(values[2] for values in ended.values()) / count,
        }
        if len(ended) > 1:
            found |= {f"episode_return/{game}": value for game, value in returns.items()}
        return found
