"""What is compared with what: each study's learners, tasks and rates, and its tables."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..training import experiments
from ..training.command_line import command_for
from ..training.experiments import Results, mean_over
from ..training.files import read_json
from ..training.tables import markdown_table
from .model import build_reader
from .plots import by_task, draw_lengths, draw_rates, learner_of
from .presets import LEARNERS, PRESETS
from .settings import Settings
from .tasks import groups

LANGUAGES = ("parity", "aa", "abab", "dyck-1", "reset-dyck", "shuffle-2", "counter-2", "counter-3")
GROUPS = ("z3", "s3")
HARD = ("z5", "a5", "s5", "code-3", "code-5", "listops")
_OF_GROUPS = {task.name for task in groups.TASKS}
_LENGTHS = (10, 20, 30, 40, 50, 75, 100, 150, 200, 300, 400, 500)
_RATES = (3e-4, 1e-3, 3e-3)  # the one that all learners began with, and its neighbours


@dataclass(frozen=True)
class Study(experiments.Study[Settings]):
    """Learners on tasks; each run is a program that evaluates itself."""

    draw: Callable[[Results, Path], None] = draw_lengths

    def of_seed(self, row: Settings, seed: int, threads: int, leader: Path | None) -> Settings:
        del leader
        return replace(row, seed=seed, threads=threads)

    def programs(self, settings: Settings) -> list[str]:
        return [command_for(settings, PRESETS.get(settings.preset or "", Settings()))]

    def read(self, settings: Settings, reports: list[dict[str, Any]]) -> dict[str, Any]:
        evaluation = read_json(self.evaluation(settings))
        scores = ("words", "positions", "prefix_90", "prefix_99")
        return {
            "steps": reports[-1]["step"],
            "result": {
                name: {score: {"mean": of[score]} for score in scores}
                for name, of in evaluation["bins"].items()
            },
            "by_length": by_length(evaluation),
            "curve": [
                {key: value for key, value in line.items() if key != "split"}
                for line in reports
                if line["split"] == "validation"
            ],
        }

    def parameters(self, row: Settings) -> int:
        return sum(parameter.numel() for parameter in build_reader(row).parameters())

    def table(self, results: Results) -> str:
        """Tasks against learners: for each bin whole words right, in %; of group words how long the longest
        prefix is that most words of the last bin have right; and the minutes of a run."""
        tasks = by_task(results)
        at = {(task, learner_of(entry)): entry for task, entries in tasks.items() for entry in entries}
        learners = [learner for learner in LEARNERS if learner in {name for _, name in at}]
        heads = [LEARNERS[learner][0] for learner in learners]
        bins = dict.fromkeys(name for entry in at.values() for name in entry["summary"])

        cells: dict[str, Callable[[dict[str, Any]], str]] = {
            **{f"lengths {name}": partial(_cell, name=name, results=results) for name in bins},
            **{f"prefix right in {share} %": partial(_prefix, share=share) for share in (90, 99)},
            "minutes": lambda entry: f"{mean_over(entry, 'minutes'):.1f}",
        }
        parts = []
        for head, cell in cells.items():
            rows = [
                [task, *(cell(at[task, of]) if (task, of) in at else "" for of in learners)]
                for task in tasks
            ]
            if rows := [row for row in rows if any(row[1:])]:
                parts.append(markdown_table([head, *heads], rows))
        return "\n\n".join(parts)


def by_length(evaluation: dict[str, Any]) -> dict[str, list[int]]:
    """Words of about the same length, by the longest that they may have: symbols, words right, words."""
    found: dict[str, list[int]] = {}
    for of_bin in evaluation["bins"].values():
        for length, right, words in of_bin["by_length"]:
            longest = next((longest for longest in _LENGTHS if length <= longest), length)
            sums = found.setdefault(str(longest), [0, 0, 0])
            found[str(longest)] = [a + b for a, b in zip(sums, (length * words, right, words), strict=True)]
    return found


def _cell(entry: dict[str, Any], name: str, results: Results) -> str:
    """Whole words right, mean ± 95 % interval; with how many seeds, where some lack."""
    if name not in entry["summary"]:
        return ""
    words = entry["summary"][name]["words"]
    shown = f"{100 * words['mean']:.1f}"
    if words.get("interval_95"):
        shown += f" ± {100 * words['interval_95']:.1f}"
    count, of = len(entry["runs"]), len(results["seeds"])
    return shown if count == of else f"{shown} ({count} of {of})"


def _prefix(entry: dict[str, Any], share: int) -> str:
    """Of group words, the mean over the seeds."""
    *_, last = entry["summary"].values()
    return f"{last[f'prefix_{share}']['mean']:.0f}" if entry["settings"]["task"] in _OF_GROUPS else ""


@dataclass(frozen=True)
class RateStudy(Study):
    """Each learner with one rate and its two neighbours, of one seed."""

    draw: Callable[[Results, Path], None] = draw_rates

    def table(self, results: Results) -> str:
        """Whole words right in validation, the mean of both bins, and after how many steps."""
        entries = list(results["compared"].values())
        rates = sorted({entry["settings"]["learning_rate"] for entry in entries})
        heads = ["", *(f"{rate:g}" for rate in rates)]
        cells = {_place(entry["label"]): _best(entry) for entry in entries}
        names = {row.name: label for label, row in self.rows.items()}
        cells |= {_place(names[run["row"]]): "diverged" for run in results.get("diverged", [])}
        rows = dict.fromkeys(row for row, _ in map(_place, self.rows))
        shown = [[row, *(cells.get((row, f"{rate:g}"), "") for rate in rates)] for row in rows]
        return markdown_table(heads, [row for row in shown if any(row[1:])])


def _place(label: str) -> tuple[str, str]:
    """Row and column of the table of rates."""
    row, _, rate = label.partition(", rate ")
    return row, rate


def _best(entry: dict[str, Any]) -> str:
    [run] = entry["runs"]
    best = max(run["curve"], key=lambda line: line["accuracy"])
    return f"{100 * best['accuracy']:.1f} % at {best['step']}"


@dataclass(frozen=True)
class Demonstration(Study):
    """Two learners on one task, and what their difference means."""

    def table(self, results: Results) -> str:
        """The shares of the words, and a sentence about the longest ones."""
        entries = results["compared"].values()
        *_, longest = next(iter(entries))["summary"]
        low, high = longest.split("-")
        shares = [f"{_learner_name(e)} has {_cell(e, longest, results)} % of them right" for e in entries]
        return "\n\n".join(
            [
                super().table(results),
                "Both have read words of 2 to 50 bits, and say after each bit whether the number of ones "
                f"so far is even. Words of {low} to {high} bits are longer than any they were trained on: "
                f"the {', the '.join(shares)}, from the first bit to the last.",
            ]
        )


def _learner_name(entry: dict[str, Any]) -> str:
    return LEARNERS[learner_of(entry)][0]


def _rows(tasks: Iterable[str], learners: Iterable[str], kind: str = "") -> dict[str, Settings]:
    return {
        f"{task}, {LEARNERS[learner][0]}": PRESETS[f"{task}{kind}-{learner}"]
        for task in tasks
        for learner in learners
    }


STUDIES: dict[str, Study] = {
    "languages": Study(
        title="Words of a language, learnt on lengths 2 to 50", rows=_rows((*LANGUAGES, *GROUPS), LEARNERS)
    ),
    "languages-demo": Demonstration(
        title="Is the number of ones even? Learnt on words of 2 to 50 bits",
        rows={
            label: replace(row, name=f"demo-{row.name}", steps=500, bins=(100,))
            for label, row in _rows(("parity",), ("srwm", "deltanet")).items()
        },
    ),
    "languages-hard": Study(
        title="Larger groups, programs and nested lists",
        rows=_rows(HARD, ("srwm", "deltanet", "lstm")),
    ),
    "languages-s3": Study(
        title="Products of permutations, learnt on words that grow to 50",
        rows=_rows(("s3",), ("srwm-pre-norm", "deltanet", "deltanet-negative", "lstm"), "-long"),
    ),
    "languages-a5": Study(
        title="Products of even permutations of five, learnt on words that grow to 50",
        rows=_rows(("a5",), ("srwm-pre-norm",), "-long"),
    ),
    "languages-rates": RateStudy(
        title="Learning rates, tried with one seed",
        rows={
            f"{task}, {label}, rate {rate:g}": replace(
                PRESETS[f"{task}-{learner}"], name=f"rates-{task}-{learner}-{rate:g}", learning_rate=rate
            )
            for task in ("parity", "dyck-1")
            for learner, (label, _) in LEARNERS.items()
            for rate in _RATES
        },
    ),
}
