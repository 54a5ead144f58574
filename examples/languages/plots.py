"""Pictures: how a run went, accuracy against length, and learning rates side by side."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from ..training.figures import COLOURS, QUIET, finish, line, new_figure, save
from .presets import LEARNERS
from .settings import Settings

_STYLES: dict[str, dict[str, Any]] = {
    learner: {"label": label, "colour": colour, "marker": marker}
    for (learner, (label, _)), colour, marker in zip(LEARNERS.items(), COLOURS, "os^vDP*X<>", strict=True)
}
_TICKS = (5, 10, 20, 50, 100, 200, 500)


def draw_curves(reports: list[dict[str, Any]], settings: Settings, path: Path) -> None:
    """Draw the loss, and the shares of faultless words, over the steps: the lines of metrics.json."""
    train = [said for said in reports if said["split"] == "train"]
    validation = [said for said in reports if said["split"] == "validation"]
    figure = new_figure(9, 3.8)
    loss, right = figure.subplots(1, 2)
    line(loss, [said["step"] for said in train], [said["loss"] for said in train], None, COLOURS[0])
    loss.set_yscale("log")
    finish(loss, "step", "training loss")
    for (low, high), colour in zip(settings.all_bins, COLOURS, strict=False):
        words = [said.get(f"words_{low}_{high}") for said in validation]
        if None not in words and words:
            steps = [said["step"] for said in validation]
            line(right, steps, words, f"{low} to {high} {settings.words.unit}", colour)
    right.set_ylim(-0.03, 1.03)
    finish(right, "step", "validation words without an error", shares=True)
    save(figure, path, f"{settings.task}, core {settings.core}, run {settings.name}")


def learner_of(entry: dict[str, Any]) -> str:
    """The learner of a row of a study's numbers, as in `LEARNERS`."""
    settings = entry["settings"]
    return str(settings["preset"]).removeprefix(f"{settings['task']}-").removeprefix("long-")


def by_task(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of a study's numbers by their task."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in results["compared"].values():
        found[entry["settings"]["task"]].append(entry)
    return found


def draw_lengths(results: dict[str, Any], path: Path) -> None:
    """Draw whole words right against their length, a panel for each task and a line for each learner."""
    tasks = by_task(results)
    columns = min(len(tasks), 4)
    rows = -(-len(tasks) // columns)
    figure = new_figure(max(3.6 * columns, 7.2), 2.8 * rows + 1.6)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for place, (panel, (task, entries)) in enumerate(zip(panels, tasks.items(), strict=False)):
        for entry in entries:
            line(panel, *_points(entry["runs"]), **_STYLES[learner_of(entry)], linewidth=1.3)
        panel.axvline(entries[0]["settings"]["high"], color=QUIET, linestyle=":", linewidth=1)
        panel.set(title=task, xscale="log", ylim=(-0.04, 1.04))
        is_lowest, is_first = place + columns >= len(tasks), place % columns == 0
        x, y = "length of the word" * is_lowest, "words without an error" * is_first
        finish(panel, x, y, shares=True)
        longest = max(entries[0]["settings"]["bins"], default=entries[0]["settings"]["high"])
        ticks = [tick for tick in _TICKS if tick <= longest]
        panel.set_xticks(ticks, list(map(str, ticks)))
        panel.minorticks_off()
    for panel in panels[len(tasks) :]:
        panel.set_visible(False)
    seeds = len(results["seeds"])
    of_seeds = f"mean over {seeds} seeds" if seeds > 1 else "one seed"
    title = f"{results['title']}: left of the dotted line\n{of_seeds}"
    save(figure, path, title, ncols=3 if columns < 3 else 5)


def _points(runs: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean lengths, and shares of whole words right, of words of about the same length in all runs."""
    together: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(3))
    for run in runs:
        for longest, counted in run["by_length"].items():
            together[longest] += counted
    symbols, right, words = np.array(list(together.values())).T
    return symbols / words, right / words


def draw_rates(results: dict[str, Any], path: Path) -> None:
    """Draw the best validation of each learner against its learning rate, a panel for each task."""
    tasks = by_task(results)
    figure = new_figure(max(4.6 * len(tasks), 7.2), 4.6)
    panels = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    for panel, (task, entries) in zip(panels, tasks.items(), strict=True):
        for learner, style in _STYLES.items():
            points = sorted(
                (entry["settings"]["learning_rate"], max(said["accuracy"] for said in run["curve"]))
                for entry in entries
                if learner_of(entry) == learner
                for run in entry["runs"]
            )
            if points:
                rates, best = zip(*points, strict=True)
                line(panel, rates, best, **style)
        panel.set(title=task, xscale="log", ylim=(-0.04, 1.04))
        finish(panel, "learning rate", "", shares=True)
        tried = sorted({entry["settings"]["learning_rate"] for entry in entries})
        panel.set_xticks(tried, [f"{rate:g}" for rate in tried])
        panel.minorticks_off()
    panels[0].set_ylabel("validation words without an error,\nmean of lengths 2 to 50 and 51 to 100")
    save(figure, path, results["title"], ncols=5)
