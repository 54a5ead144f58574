"""Pictures: of a training run, of an evaluation, and of a study."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..training import figures
from ..training.experiments import Results, intervals_of, row_label
from ..training.figures import CHANCE, COLOURS, INK, QUIET
from .domains import domain_names
from .settings import Settings
from .tables import LATER, numbers_of

_COUNTING: dict[str, Any] = {"linewidth": 1.1, "linestyle": (0, (5, 2)), "marker": None, "zorder": 1.9}
_NEAREST: dict[str, Any] = {"color": QUIET, "linewidth": 1.2, "linestyle": "--"}

_BANDS, _BARS = "bands: 95 % intervals", "bars: 95 % intervals"

Values = dict[str, Any]  # "mean" and "interval_95", each a list


def draw_curves(reports: list[dict[str, Any]], settings: Settings, path: Path) -> None:
    """Draw loss, accuracy and speed over the minutes of training, from the lines of metrics.json."""
    train = [report for report in reports if report["split"] == "train"]
    warmup = [report for report in train if report["phase"] == "encoder"]
    episodes = [report for report in train if report["phase"] != "encoder"]
    validation = [report for report in reports if report["split"] == "validation"]
    unit = "sequences" if settings.reads_several_tasks else "episodes"

    def draw(
        axes: Axes, of: list[dict[str, Any]], key: str, label: str | None, colour: str, **style: Any
    ) -> None:
        of = [report for report in of if key in report]
        if of:
            minutes = [report["seconds"] / 60 for report in of]
            figures.line(axes, minutes, [report[key] for report in of], label, colour, **style)

    figure = figures.new_figure(12, 4)
    loss, accuracy, speed = figure.subplots(1, 3)
    draw(loss, warmup, "loss", "encoder's warm-up (all classes)", QUIET)
    draw(loss, episodes, "loss", unit, COLOURS[0])
    figures.finish(loss, "minutes of training", "training loss")
    draw(accuracy, episodes, "accuracy", "training", "#8fb3d9")
    draw(accuracy, validation, "accuracy", "validation", COLOURS[0], marker="o")
    nearest = "nearest neighbour, validation"
    draw(accuracy, validation, "nearest_neighbour", nearest, COLOURS[1], linestyle="--")
    accuracy.axhline(1 / settings.n_way, label="chance", **CHANCE)
    accuracy.set_ylim(0, 1)
    figures.finish(accuracy, "minutes of training", "accuracy", shares=True)
    draw(speed, episodes, f"{unit}_per_second", None, COLOURS[0])
    speed.set_ylim(0, None)
    figures.finish(speed, "minutes of training", f"{unit} per second")
    figures.legend_above(loss)
    figures.legend_above(accuracy)
    figures.save(
        figure,
        path,
        f"{settings.n_way}-way {settings.k_shot}-shot classification of "
        f"{' and '.join(domain_names(settings))}, run {settings.name}",
    )


def draw_result(rows: dict[str, dict[str, Any]], title: str, trained: int, path: Path) -> bool:
    """Draw results of `evaluate`, a line for each: accuracy against the position in a sequence, on each
    task after each task, or against the number of labelled examples, of which one was trained with. False
    for those of episodes alone, which have no such picture.
    """
    first = next(iter(rows.values()))
    if "orders" in first:
        _compare_positions(rows, title, path)
    elif "matrices" in first:
        _compare_tasks(rows, title, path)
    elif "k_shots" in first:
        _draw_shots({label: of["k_shots"] for label, of in rows.items()}, trained, title, path)
    else:
        return False
    return True


def draw_comparison(results: Results, path: Path) -> None:
    """Draw the numbers of a study: as `draw_result`, or learning curves and accuracies."""
    entries = list(results["compared"].values())
    summaries = {row_label(entry, results): entry["summary"] for entry in entries}
    title = f"{results['title']}\n{intervals_of(results)}"
    if not draw_result(summaries, title, entries[0]["settings"]["k_shot"], path):
        _compare_accuracies(results, title, path)


def _compare_accuracies(results: Results, title: str, path: Path) -> None:
    entries = list(results["compared"].values())
    shots = sorted({entry["summary"]["k_shot"] for entry in entries})
    figure = figures.new_figure(12, 3.9 * len(shots) + 1)
    panels = figure.subplots(len(shots), 2, width_ratios=[1.4, 1], squeeze=False)
    colours: dict[str, str] = {}
    for (curves, dots), k_shot in zip(panels, shots, strict=True):
        of_shot = [entry for entry in entries if entry["summary"]["k_shot"] == k_shot]
        compared = []
        for entry in of_shot:
            label = row_label(entry, results).replace(f", {k_shot}-shot", "")
            name = label.split(" (")[0]
            colour = colours.setdefault(name, COLOURS[len(colours)])
            steps, [accuracies] = figures.common_points(
                (run["curve"] for run in entry["runs"]), "step", "accuracy"
            )
            values = figures.least_to_greatest(np.clip(accuracies, *figures.STRETCHED))
            figures.band(curves, steps, values, name, colour)
            mean = entry["summary"]["learner"]
            each = [run["result"]["learner"]["mean"] for run in entry["runs"]]
            compared.append(figures.Dots(label, mean, each, colour, f"{100 * mean['mean']:.2f} %"))
        figures.draw_dots(dots, compared, figures.STRETCHED)
        nearest = np.mean([entry["summary"]["nearest_neighbour"]["mean"] for entry in of_shot])
        dots.axvline(
            min(nearest, figures.STRETCHED[1]), label="nearest neighbour on the same encoder", **_NEAREST
        )
        chance = of_shot[0]["summary"]["chance"]
        curves.axhline(chance, label="chance", **CHANCE)
        dots.axvline(chance, **CHANCE)
        figures.finish(curves, "steps on episodes", f"{k_shot}-shot accuracy in %, validation classes")
        figures.finish(dots, f"{k_shot}-shot accuracy in %, unseen classes", "", grid="x")
        figures.stretch_ends(curves, "y")
        figures.stretch_ends(dots, "x")
    note = "bands: from the least to the greatest of the seeds; small dots: each seed"
    figures.save(figure, path, title, note=note)


def _compare_positions(summaries: dict[str, Any], title: str, path: Path) -> None:
    first = next(iter(summaries.values()))
    orders = first["orders"]
    figure = figures.new_figure(12, 3.7 * len(orders) + 0.8)
    panels = figure.subplots(len(orders), 1, squeeze=False)[:, 0]
    for axes, (name, order) in zip(panels, orders.items(), strict=True):
        _draw_order(axes, order, first["chance"])
        for (start, stop), task in zip(_parts(order), order["tasks"], strict=True):
            _write_above(axes, (start + stop - 1) / 2, task, INK)
            for (label, summary), colour in zip(summaries.items(), COLOURS, strict=False):
                positions = summary["orders"][name]["positions"]
                _draw_part(axes, positions, start, stop, label if start == 0 else None, colour)
    figures.save(figure, path, title, note=_BANDS)


def _compare_tasks(summaries: dict[str, Any], title: str, path: Path) -> None:
    """After each task in each order; of more than two tasks, after so many later ones."""
    first = next(iter(summaries.values()))
    matrices = first["matrices"]
    if len(matrices) > 2:
        _compare_later(summaries, title, path)
        return
    figure, panels = _task_panels(len(matrices), len(next(iter(matrices.values()))))
    for row, (name, order) in zip(panels, matrices.items(), strict=True):
        for axes, task in zip(row, order, strict=True):
            lines = [
                (label, summary["matrices"][name][task], colour)
                for (label, summary), colour in zip(summaries.items(), COLOURS, strict=False)
            ]
            _draw_tasks(axes, f"{name}: asked about {task}", order, lines, first["chance"])
    figures.save(figure, path, title, note=_BARS)


def _compare_later(summaries: dict[str, Any], title: str, path: Path) -> None:
    first = next(iter(summaries.values()))
    figure, [panels] = _task_panels(1, len(first["later"]))
    for axes, task in zip(panels, first["later"], strict=True):
        lines = [
            (label, dict(zip(LATER, summary["later"][task], strict=False)), colour)
            for (label, summary), colour in zip(summaries.items(), COLOURS, strict=False)
        ]
        _draw_tasks(axes, f"asked about {task}", lines[0][1], lines, first["chance"], "when it is asked")
    figures.save(figure, path, title, ncols=3, note=f"{_BARS}; mean over all orders of the tasks")


def draw_settings(results: Results, path: Path) -> None:
    """Draw the numbers of a study by what was changed: a panel for each column of its table."""
    entries = list(results["compared"].values())
    columns = [column for _, column, _ in numbers_of(entries[0]["summary"]) if column]
    figure = figures.new_figure(12, (0.32 * len(entries) + 1.2) * -(-len(columns) // 2) + 0.8)
    panels = figure.subplots(-(-len(columns) // 2), 2, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, column in zip(panels, columns, strict=False):
        compared = []
        for number, entry in enumerate(entries):
            of_runs = [_column(run["result"], column)["mean"] for run in entry["runs"]]
            mean = _column(entry["summary"], column)
            colour = COLOURS[0] if number > 0 else INK
            text = f"{100 * mean['mean']:.1f} %"
            compared.append(figures.Dots(row_label(entry, results), mean, of_runs, colour, text))
        figures.draw_dots(axes, compared)
        axes.axvline(compared[0].value["mean"], color=QUIET, linewidth=1, linestyle=":")
        axes.set_title(column, fontsize="medium", color=INK)
        figures.finish(axes, "accuracy", "", grid="x", shares=True)
    figures.save(figure, path, f"{results['title']}\n{intervals_of(results, 'sequences')}")


def _column(summary: dict[str, Any], column: str) -> Values:
    return next(values for _, of, values in numbers_of(summary) if of == column)


def _task_panels(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    figure = figures.new_figure(max(7, 5 * columns), 3.2 * rows + 1)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _draw_tasks(
    axes: Axes,
    title: str,
    order: dict[str, Any],
    lines: list[tuple[str, Values, str]],
    chance: float,
    along: str = "last task read",
) -> None:
    """Of lines (label, last task read -> values, colour): a point with its interval after each task."""
    for number, (label, after, colour) in enumerate(lines):
        values = {key: [of[key] for of in after.values()] for key in ("mean", "interval_95")}
        middle, low, high = figures.interval(values, figures.SHARES)
        shift = 0.04 * (number - (len(lines) - 1) / 2)  # where bars would hide each other
        x = np.arange(len(order) - len(after), len(order)) + shift  # none before the task was read
        axes.errorbar(x, middle, yerr=[middle - low, high - middle], fmt="none", ecolor=colour, capsize=3)
        figures.line(axes, x, middle, label, colour)
    axes.set_xticks(range(len(order)), list(order))
    axes.set(xlim=(-0.4, len(order) - 0.6), ylim=(0, 1.03))
    axes.axhline(chance, label="chance", **CHANCE)
    axes.set_title(title.replace(", ", ", then "), fontsize="medium", color=INK)
    figures.finish(axes, along, "accuracy", shares=True)


def _draw_shots(of_rows: dict[str, list[dict[str, Any]]], trained: int, title: str, path: Path) -> None:
    """Of rows of results, each with one number of shots; and the first one's nearest neighbour."""
    figure = figures.new_figure(8, 5)
    axes = figure.subplots()
    parts = next(iter(of_rows.values()))
    shots = np.array([part["k_shot"] for part in parts])
    order = np.argsort(shots)

    def in_order(parts: list[dict[str, Any]], name: str) -> figures.Band:
        values = {key: [part[name][key] for part in parts] for key in ("mean", "interval_95")}
        middle, low, high = figures.interval(values, figures.SHARES)
        return middle[order], low[order], high[order]

    for (label, of_row), colour in zip(of_rows.items(), COLOURS, strict=False):
        figures.band(axes, shots[order], in_order(of_row, "learner"), label, colour)
    middle, _, _ = in_order(parts, "nearest_neighbour")
    nearest = "nearest neighbour on the same encoder"
    figures.line(axes, shots[order], middle, nearest, QUIET, linestyle="--")
    axes.axvline(trained, color=INK, linewidth=0.8, linestyle=":", label=f"{trained}, as in training")
    axes.set_xticks(shots[order])
    label = f"accuracy (chance: {parts[0]['chance']:.0%})"
    figures.finish(axes, "labelled examples of each class", label, shares=True)
    figures.save(figure, path, title, ncols=2, note=_BANDS)


def _draw_order(axes: Axes, order: dict[str, Any], chance: float) -> None:
    """What does not depend on the learner: counting, chance, where the task changes, and the axes."""
    (_, switch), (_, length) = _parts(order)
    counted = order["counting_labels"]["positions"]["mean"]
    for start, stop in _parts(order):
        label = "answering the label shown least often, without looking" if start == 0 else None
        figures.line(axes, range(start, stop), counted[start:stop], label, QUIET, **_COUNTING)
    axes.axhline(chance, label="chance", **CHANCE)
    axes.axvline(switch - 0.5, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label="the task changes")
    axes.set(xlim=(-0.5, length - 0.5), ylim=(0, 1))
    figures.finish(axes, "position in the sequence", "accuracy", shares=True)


def _draw_part(
    axes: Axes, positions: Values, start: int, stop: int, label: str | None, colour: str
) -> None:
    """Of one task: a line through the other one's beginning would show nothing that is."""
    part = {key: positions[key][start:stop] for key in ("mean", "interval_95")}
    values = figures.interval(part, figures.SHARES)
    figures.band(axes, range(start, stop), values, label, colour, marker=None)


def _parts(order: dict[str, Any]) -> list[tuple[int, int]]:
    """The positions of the first task, and of the second."""
    return [(0, order["switch"]), (order["switch"], len(order["positions"]["mean"]))]


def _write_above(axes: Axes, x: float, text: str, colour: str) -> None:
    above = axes.get_xaxis_transform()  # x in data, y from 0 to 1
    axes.text(x, 1.02, text, transform=above, ha="center", va="bottom", color=colour, fontweight="bold")
