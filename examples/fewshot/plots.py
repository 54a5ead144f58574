"""Pictures: of a training run, of an evaluation, and of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..training import figures
from ..training.experiments import Results, intervals_of, row_label
from ..training.figures import CHANCE, COLOURS, INK, QUIET
from .domains import domain_names
from .settings import Settings

_COUNTING: dict[str, Any] = {"linewidth": 1.1, "linestyle": (0, (5, 2)), "marker": None, "zorder": 1.9}
_NEAREST: dict[str, Any] = {"color": QUIET, "linewidth": 1.2, "linestyle": "--"}

Values = dict[str, Any]  # "mean" and "interval_95", each a list


def draw_curves(reports: list[dict[str, Any]], settings: Settings, path: Path) -> None:
    """Draw loss, accuracy and speed over the minutes of training.

    Parameters
    ----------
    reports : the lines of metrics.json.
    settings : of the run.
    path : of the picture.
    """
    train = [report for report in reports if report["split"] == "train"]
    warmup = [report for report in train if report["phase"] == "encoder"]
    episodes = [report for report in train if report["phase"] != "encoder"]
    validation = [report for report in reports if report["split"] == "validation"]
    unit = "sequences" if settings.reads_several_tasks else "episodes"

    def draw(
        axes: Axes, of: list[dict[str, Any]], key: str, label: str | None, colour: str, **style: Any
    ) -> None:
        of = [report for report in of if key in report]
        if not of:
            return
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


def draw_positions(
    orders: dict[str, dict[str, Any]], *, names: list[str], chance: float, title: str, path: Path
) -> None:
    """Accuracy along sequences of two tasks, in both orders, and after each number of labels.

    Parameters
    ----------
    orders : for each order "switch", a position; "positions", values of each position; "tasks", for each
        name, in the order of the sequence, the values "total" and "shots"; and "counting_labels", the
        values "positions" and "shots" of who looks at no image.
    names : of the two domains, in the order of their colours.
    chance : accuracy of guessing.
    title, path : of the picture.
    """
    colours = dict(zip(names, COLOURS, strict=False))
    figure = figures.new_figure(13, 3.6 * len(orders) + 1.2)
    panels = figure.subplots(len(orders), 2, width_ratios=[2.6, 1], squeeze=False)
    for (along, beside), order in zip(panels, orders.values(), strict=True):
        _draw_order(along, order, chance)
        for (start, stop), name in zip(_parts(order), order["tasks"], strict=True):
            along.axvspan(start - 0.5, stop - 0.5, color=colours[name], alpha=0.055, linewidth=0)
            _draw_part(along, order["positions"], start, stop, None, colours[name])
            total = {key: 100 * value for key, value in order["tasks"][name]["total"].items()}
            told = f"{name}: {total['mean']:.1f} ± {total['interval_95']:.1f} %"
            _write_above(along, (start + stop - 1) / 2, told, colours[name])
            values = order["tasks"][name]["shots"]
            figures.band(
                beside,
                range(len(values["mean"])),
                figures.interval(values, figures.SHARES),
                name,
                colours[name],
            )
        counted = order["counting_labels"]["shots"]["mean"]
        figures.line(beside, range(len(counted)), counted, None, QUIET, **_COUNTING)
        beside.axhline(chance, **CHANCE)
        beside.set_ylim(0, 1)
        beside.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        figures.finish(beside, "labels of the class seen before", "accuracy", shares=True)
    figures.save(figure, path, title, note="bands: 95 % intervals")


def draw_tasks(
    matrices: dict[str, dict[str, Any]], *, names: list[str], chance: float, title: str, path: Path
) -> None:
    """Accuracy on each task after each task, one panel an order.

    Parameters
    ----------
    matrices : order -> task that is asked -> last task that was read -> values.
    names : of the domains, in the order of their colours.
    chance : accuracy of guessing.
    title, path : of the picture.
    """
    colours = dict(zip(names, COLOURS, strict=False))
    figure, panels = _task_panels(len(matrices) // 2, 2)  # T! orders
    for axes, (name, order) in zip(panels.flat, matrices.items(), strict=True):
        for place, (task, after) in enumerate(order.items()):
            shift = 0.04 * (place - (len(order) - 1) / 2)  # where bars would hide each other
            _draw_task(axes, order, place, after, f"asked about {task}", colours[task], shift)
        _finish_tasks(axes, name, chance)
    figures.save(figure, path, title, note="bars: 95 % intervals")


def draw_shots(
    shots: list[int], lines: dict[str, Values], *, trained: int, chance: float, title: str, path: Path
) -> None:
    """Accuracy against the number of labelled examples of each class.

    Parameters
    ----------
    shots : the numbers.
    lines : what it is called -> its values for each number; the last is the nearest neighbour.
    trained : the number in training.
    chance : accuracy of guessing.
    title, path : of the picture.
    """
    figure = figures.new_figure(8, 5)
    axes = figure.subplots()
    order = np.argsort(shots)
    at = np.array(shots)[order]
    for place, (label, values) in enumerate(lines.items()):
        middle, low, high = (part[order] for part in figures.interval(values, figures.SHARES))
        if place < len(lines) - 1:
            figures.band(axes, at, (middle, low, high), label, COLOURS[place])
        else:
            figures.line(axes, at, middle, label, QUIET, linestyle="--")
    axes.axvline(trained, color=INK, linewidth=0.8, linestyle=":", label=f"{trained}, as in training")
    axes.set_xticks(at)
    figures.finish(axes, "labelled examples of each class", f"accuracy (chance: {chance:.0%})", shares=True)
    figures.save(figure, path, title, ncols=2, note="bands: 95 % intervals")


def values_of(parts: list[dict[str, Any]], name: str) -> Values:
    """Of results with one number of shots each: the values of this name together."""
    return {key: [part[name][key] for part in parts] for key in ("mean", "interval_95")}


def draw_comparison(results: Results, path: Path) -> None:
    """Draw the numbers of a study.

    Parameters
    ----------
    results : their form decides on the picture: learning curves and accuracies, accuracy against the
        position in a sequence, on each task after each task, or against the number of shots.
    path : of the picture.
    """
    summary = next(iter(results["compared"].values()))["summary"]
    title = f"{results['title']}\n{intervals_of(results)}"
    if "orders" in summary:
        _compare_positions(results, title, path)
    elif "matrices" in summary:
        _compare_tasks(results, title, path)
    elif "k_shots" in summary:
        _compare_shots(results, title, path)
    else:
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
            colour = colours.setdefault(label.split(" (")[0], COLOURS[len(colours)])
            steps, [accuracies] = figures.common_points(
                (run["curve"] for run in entry["runs"]), "step", "accuracy"
            )
            figures.band(
                curves,
                steps,
                figures.least_to_greatest(np.clip(accuracies, *figures.STRETCHED)),
                label.split(" (")[0],
                colour,
            )
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


def _compare_positions(results: Results, title: str, path: Path) -> None:
    entries = list(results["compared"].values())
    orders = list(entries[0]["summary"]["orders"])
    figure = figures.new_figure(12, 3.7 * len(orders) + 0.8)
    for axes, name in zip(figure.subplots(len(orders), 1, squeeze=False)[:, 0], orders, strict=True):
        order = entries[0]["summary"]["orders"][name]
        _draw_order(axes, order, entries[0]["summary"]["chance"])
        for (start, stop), task in zip(_parts(order), order["tasks"], strict=True):
            _write_above(axes, (start + stop - 1) / 2, task, INK)
            for entry, colour in zip(entries, COLOURS, strict=False):
                label = row_label(entry, results) if start == 0 else None
                positions = entry["summary"]["orders"][name]["positions"]
                _draw_part(axes, positions, start, stop, label, colour)
    figures.save(figure, path, title, note="bands: 95 % intervals")


def _compare_tasks(results: Results, title: str, path: Path) -> None:
    entries = list(results["compared"].values())
    matrices = entries[0]["summary"]["matrices"]
    figure, panels = _task_panels(len(matrices), len(next(iter(matrices.values()))))
    for row, (name, order) in zip(panels, matrices.items(), strict=True):
        for place, (axes, task) in enumerate(zip(row, order, strict=True)):
            for number, (entry, colour) in enumerate(zip(entries, COLOURS, strict=False)):
                after = entry["summary"]["matrices"][name][task]
                shift = 0.04 * (number - (len(entries) - 1) / 2)
                _draw_task(axes, order, place, after, row_label(entry, results), colour, shift)
            _finish_tasks(axes, f"{name}: asked about {task}", entries[0]["summary"]["chance"])
    figures.save(figure, path, title, note="bars: 95 % intervals")


def _task_panels(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    figure = figures.new_figure(max(7, 5 * columns), 3.2 * rows + 1)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _draw_task(
    axes: Axes,
    order: dict[str, Any],
    place: int,
    after: dict[str, Any],
    label: str,
    colour: str,
    shift: float,
) -> None:
    """Of the task at this place in an order: a point with its interval after each task from it on."""
    values = {key: [of[key] for of in after.values()] for key in ("mean", "interval_95")}
    middle, low, high = figures.interval(values, figures.SHARES)
    x = np.arange(place, len(order)) + shift
    axes.errorbar(x, middle, yerr=[middle - low, high - middle], fmt="none", ecolor=colour, capsize=3)
    figures.line(axes, x, middle, label, colour)
    axes.set_xticks(range(len(order)), list(order))
    axes.set(xlim=(-0.4, len(order) - 0.6), ylim=(0, 1.03))


def _finish_tasks(axes: Axes, title: str, chance: float) -> None:
    axes.axhline(chance, label="chance", **CHANCE)
    axes.set_title(title.replace(", ", ", then "), fontsize="medium", color=INK)
    figures.finish(axes, "last task read", "accuracy", shares=True)


def _compare_shots(results: Results, title: str, path: Path) -> None:
    entries = list(results["compared"].values())
    parts = entries[0]["summary"]["k_shots"]
    lines = {
        row_label(entry, results): values_of(entry["summary"]["k_shots"], "learner") for entry in entries
    }
    draw_shots(
        [part["k_shot"] for part in parts],
        lines | {"nearest neighbour on the same encoder": values_of(parts, "nearest_neighbour")},
        trained=entries[0]["settings"]["k_shot"],
        chance=parts[0]["chance"],
        title=title,
        path=path,
    )


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
    figures.band(
        axes, range(start, stop), figures.interval(part, figures.SHARES), label, colour, marker=None
    )


def _parts(order: dict[str, Any]) -> list[tuple[int, int]]:
    """The positions of the first task, and of the second."""
    return [(0, order["switch"]), (order["switch"], len(order["positions"]["mean"]))]


def _write_above(axes: Axes, x: float, text: str, colour: str) -> None:
    above = axes.get_xaxis_transform()  # x in data, y from 0 to 1
    axes.text(x, 1.02, text, transform=above, ha="center", va="bottom", color=colour, fontweight="bold")
