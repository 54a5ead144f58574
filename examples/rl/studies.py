"""What is compared with what: each study's runs, and its table."""

import itertools
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..training import experiments
from ..training.command_line import command_for
from ..training.experiments import Results, mean_over, row_label
from ..training.files import read_json
from ..training.statistics import over_runs
from ..training.tables import markdown_table, number, percent
from .evaluate import describe_splits, fresh_agent
from .plots import draw_comparison
from .presets import PRESETS
from .settings import Settings
from .tables import SplitName, splits_of


@dataclass(frozen=True)
class Study(experiments.Study[Settings]):
    """A comparison of runs in one game, each with one or several seeds."""

    draw: Callable[[Results, Path], None] = draw_comparison
    splits: tuple[SplitName, ...] = ("train", "1000", "1200", "1400")  # to evaluate on
    episodes: int = 200  # of each evaluation
    success: bool = False  # a return is the success at an episode, 0 or 1

    def facts(self) -> dict[str, Any]:
        row = next(iter(self.rows.values()))
        return {"episodes": self.episodes, "splits": describe_splits(splits_of(row, self.splits))}

    def of_seed(self, row: Settings, seed: int, threads: int, leader: Path | None) -> Settings:
        return replace(row, seed=seed, threads=threads, environment_threads=threads)

    def programs(self, settings: Settings) -> list[str]:
        """Training, and evaluation on episodes of its own, as chance is part of the interval."""
        s = settings
        words: list[object] = ["python", "-m", "examples.rl.evaluate", s.folder, "--random"]
        words += ["--seed", 1 + s.seed, "--episodes", self.episodes, "--splits", *self.splits]
        words += ["--threads", s.threads, "--environment-threads", s.environment_threads]
        words += ["--output", self.evaluation(s)]
        training = command_for(s, PRESETS.get(s.preset or "", Settings()))
        return [training, shlex.join(map(str, words))]

    def read(self, settings: Settings, reports: list[dict[str, Any]]) -> dict[str, Any]:
        [game] = settings.games
        evaluation = read_json(self.evaluation(settings))
        [measured] = evaluation["runs"]
        shares = {
            part: sum(line[f"{part}_share"] for line in reports) / len(reports)
            for part in ("environment", "acting", "learning")
        }
        kept = ("frames", "seconds", "episode_return")
        return {
            "frames_per_second": reports[-1]["frames"] / reports[-1]["seconds"],
            "shares": shares,
            "result": _returns(measured["games"][game]),
            "random": _returns(evaluation["random"]["games"][game]),
            "curve": [{key: line.get(key) for key in kept} for line in reports],
        }

    def over_all(self, runs: list[dict[str, Any]]) -> dict[str, Any]:
        """Acting at random, which plays the same episodes beside every run of a seed."""
        of_seeds = {run["seed"]: run["random"] for run in runs if "random" in run}
        return {"random": over_runs(list(of_seeds.values()))}

    def parameters(self, row: Settings) -> int:
        return sum(parameter.numel() for parameter in fresh_agent(row).parameters())

    def table(self, results: Results) -> str:
        """Mean ± 95 % interval in Markdown: of each split, sampled actions and greedy ones."""
        entries = list(results["compared"].values())
        splits, policies = list(entries[0]["summary"]), ("sampled", "greedy")
        rows = []
        for entry in entries:
            cells = [self._cell(entry["summary"][split][policy]) for split in splits for policy in policies]
            minutes, speed = (mean_over(entry, what) for what in ("minutes", "frames_per_second"))
            rows.append([row_label(entry, results), *cells, f"{minutes:.1f}", f"{speed:.0f}"])
        random = [(self._cell(results["random"][split]["sampled"]), "") for split in splits]
        rows.append(["acting at random", *itertools.chain(*random), "", ""])
        heads = [f"{split}, {policy}" for split in splits for policy in policies]
        return markdown_table(["", *heads, "minutes", "frames/s"], rows)

    def _cell(self, values: dict[str, float]) -> str:
        return percent(values, digits=1) if self.success else number(values)


def _returns(of_game: dict[str, Any]) -> dict[str, Any]:
    """Split -> policy -> what the mean return is, and its interval."""
    return {
        split: {policy: values["return"] for policy, values in of_split.items()}
        for split, of_split in of_game.items()
    }


STUDIES = {
    "cue": Study(
        title="The colour of an episode's first frame must be named at its last",
        rows={
            "SRWM": PRESETS["cue-srwm"],
            "DeltaNet": PRESETS["cue-deltanet"],
            "LSTM": PRESETS["cue-lstm"],
            "SR-Delta": PRESETS["cue-sr-delta"],
            "SRWM, --bptt 1": replace(PRESETS["cue-srwm"], bptt=1, name="cue-srwm-bptt1"),
            "SRWM without carry": PRESETS["cue-srwm-no-carry"],
            "fake SR": PRESETS["cue-fake-sr"],
            "feed-forward": PRESETS["cue-feedforward"],
        },
        episodes=1000,
        success=True,
    ),
    **{
        game: Study(
            title=f"Procgen's {game}, easy, trained on 200 levels",
            rows={"SRWM": PRESETS[f"{game}-srwm"], "feed-forward": PRESETS[f"{game}-feedforward"]},
        )
        for game in ("starpilot", "coinrun", "fruitbot")
    },
}
