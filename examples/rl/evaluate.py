"""Evaluate runs on levels they have never seen: ``python -m examples.rl.evaluate --help``."""

import math
from collections.abc import Sequence
from contextlib import closing
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
from ..training.settings import check_least, flag
from ..training.statistics import mean_and_interval, over_runs
from .acting import Episodes, RandomPolicy, play_episodes
from .agent import Agent
from .environments import make_environment
from .plots import draw_returns
from .settings import Settings
from .tables import Split, SplitName, return_tables, splits_of
from .train import make_agent

Run = evaluation.Run[Settings, Agent]

# Game -> the least and the largest return of the easy and of the hard distribution: what a trivial policy
# gets, and about the most there is. Constants of Cobbe et al. 2020, appendix C
# (https://arxiv.org/abs/1912.01588); for the other distributions none have been published.
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
        least = {"episodes": 2, "environments": 1, "seed": 0, "threads": 0, "environment_threads": 0}
        check_least("evaluate", self, **least)

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
    """Evaluate, print the tables, write numbers, tables and a picture; returns what is written.

    That is what was measured; under "runs", one after the other, each run's "games", by game, split and
    policy, and the "mean_over_games" of several; under "random", if asked for, those of acting at random;
    under "seeds", of runs that differ in their seed alone, mean, standard deviation and interval over them.
    """
    options.check()
    use_threads(options.threads)
    runs = [load_run(RunFolder(path)) for path in options.runs]
    _check_alike(runs)
    splits = splits_of(runs[0].settings, options.splits)
    output = evaluation.output_file(options.output, runs, options.file)
    with evaluation.reserve(output, [run.folder for run in runs]):
        result = _measure_all(options, runs, splits)
        evaluation.write(output, result, return_tables(result, splits))
        draw_returns(result, splits, output.with_suffix(".png"))
    return result


def describe_splits(splits: Sequence[Split]) -> dict[str, Any]:
    """Their levels, as JSON values."""
    return {s.name: {"levels": s.levels and list(s.levels), "unseen": s.unseen} for s in splits}


def fresh_agent(settings: Settings) -> Agent:
    """The agent of a run before training; ImportError if the game needs a package that is missing."""
    with closing(make_environment(settings.games, 1, 0, mode=settings.mode)) as environment:
        return make_agent(settings, environment)


def load_run(folder: RunFolder) -> Run:
    """The agent of a run with its last weights; see `evaluation.load_run`."""
    return evaluation.load_run(folder, Settings, fresh_agent, "agent")


def frames_of(run: Run) -> int:
    """That the weights were trained on."""
    return int(run.progress.get("step", 0)) * run.settings.frames_per_update


def _check_alike(runs: Sequence[Run]) -> None:
    first = runs[0]
    for other in runs[1:]:
        for name in ("games", "mode", "start_level", "levels"):
            was, now = (getattr(run.settings, name) for run in (first, other))
            if was != now:
                raise ValueError(
                    "evaluate: runs must have the same games, mode and training levels, but "
                    f"{flag(name)} is {was} in {first.folder.path} and {now} in {other.folder.path}; "
                    "evaluate them one by one"
                )


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
        measured = [_measure(options, run, splits) for run in runs]
        for run, numbers in zip(runs, measured, strict=True):
            which = {"run": str(run.folder.path), "core": run.settings.core}
            trained = {"training_seed": run.settings.seed, "frames": frames_of(run)}
            result["runs"].append({**which, **trained, **numbers})
        result["seeds"] = [
            {
                "runs": [str(runs[i].folder.path) for i in alike],
                "core": runs[alike[0]].settings.core,
                **over_runs([{"frames": frames_of(runs[i]), **measured[i]} for i in alike]),
            }
            for alike in evaluation.alike_but_for_seed(runs)
            if len(alike) > 1
        ]
    if options.random:
        result["random"] = _measure(options, runs[0], splits, at_random=True)
    return result


def _measure(
    options: Evaluation, run: Run, splits: Sequence[Split], *, at_random: bool = False
) -> dict[str, Any]:
    """Of a run's agent, or of acting at random: "games", by game, split and policy what it got.

    With several test splits there is one more, "test": all of their episodes. Of several games that can be
    normalised, "mean_over_games", by split and policy.
    """
    policies: Sequence[str] = ("sampled",) if at_random else options.policies
    mode = run.settings.mode
    games: dict[str, dict[str, dict[str, Any]]] = {}
    for game in run.settings.games:
        by_split = games[game] = {}
        for policy in policies:
            played = {split.name: _play(options, run, game, split, policy, at_random) for split in splits}
            tests = [episodes for split, episodes in played.items() if split != "train"]
            if len(tests) > 1:
                played["test"] = Episodes(*map(np.concatenate, zip(*tests, strict=True)))
            for split, episodes in played.items():
                by_split.setdefault(split, {})[policy] = _values(episodes, game, mode)
    measured: dict[str, Any] = {"games": games}
    if len(games) > 1 and all(has_constants(game, mode) for game in games):
        measured["mean_over_games"] = {
            split: {
                policy: {"normalised": _mean_of_means([part[split][policy] for part in games.values()])}
                for policy in policies
            }
            for split in by_split
        }
    return measured


def _play(options: Evaluation, run: Run, game: str, split: Split, policy: str, at_random: bool) -> Episodes:
    made = make_environment(
        game,
        min(options.environments, options.episodes),
        options.seed,
        mode=run.settings.mode,
        levels=split.levels or (0, 0),
        threads=options.environment_threads,
    )
    title = f"{'random policy' if at_random else run.folder.path.name}, {policy}: {game}, {split.name}"
    bar = tqdm(total=options.episodes, desc=title, unit="episode", leave=False, disable=None)
    with closing(made) as environment, bar:
        return play_episodes(
            RandomPolicy(environment.n_actions) if at_random else run.model,
            environment,
            options.episodes,
            greedy=policy == "greedy",
            seed=options.seed,
            tell=bar.update,
        )


def _values(episodes: Episodes, game: str, mode: str) -> dict[str, Any]:
    """Mean and interval over the episodes: of returns, as they are and normalised, and of lengths."""
    of_what = {"return": episodes.returns, "length": episodes.lengths}
    if has_constants(game, mode):
        of_what["normalised"] = normalise(episodes.returns, game, mode)
    means = {what: mean_and_interval(values) for what, values in of_what.items()}
    return {"episodes": len(episodes.returns), **means}


def _mean_of_means(of_games: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Normalised returns of games, averaged: the half interval of a mean of independent means."""
    found = [values["normalised"] for values in of_games]
    return {
        "mean": sum(values["mean"] for values in found) / len(found),
        "interval_95": math.hypot(*(values["interval_95"] for values in found)) / len(found),
    }


def has_constants(game: str, mode: str) -> bool:
    """Whether returns of this game in this mode can be normalised."""
    return game in _RANGES and mode in _MODES


def normalise(returns: np.ndarray, game: str, mode: str) -> np.ndarray:
    """Returns (E,) on the scale of these constants: from 0, the least, to 1, the largest."""
    least, largest = _RANGES[game][_MODES.index(mode)]
    return (np.asarray(returns, np.float64) - least) / (largest - least)


if __name__ == "__main__":
    run_with_options(evaluate, "examples.rl.evaluate", Evaluation)
