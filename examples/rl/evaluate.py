"""Evaluate runs on levels they have never seen: ``python -m examples.rl.evaluate --help``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

from ..training import evaluation
from ..training.command_line import run_with_options
from ..training.program import use_threads
from ..training.run_folder import RunFolder
from ..training.settings import flag
from ..training.statistics import mean_and_interval, over_runs
from .acting import Policy
from .agent import Agent
from .environments import make_environment
from .episodes import Episodes, play_episodes
from .normalisation import has_constants, normalise
from .plots import draw_returns
from .random_policy import RandomPolicy
from .settings import Settings
from .splits import Split, SplitName, splits_of
from .tables import return_tables
from .train import make_agent

Run = evaluation.Run[Settings, Agent]

_RANDOM = "random policy"
_GIVEN_ALIKE = ("games", "mode", "start_level", "levels")


@dataclass(frozen=True)
class Evaluation:
    """Returns of trained agents on levels that they have never seen, and on those of the training."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of one or several runs. Several have the same games, mode and training levels; where some
    differ in their seed alone, their mean, standard deviation and 95 % interval are given too."""
    policies: tuple[Literal["greedy", "sampled"], ...] = ("greedy", "sampled")
    """greedy: the most probable action, as in the published evaluation; sampled: as in training."""
    splits: tuple[SplitName, ...] = ("train", "1000", "1200", "1400")
    """train: the levels of the training; the others are 200 levels from that number on. The cue task has
    no levels: there, new episodes."""
    random: bool = False
    """Evaluate a policy that acts at random as well."""
    episodes: int = 200
    """Episodes of each game on each split."""
    environments: int = 50
    """Environments that they are played in, as many in each."""
    seed: int = 1
    """Of the levels' order and of the actions that are drawn."""
    output: Path | None = None
    """Where the numbers go, a .json file; the table and the picture go beside it. By default
    evaluation.json in the run's folder, and with other policies, splits, episodes or seeds a file beside it
    whose name says so; of several runs, beside the first run's folder."""
    threads: int = 0
    """Threads for PyTorch; 0 leaves its own choice."""
    environment_threads: int = 0
    """Threads that Procgen's games are played in; 0 leaves EnvPool's own choice."""

    def check(self) -> None:
        """Raise ValueError for options that do not fit together."""
        if not self.runs:
            raise ValueError("evaluate: give the folder of a run, such as runs/rl")
        if not self.policies and not self.random:
            raise ValueError("evaluate: nothing to evaluate; give --policies, or --random")
        for name, value, least in (
            ("episodes", self.episodes, 2),
            ("environments", self.environments, 1),
            ("seed", self.seed, 0),
            ("threads", self.threads, 0),
            ("environment_threads", self.environment_threads, 0),
        ):
            if value < least:
                raise ValueError(f"evaluate: {flag(name)} must be at least {least}, got {value}")

    @property
    def file(self) -> str:
        """Name of the numbers' file: it says what was chosen otherwise than by default."""
        usual = Evaluation(runs=())
        parts: list[str] = []
        for chosen in ("policies", "splits"):
            if getattr(self, chosen) != getattr(usual, chosen):
                parts += getattr(self, chosen) or ("no_" + chosen,)
        parts += ["random"] * self.random
        for number in ("episodes", "environments", "seed"):
            if getattr(self, number) != getattr(usual, number):
                parts.append(f"{number}{getattr(self, number)}")
        return "-".join(["evaluation", *parts]) + ".json"


def evaluate(options: Evaluation) -> dict[str, Any]:
    """Evaluate, print the tables, write numbers, tables and a picture.

    Parameters
    ----------
    options : what to evaluate.

    Returns
    -------
    What is written to the output file: what was measured; under "runs", one after the other, each run's
    "games", by game, split and policy, and the "mean_over_games" of several; under "random", if asked for,
    those of acting at random; under "seeds", of runs that differ in their seed alone, mean, standard
    deviation and interval over them.

    Raises
    ------
    ValueError, OSError, ImportError : for options, runs or games that do not allow it.
    """
    options.check()
    use_threads(options.threads)
    runs = [load_run(RunFolder(path)) for path in options.runs]
    _check_alike(runs)
    settings = runs[0].settings
    splits = splits_of(settings, options.splits)
    output = evaluation.output_file(options.output, runs, options.file)
    with evaluation.reserve(output, [run.folder for run in runs], is_of_all=len(runs) > 1):
        result = _measure_all(options, runs, splits)
        evaluation.write(output, result, return_tables(result, splits))
        draw_returns(result, splits, output.with_suffix(".png"))
    return result


def _measure_all(options: Evaluation, runs: Sequence[Run], splits: Sequence[Split]) -> dict[str, Any]:
    """What `evaluate` returns."""
    settings = runs[0].settings
    result: dict[str, Any] = {
        "games": list(settings.games),
        "mode": settings.mode,
        "splits": describe_splits(splits),
        "episodes": options.episodes,
        "environments": min(options.environments, options.episodes),
        "seed": options.seed,
        "runs": [],
    }
    if options.policies:
        for run in runs:
            name = run.folder.path.name
            measured = _measure(options, settings, splits, run.model, options.policies, name)
            result["runs"].append(
                {
                    "run": str(run.folder.path),
                    "core": run.settings.core,
                    "training_seed": run.settings.seed,
                    "frames": frames_of(run),
                    **measured,
                }
            )
        result["seeds"] = [
            {
                "runs": [str(runs[i].folder.path) for i in alike],
                **over_runs([_without_names(result["runs"][i]) for i in alike]),
            }
            for alike in evaluation.alike_but_for_seed(runs)
            if len(alike) > 1
        ]
    if options.random:
        result["random"] = _measure(options, settings, splits, None, ("sampled",), _RANDOM)
    return result


def describe_splits(splits: Sequence[Split]) -> dict[str, Any]:
    """Their levels, as JSON values."""
    return {s.name: {"levels": s.levels and list(s.levels), "unseen": s.unseen} for s in splits}


def fresh_agent(settings: Settings) -> Agent:
    """The agent of a run before training.

    Raises
    ------
    ImportError : if the game needs a package that is missing.
    """
    environment = make_environment(settings.games, 1, 0, mode=settings.mode)
    agent = make_agent(settings, environment)
    environment.close()
    return agent


def load_run(folder: RunFolder) -> Run:
    """The agent of a run with its last weights; see `evaluation.load_run`."""
    return evaluation.load_run(folder, Settings, fresh_agent, "agent")


def frames_of(run: Run) -> int:
    """That the weights were trained on."""
    return int(run.progress.get("step", 0)) * run.settings.frames_per_update


def _measure(
    options: Evaluation,
    settings: Settings,
    splits: Sequence[Split],
    agent: Agent | None,
    policies: Sequence[str],
    name: str,
) -> dict[str, Any]:
    """Of an agent, or of acting at random: "games", by game, split and policy what it got.

    With several test splits there is one more, "test": all of their episodes. Of several games that can be
    normalised, "mean_over_games", by split and policy.
    """
    games: dict[str, dict[str, dict[str, Any]]] = {}
    for game in settings.games:
        by_split = games[game] = {}
        for policy in policies:
            played = {
                split.name: _play(options, settings, agent, game, split, policy, name) for split in splits
            }
            tests = [episodes for split, episodes in played.items() if split != "train"]
            if len(tests) > 1:
                played["test"] = _join(tests)
            for split, episodes in played.items():
                by_split.setdefault(split, {})[policy] = _values(episodes, game, settings.mode)
    measured: dict[str, Any] = {"games": games}
    if len(games) > 1 and all(has_constants(game, settings.mode) for game in games):
        measured["mean_over_games"] = {
            split: {
                policy: {"normalised": _mean_of_means([part[split][policy] for part in games.values()])}
                for policy in policies
            }
            for split in by_split
        }
    return measured


def _play(
    options: Evaluation,
    settings: Settings,
    agent: Agent | None,
    game: str,
    split: Split,
    policy: str,
    name: str,
) -> Episodes:
    environment = make_environment(
        game,
        min(options.environments, options.episodes),
        options.seed,
        mode=settings.mode,
        levels=split.levels or (0, 0),
        threads=options.environment_threads,
    )
    player: Policy = RandomPolicy(environment.n_actions) if agent is None else agent
    title = f"{name}, {policy}: {game}, {split.name}"
    try:
        with tqdm(total=options.episodes, desc=title, unit="episode", leave=False, disable=None) as bar:
            return play_episodes(
                player,
                environment,
                options.episodes,
                greedy=policy == "greedy",
                seed=options.seed,
                tell=bar.update,
            )
    finally:
        environment.close()


def _join(parts: Sequence[Episodes]) -> Episodes:
    return Episodes(
        np.concatenate([part.returns for part in parts]), np.concatenate([part.lengths for part in parts])
    )


def _values(episodes: Episodes, game: str, mode: str) -> dict[str, Any]:
    """Mean and interval over the episodes: of returns, as they are and normalised, and of lengths."""
    values: dict[str, Any] = {
        "episodes": len(episodes.returns),
        "return": _mean(episodes.returns),
        "length": _mean(episodes.lengths),
    }
    if has_constants(game, mode):
        values["normalised"] = _mean(normalise(episodes.returns, game, mode))
    return values


def _mean(values: np.ndarray) -> dict[str, float]:
    mean, half = mean_and_interval(values)
    return {"mean": mean, "interval_95": half}


def _mean_of_means(values: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Normalised returns of games, averaged: the half interval of a mean of independent means."""
    found = [of_game["normalised"] for of_game in values]
    return {
        "mean": sum(values["mean"] for values in found) / len(found),
        "interval_95": math.hypot(*(values["interval_95"] for values in found)) / len(found),
    }


def _check_alike(runs: Sequence[Run]) -> None:
    first = runs[0]
    for other in runs[1:]:
        for name in _GIVEN_ALIKE:
            was, now = (getattr(run.settings, name) for run in (first, other))
            if was != now:
                raise ValueError(
                    "evaluate: runs must have the same games, mode and training levels, but "
                    f"{flag(name)} is {was} in {first.folder.path} and {now} in {other.folder.path}; "
                    "evaluate them one by one"
                )


def _without_names(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in ("run", "training_seed")}


if __name__ == "__main__":
    run_with_options(evaluate, "examples.rl.evaluate", Evaluation)
