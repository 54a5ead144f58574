"""What is compared with what: each study's runs, and its table."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .presets import PRESETS
from .settings import Settings
from .splits import SplitName

_RANDOM = "acting at random"


@dataclass(frozen=True)
class Study:
    """A comparison of runs in one game, each with one or several seeds.

    Attributes
    ----------
    title : of the picture.
    runs : what its line and row are called -> its settings, whose names differ.
    splits : levels to evaluate on.
    episodes : of each evaluation.
    success : whether a return is the success at an episode, 0 or 1.
    """

    title: str
    runs: Mapping[str, Settings]
    splits: tuple[SplitName, ...] = ("train", "1000", "1200", "1400")
    episodes: int = 200
    success: bool = False

    def table(self, results: dict[str, Any]) -> str:
        """Mean ± 95 % interval in Markdown: of each split, sampled actions and greedy ones."""
        entries = list(results["compared"].values())
        splits = list(entries[0]["summary"])
        heads = [f"{split}, {policy}" for split in splits for policy in ("sampled", "greedy")]
        lines = [["", *heads, "minutes", "frames/s"], ["---"] * (len(heads) + 3)]
        for entry in entries:
            cells = [
                self._cell(of_split[policy])
                for of_split in entry["summary"].values()
                for policy in ("sampled", "greedy")
            ]
            minutes, speed = (
                sum(run[what] for run in entry["runs"]) / len(entry["runs"])
                for what in ("minutes", "frames_per_second")
            )
            lines.append([entry["label"], *cells, f"{minutes:.1f}", f"{speed:.0f}"])
        random = [(self._cell(results["random"][split]["sampled"]), "") for split in splits]
        lines.append([_RANDOM, *itertools.chain(*random), "", ""])
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def _cell(self, values: dict[str, float]) -> str:
        mean, half = values["mean"], values["interval_95"]
        return f"{100 * mean:.1f} ± {100 * half:.1f} %" if self.success else f"{mean:.2f} ± {half:.2f}"


def _named(settings: Settings, **changes: Any) -> Settings:
    """With what is changed in its name."""
    parts = [f"{name}{value}" for name, value in changes.items()]
    return replace(settings, name="-".join([settings.name, *parts]), **changes)


STUDIES = {
    "cue": Study(
        title="The colour of an episode's first frame must be named at its last",
        runs={
            "SRWM": PRESETS["cue-srwm"],
            "DeltaNet": PRESETS["cue-deltanet"],
            "LSTM": PRESETS["cue-lstm"],
            "SR-Delta": PRESETS["cue-sr-delta"],
            "SRWM, --bptt 1": _named(PRESETS["cue-srwm"], bptt=1),
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
            runs={"SRWM": PRESETS[f"{game}-srwm"], "feed-forward": PRESETS[f"{game}-feedforward"]},
        )
        for game in ("starpilot", "coinrun", "fruitbot")
    },
}
