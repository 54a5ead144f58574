"""The results as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from benchmarks.peers import table
from benchmarks.results import Results, Row

BEST_JAX = "JAX, best form"
AGAINST = ("PyTorch loop", BEST_JAX, "numba by hand")


def opponent(peer: str) -> str:
    """The form of srwm that a peer is compared with: on tensors those on tensors, else that on arrays."""
    return "srwm, torch" if peer in table.ON_TENSORS else "srwm, NumPy"


def seconds(row: Row, peer: str) -> float | None:
    """A peer's time in a row; of JAX the fastest form's, if that is asked for; None if it did not run."""
    forms = table.JAX if peer == BEST_JAX else (peer,)
    times = [row["peers"][form]["seconds"] for form in forms if form in row["peers"]]
    return min(times, default=None)


def ratio(row: Row, peer: str) -> float | None:
    """How many times longer a peer takes than srwm."""
    theirs, ours = seconds(row, peer), seconds(row, opponent(peer))
    return None if theirs is None or ours is None else theirs / ours


def as_time(taken: float) -> str:
    """Seconds, in the unit in which they read best."""
    units = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
    unit = next((unit for unit, size in units.items() if taken >= size), "µs")
    return f"{taken / units[unit]:.3g} {unit}"


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def sized(row: Row) -> str:
    """(B, H, L, D) of a row, and its threads where there are several."""
    threads = f", {row['threads']} threads" if row["threads"] > 1 else ""
    return ", ".join(map(str, row["size"])) + threads


def peer_table(title: str, rows: list[Row]) -> list[str]:
    """Times of all peers, and how many times longer than srwm they took: a column for each row."""
    if not rows:
        return []

    def cell(row: Row, peer: str) -> str:
        taken = seconds(row, peer)
        if taken is None:
            return "–"
        times = ratio(row, peer)
        return (
            as_time(taken)
            if peer.startswith("srwm") or times is None
            else f"{as_time(taken)} ({times:.3g}×)"
        )

    peers = dict.fromkeys(peer for row in rows for peer in (*row["peers"], *row["not_run"]))
    lines = grid(
        [f"{title}; (B, H, L, D)", *map(sized, rows)],
        [[peer, *(cell(row, peer) for row in rows)] for peer in peers],
    )
    reasons = {peer: why for row in rows for peer, why in row["not_run"].items()}
    lines[-1:-1] = [""] * bool(reasons) + [f"– {peer}: {why}." for peer, why in reasons.items()]
    return lines


def ratio_table(title: str, rows: list[Row]) -> list[str]:
    """How much faster srwm is than the three peers that matter most."""
    if not rows:
        return []

    def cell(row: Row, peer: str) -> str:
        times = ratio(row, peer)
        return "–" if times is None else f"{times:.3g}"

    return grid(
        [f"{title}: srwm is faster by, (B, H, L, D)", *AGAINST],
        [[sized(row), *(cell(row, peer) for peer in AGAINST)] for row in rows],
    )


def peak_table(rows: list[Row]) -> list[str]:
    """Shares of the processor's multiply-add peak."""
    if not rows:
        return []
    parts = ("forward", "forward, kept", "backward")
    return grid(
        ["share of the FMA peak, one thread, its own time; (B, H, L, D)", "peak, GFLOP/s", *parts],
        [
            [
                sized(row),
                f"{row['peak_flops'] / 1e9:.1f}",
                *(f"{row['fraction_of_peak'][p]:.0%}" for p in parts),
            ]
            for row in rows
        ],
    )


def cost_table(rows: list[Row]) -> list[str]:
    """What one step costs as sequences grow."""
    if not rows:
        return []
    parts = ("forward", "forward, kept", "backward")

    lengths = np.array([row["size"][2] for row in rows], float)

    def unevenness(part: str) -> float:
        """The greatest relative distance of a call's cost from a line a + b L through all of them."""
        # Steps of the peak loop timed beside each, so that a clock that changes between rows cancels.
        cost = lengths / np.array([row["fraction_of_peak"][part] for row in rows])
        line = np.stack([np.ones_like(lengths), lengths], axis=1)
        weighted, *_ = np.linalg.lstsq(line / cost[:, None], np.ones_like(lengths), rcond=None)
        return float(np.abs(line @ weighted / cost - 1).max())

    lines = grid(
        [f"one step of one of {rows[0]['size'][1]} sequences, D = 16, ns; L", *parts],
        [
            [str(row["size"][2]), *(f"{row['nanoseconds_a_step'][part]:.0f}" for part in parts)]
            for row in rows
        ],
    )
    return [
        *lines,
        "Cost of a call, beside a line a + b L through all of these, at most off by: "
        + ", ".join(f"{part} {unevenness(part):.1%}" for part in parts)
        + ".",
        "",
    ]


def memory_table(rows: list[Row]) -> list[str]:
    """Peak memory."""
    if not rows:
        return []
    held = {row["peers"][0]: row.get("bytes") for row in rows}
    ours = held.get("srwm, torch")

    def cells(peer: str, taken: int | None) -> list[str]:
        if taken is None:
            return [peer, "–", "–"]
        return [peer, f"{taken / 1e6:.0f} MB", f"{taken / ours:.3g}" if ours else "–"]

    return grid(
        [f"peak memory, forward + backward, ({sized(rows[0])})", "", "times srwm, torch"],
        [cells(peer, taken) for peer, taken in held.items()],
    )


def family_table(rows: list[Row]) -> list[str]:
    """The other operators, each beside its loops."""
    if not rows:
        return []

    def cells(row: Row) -> list[str]:
        found = []
        for ours, theirs in table.pairs(row["member"]):
            if ours not in row["peers"]:  # as of most in a quick run
                continue
            a, b = row["peers"][ours]["seconds"], row["peers"][theirs]["seconds"]
            found += [as_time(a), as_time(b), f"{b / a:.3g}"]
        mode = "forward" if row["mode"] == "forward" else "forward + backward"
        return [row["member"], mode, sized(row), *found, *["–"] * (len(head) - 3 - len(found))]

    head = ["other operators", "", "(B, H, L, D)", "srwm, torch", "PyTorch loop", "faster by"]
    head += ["srwm, NumPy", "numba by hand", "faster by"]
    return grid(head, map(cells, rows))


def threads_table(rows: list[Row]) -> list[str]:
    """What more threads are worth to srwm: beside one thread in the same process."""
    several = [row for row in rows if row["threads"] > 1]
    if not several:
        return []

    def cells(row: Row) -> list[str]:
        one, more = (row["peers"][name]["seconds"] for name in (table.ONE_THREAD, "srwm, NumPy"))
        mode = "forward" if row["mode"] == "forward" else "forward + backward"
        return [mode, sized(row), as_time(one), as_time(more), f"{one / more:.2f}"]

    return grid(
        ["srwm on several threads", "(B, H, L, D)", "one thread", "all", "faster by"], map(cells, several)
    )


def setup_table(rows: list[Row]) -> list[str]:
    """What comes before a peer's first result: compilation, for the most part."""
    if not rows:
        return []
    row = rows[0]
    waiting = {name: peer["setup_seconds"] for name, peer in row["peers"].items()}
    return grid(
        [f"until the first result, forward + backward, ({sized(row)})", "seconds"],
        [[name, f"{taken:.2f}"] for name, taken in waiting.items()],
    )


def as_markdown(results: Results) -> str:
    """Everything."""
    made_with = results.made_with
    versions = ", ".join(f"{name} {version}" for name, version in made_with["versions"].items())
    training = results.of("sizes", "training")
    lines = [
        f"float32, medians of {made_with['settings']['rounds']} interleaved rounds, one thread where no "
        f"other number is given. {made_with['processor']}, Python {made_with['python']}, {versions}.",
        "Outputs and gradients were compared with the float64 reference first. In brackets: how many "
        "times longer than srwm takes, through torch beside those that compute with tensors, on NumPy "
        "arrays beside the others.",
        "",
        *ratio_table("forward + backward", training),
        *peer_table("forward + backward", training),
        *peer_table("forward", results.of("sizes", "forward")),
        *peer_table("one step", results.of("step")),
        *peak_table(results.of("peak")),
        *threads_table(results.of("threads")),
        *memory_table(results.of("memory")),
        *cost_table(results.of("cost")),
        *family_table(results.of("family")),
    ]
    for section, name in (("length", "L"), ("head", "D"), ("batch", "B·H"), ("threads", "threads")):
        for mode, said in (("training", "forward + backward"), ("forward", "forward")):
            lines += peer_table(f"by {name}, {said}", results.of(section, mode))
    lines += setup_table(training)
    return "\n".join(lines)
