"""Results of evaluations as text."""

from __future__ import annotations

from typing import Any

_NAME = 42  # width of the first column


def episode_table(result: dict[str, Any]) -> str:
    """Of one run on episodes: learner, nearest neighbour, chance."""
    lines = [
        f"{result['n_way']}-way {result['k_shot']}-shot, {result['episodes']:,} episodes of "
        f"{result['classes']} {_classes(result)}",
        f"  ({_shortened(result['alphabets'])})",
        f"{'':{_NAME}}accuracy   {_interval(result)}",
        _row("learner", result["learner"]),
        _row("nearest neighbour (cosine, same encoder)", result["nearest_neighbour"]),
        _chance(result),
    ]
    return "\n".join(lines)


def sequence_table(result: dict[str, Any]) -> str:
    """Of one run on sequences of two tasks: both orders, each task, a few numbers of labels seen."""
    lines = [
        f"two {result['n_way']}-way tasks of {result['k_shot']} images a class, labels one image late; "
        f"{result['sequences']:,} sequences in each order of {_classes(result)}",
    ]
    for name, order in result["orders"].items():
        lines += ["", f"{name:{_NAME}}accuracy   {_interval(result)}"]
        for task, values in order["tasks"].items():
            lines.append(_row(task, values["total"]))
            shots = values["shots"]
            for seen in _some(len(shots["mean"])):
                at = {key: shots[key][seen] for key in ("mean", "interval_95")}
                lines.append(_row(f"    after {seen} label{'s' * (seen != 1)} of the class", at))
        lines += [
            _row("both tasks", order["total"]),
            _row("answering the label shown least often", order["counting_labels"]["total"]),
            _chance(result),
        ]
    return "\n".join(lines)


def run_table(results: list[dict[str, Any]], summary: dict[str, Any]) -> str:
    """Of several runs: mean, standard deviation and interval over them."""
    [part, *_] = summary.get("k_shots", [summary])
    by_student = " (Student's t)" if part["interval"] == "student" else ""
    lines = [
        "",
        f"over {len(results)} runs{'':{_NAME - 12}}mean       sd   {_interval(part)}{by_student}",
    ]
    if "orders" in summary:
        for name, order in summary["orders"].items():
            lines += [
                _run_row(f"{name}: {task}", values["total"]) for task, values in order["tasks"].items()
            ]
            lines.append(_run_row(f"{name}: both tasks", order["total"]))
    else:
        for part in summary.get("k_shots", [summary]):
            shots = f"{part['k_shot']}-shot"
            lines.append(_run_row(f"{shots}: learner", part["learner"]))
            lines.append(_run_row(f"{shots}: nearest neighbour", part["nearest_neighbour"]))
    return "\n".join(lines)


def _interval(result: dict[str, Any]) -> str:
    return "95 % interval" if result["interval"] == "student" else "1.96 sd / n, as published"


def _classes(result: dict[str, Any]) -> str:
    chosen = "classes that chose the settings" if result["split"] == "validation" else ""
    return chosen or "classes never seen in training"


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _some(count: int) -> list[int]:
    return sorted({0, 1, 2, 5, count - 1} & set(range(count)))


def _row(name: str, values: dict[str, float]) -> str:
    return f"{name:{_NAME}}{100 * values['mean']:6.2f} %     ± {100 * values['interval_95']:.2f} %"


def _run_row(name: str, values: dict[str, float]) -> str:
    mean, sd, half = (100 * values[key] for key in ("mean", "sd", "interval_95"))
    return f"{name:{_NAME}}{mean:6.2f} %  {sd:5.2f} %   ± {half:.2f} %"


def _chance(result: dict[str, Any]) -> str:
    return f"{'chance':{_NAME}}{100 * result['chance']:6.2f} %"
