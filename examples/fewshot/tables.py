"""Results of evaluations as text."""

from collections.abc import Iterator
from typing import Any

from ..training.tables import markdown_table, percent

_PLACES = ("first", "second", "third")
LATER = ("just read", "one task later", "two tasks later")


def numbers_of(result: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What a result says in numbers: their names, columns in a study's table ("": none), and values."""
    if "orders" in result:
        for name, order in result["orders"].items():
            for place, (task, values) in zip(_PLACES, order["tasks"].items(), strict=False):
                yield f"{name}: {task}", f"{task}, {place}", values["total"]
            yield f"{name}: both tasks", "", order["total"]
    elif "matrices" in result:
        are_few = len(result["matrices"]) == 2  # orders; else a study's table has their means
        for name, order in result["matrices"].items():
            for place, (task, after) in zip(_PLACES, order.items(), strict=False):
                for last, values in after.items():
                    column = f"{task}, {place}" if task == last else f"{task} after {last}"
                    yield f"{name}: {task} after {last}", column * are_few, values
        for task, means in ({} if are_few else result["later"]).items():
            for when, values in zip(LATER, means, strict=False):
                yield f"{task}, {when}", f"{task}, {when}", values
    else:
        several = "k_shots" in result
        for part in result["k_shots"] if several else [result]:
            shots = f"{part['k_shot']}-shot"
            nearest = "" if several else "nearest neighbour, same encoder"
            yield f"{shots}: learner", shots if several else "learner", part["learner"]
            yield f"{shots}: nearest neighbour", nearest, part["nearest_neighbour"]


def result_table(result: dict[str, Any]) -> str:
    """Of one run."""
    if "orders" in result:
        return _sequence_table(result)
    if "matrices" in result:
        return _task_table(result)
    return "\n\n".join(map(_episode_table, result.get("k_shots", [result])))


def _episode_table(result: dict[str, Any]) -> str:
    """On episodes: learner, nearest neighbour, chance."""
    names = result["alphabets"]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    head = (
        f"{result['n_way']}-way {result['k_shot']}-shot, {result['episodes']:,} episodes of "
        f"{result['classes']} {_classes(result)} ({', '.join(names[:8])}{more})"
    )
    rows = [
        ["learner", percent(result["learner"])],
        ["nearest neighbour (cosine, same encoder)", percent(result["nearest_neighbour"])],
        _chance(result),
    ]
    return f"{head}\n\n{markdown_table(['', f'accuracy ± {_interval(result)}'], rows)}"


def _sequence_table(result: dict[str, Any]) -> str:
    """On sequences of two tasks: both orders, each task, a few numbers of labels seen."""
    parts = [
        f"two {result['n_way']}-way tasks of {result['k_shot']} images a class, labels one image late; "
        f"{result['sequences']:,} sequences in each order of {_classes(result)}",
    ]
    for name, order in result["orders"].items():
        rows = []
        for task, values in order["tasks"].items():
            rows.append([task, percent(values["total"])])
            shots = values["shots"]
            count = len(shots["mean"])
            for seen in sorted({0, 1, 2, 5, count - 1} & set(range(count))):
                at = {key: shots[key][seen] for key in ("mean", "interval_95")}
                rows.append([f"{task}, after {seen} label{'s' * (seen != 1)} of the class", percent(at)])
        rows += [
            ["both tasks", percent(order["total"])],
            ["answering the label shown least often", percent(order["counting_labels"]["total"])],
            _chance(result),
        ]
        parts.append(markdown_table([name, f"accuracy ± {_interval(result)}"], rows))
    return "\n\n".join(parts)


def _task_table(result: dict[str, Any]) -> str:
    """On tasks read one after the other: in each order, each task after each one read."""
    parts = [
        f"{result['n_way']}-way tasks of {result['k_shot']} images a class, read one after the other; "
        f"{result['sequences']:,} sequences in each order of {_classes(result)}; accuracy ± "
        f"{_interval(result)}, chance {_chance(result)[1]}",
    ]
    for order in result["matrices"].values():
        rows = [
            [task, *["" for _ in range(len(order) - len(after))], *map(percent, after.values())]
            for task, after in order.items()
        ]
        parts.append(markdown_table(["", *(f"after {task}" for task in order)], rows))
    return "\n\n".join(parts)


def run_table(count: int, summary: dict[str, Any]) -> str:
    """Of several runs: mean, standard deviation and interval over them."""
    first = summary.get("k_shots", [summary])[0]
    by_student = " (Student's t)" if first["interval"] == "student" else ""
    return markdown_table(
        [f"over {count} runs", f"mean ± {_interval(first)}{by_student}", "sd"],
        [[name, percent(of), f"{100 * of['sd']:.2f} %"] for name, _, of in numbers_of(summary)],
    )


def _interval(result: dict[str, Any]) -> str:
    return "95 % interval" if result["interval"] == "student" else "1.96 sd / n, as published"


def _classes(result: dict[str, Any]) -> str:
    chosen = result["split"] == "validation"
    return "classes that chose the settings" if chosen else "classes never seen in training"


def _chance(result: dict[str, Any]) -> list[str]:
    return ["chance", f"{100 * result['chance']:.2f} %"]
