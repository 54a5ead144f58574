"""Results of evaluations as text."""

from __future__ import annotations

from typing import Any

from ..training.tables import markdown_table, percent


def episode_table(result: dict[str, Any]) -> str:
    """Of one run on episodes: learner, nearest neighbour, chance."""
    head = (
        f"{result['n_way']}-way {result['k_shot']}-shot, {result['episodes']:,} episodes of "
        f"{result['classes']} {_classes(result)} ({_shortened(result['alphabets'])})"
    )
    rows = [
        ["learner", percent(result["learner"])],
        ["nearest neighbour (cosine, same encoder)", percent(result["nearest_neighbour"])],
        _chance(result),
    ]
    return f"{head}\n\n{markdown_table(['', f'accuracy ± {_interval(result)}'], rows)}"


def sequence_table(result: dict[str, Any]) -> str:
    """Of one run on sequences of two tasks: both orders, each task, a few numbers of labels seen."""
    parts = [
        f"two {result['n_way']}-way tasks of {result['k_shot']} images a class, labels one image late; "
        f"{result['sequences']:,} sequences in each order of {_classes(result)}",
    ]
    for name, order in result["orders"].items():
        rows = []
        for task, values in order["tasks"].items():
            rows.append([task, percent(values["total"])])
            shots = values["shots"]
            for seen in _some(len(shots["mean"])):
                at = {key: shots[key][seen] for key in ("mean", "interval_95")}
                rows.append([f"{task}, after {seen} label{'s' * (seen != 1)} of the class", percent(at)])
        rows += [
            ["both tasks", percent(order["total"])],
            ["answering the label shown least often", percent(order["counting_labels"]["total"])],
            _chance(result),
        ]
        parts.append(markdown_table([name, f"accuracy ± {_interval(result)}"], rows))
    return "\n\n".join(parts)


def task_table(result: dict[str, Any]) -> str:
    """Of one run on tasks read one after the other: in each order, each task after each one read."""
    parts = [
        f"{result['n_way']}-way tasks of {result['k_shot']} images a class, read one after the other; "
        f"{result['sequences']:,} sequences in each order of {_classes(result)}; accuracy ± "
        f"{_interval(result)}, chance {100 * result['chance']:.2f} %",
    ]
    for order in result["matrices"].values():
        rows = [
            [task, *["" for _ in range(len(order) - len(after))], *map(percent, after.values())]
            for task, after in order.items()
        ]
        parts.append(markdown_table(["", *(f"after {task}" for task in order)], rows))
    return "\n\n".join(parts)


def run_table(results: list[dict[str, Any]], summary: dict[str, Any]) -> str:
    """Of several runs: mean, standard deviation and interval over them."""
    parts = summary.get("k_shots", [summary])
    named: dict[str, Any] = {}
    if "orders" in summary:
        for name, order in summary["orders"].items():
            named |= {f"{name}: {task}": values["total"] for task, values in order["tasks"].items()}
            named[f"{name}: both tasks"] = order["total"]
    elif "matrices" in summary:
        for name, order in summary["matrices"].items():
            for task, after in order.items():
                named |= {f"{name}: {task} after {last}": values for last, values in after.items()}
    else:
        for part in parts:
            shots = f"{part['k_shot']}-shot"
            named[f"{shots}: learner"] = part["learner"]
            named[f"{shots}: nearest neighbour"] = part["nearest_neighbour"]
    by_student = " (Student's t)" if parts[0]["interval"] == "student" else ""
    return markdown_table(
        [f"over {len(results)} runs", f"mean ± {_interval(parts[0])}{by_student}", "sd"],
        [[name, percent(values), f"{100 * values['sd']:.2f} %"] for name, values in named.items()],
    )


def _interval(result: dict[str, Any]) -> str:
    return "95 % interval" if result["interval"] == "student" else "1.96 sd / n, as published"


def _classes(result: dict[str, Any]) -> str:
    chosen = "classes that chose the settings" if result["split"] == "validation" else ""
    return chosen or "classes never seen in training"


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _some(count: int) -> list[int]:
    return sorted({0, 1, 2, 5, count - 1} & set(range(count)))


def _chance(result: dict[str, Any]) -> list[str]:
    return ["chance", f"{100 * result['chance']:.2f} %"]
