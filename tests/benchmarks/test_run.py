"""A run: what is planned, kept, resumed, reported and drawn."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import pytest

from benchmarks.cases import Size
from benchmarks.peers import table
from benchmarks.plan import Measurement, plan
from benchmarks.plots import draw
from benchmarks.report import BEST_JAX, as_markdown, as_time, cost_table, ratio, seconds
from benchmarks.results import Results
from benchmarks.run import made_with
from benchmarks.settings import Settings
from benchmarks.worker import work

PARTS = {"forward": 1e-3, "forward, kept": 2e-3, "backward": 4e-3}


def canned(measurement: Measurement) -> dict:
    """A row as it might have been measured: the nth peer takes n milliseconds."""
    if measurement.mode == "memory":
        return {"bytes": 1_000_000 * (1 + table.ALL.index(measurement.peers[0]))}
    if measurement.mode == "parts":
        return {
            "seconds": PARTS,
            "relative_error": 1e-6,
            "nanoseconds_a_step": {part: taken * 1e5 for part, taken in PARTS.items()},
            "peak_flops": 1e11,
            "fraction_of_peak": dict.fromkeys(PARTS, 0.5),
        }
    peers = [name for name in measurement.peers if name != "torch.compile, loop"]
    return {
        "peers": {
            name: {"seconds": (1 + n) * 1e-3, "setup_seconds": 0.5, "relative_error": 1e-6}
            for n, name in enumerate(peers)
        },
        "not_run": {name: "it takes too long" for name in measurement.peers if name not in peers},
    }


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(out=tmp_path, thread_counts=(1, 2))


@pytest.fixture
def full(settings: Settings) -> Results:
    results = Results(settings.out, made_with(settings), resume=False)
    for measurement in plan(settings):
        results.add(measurement, canned(measurement))
    return results


def test_plan_covers_what_was_asked_for(settings: Settings) -> None:
    rows = plan(settings)
    assert len({row.key for row in rows}) == len(rows)
    sections = {(row.section, row.mode) for row in rows}
    for section in ("sizes", "length", "head", "batch", "threads", "family"):
        assert {(section, "forward"), (section, "training")} <= sections
    assert {("step", "forward"), ("peak", "parts"), ("cost", "parts"), ("memory", "memory")} <= sections
    assert {row.peers for row in rows if row.section == "sizes"} == {table.ALL}
    assert {row.peers[0] for row in rows if row.section == "memory"} == set(table.ALL)
    assert [row.threads for row in rows] == sorted(row.threads for row in rows)  # a process for each


def test_quick_plan_has_every_section_and_compiles_no_torch(settings: Settings) -> None:
    quick = plan(Settings(out=settings.out, thread_counts=(1, 2), quick=True))
    assert {row.section for row in quick} == {row.section for row in plan(settings)}
    assert not any(name.startswith("torch.compile") for row in quick for name in row.peers)


def test_rows_of_the_cost_differ_in_length_alone(settings: Settings) -> None:
    sizes: list[Size] = [row.size for row in plan(settings) if row.section == "cost"]
    assert {(B, H, D) for B, H, _, D in sizes} == {(1, 32, 16)}
    assert [L for _, _, L, _ in sizes] == [16, 64, 256, 1024, 4096, 16384, 65536]


def test_a_cost_that_bends_is_said_to(full: Results) -> None:
    rows = full.of("cost")
    assert "forward 0.0%, forward, kept 0.0%, backward 0.0%" in cost_table(rows)[-2]
    rows[3]["fraction_of_peak"]["backward"] = 0.4  # a quarter more than the line through the others
    assert re.search(r"forward, kept 0\.0%, backward (1\d|2\d)\.\d%", cost_table(rows)[-2])


def test_a_run_that_was_cut_off_goes_on(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = plan(settings)[:3]
    made = []

    def measure_until_interrupted(measurement, rounds):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(measurement)
        return canned(measurement)

    monkeypatch.setattr("benchmarks.worker.measure", measure_until_interrupted)
    with pytest.raises(SystemExit, match="130"):
        work(Results(settings.out, made_with(settings), resume=False), rows, rounds=1)
    resumed = Results(settings.out, made_with(settings), resume=True)
    assert resumed.missing(rows) == rows[2:]
    monkeypatch.setattr("benchmarks.worker.measure", lambda measurement, rounds: canned(measurement))
    work(resumed, resumed.missing(rows), rounds=1)
    stored = json.loads((settings.out / "results.json").read_text())["rows"]
    assert list(stored) == [row.key for row in rows]
    assert stored[rows[0].key]["size"] == list(asdict(rows[0])["size"])
    assert [path.name for path in settings.out.iterdir()] == ["results.json"]  # nothing half written
    assert Results(settings.out, made_with(settings), resume=False).missing(rows) == rows  # afresh


def test_rows_made_otherwise_are_not_mixed(full: Results, settings: Settings) -> None:
    other = made_with(Settings(out=settings.out, thread_counts=(1, 2), rounds=3))
    with pytest.raises(ValueError, match="start afresh"):
        Results(settings.out, other, resume=True)


def test_best_of_jax_and_opponents(full: Results) -> None:
    row = full.of("sizes", "training")[0]
    taken = {name: peer["seconds"] for name, peer in row["peers"].items()}
    assert seconds(row, BEST_JAX) == min(taken[name] for name in table.JAX)
    assert seconds(row, "torch.compile, loop") is None
    assert ratio(row, "PyTorch loop") == taken["PyTorch loop"] / taken["srwm, torch"]
    assert ratio(row, "numba by hand") == taken["numba by hand"] / taken["srwm, NumPy"]


def test_times_read_well() -> None:
    assert [as_time(t) for t in (2.5, 0.0123, 0.00004, 2e-8)] == ["2.5 s", "12.3 ms", "40 µs", "0.02 µs"]


def test_report_says_everything(full: Results) -> None:
    text = as_markdown(full)
    for said in (
        *table.ALL,
        "| 32, 16, 150, 16 | 1.5 | 7 | 11 |",  # the loop's 3 ms / 2; 7 and 11 ms / 1
        "| 2, 8, 512, 16 | 100.0 | 50% | 50% | 50% |",
        "| 65536 | 100 | 200 | 400 |",
        "beside a line a + b L through all of these, at most off by: forward 0.0%",
        "| PyTorch loop | 3 MB | 1.5 |",
        *(
            f"| {name} | forward + backward | 8, 8, 256, 32 | 1 ms | 2 ms | 2 | "
            + ("3 ms | 4 ms | 1.33 |" if name in table.WITH_NUMBA else "– | – | – |")
            for name in table.FAMILY
        ),
        "32, 16, 150, 16, 2 threads",
        "it takes too long",
    ):
        assert said in text, said
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")


def test_plots_are_drawn_of_whatever_is_there(full: Results, settings: Settings) -> None:
    draw(full, settings.out)
    names = {"speed_L.png", "speed_D.png", "speed_BH.png", "cost_L.png", "memory.png"}
    assert {path.name for path in settings.out.glob("*.png")} == names
    empty = settings.out / "empty"
    empty.mkdir()
    draw(Results(empty, {}, resume=False), empty)
