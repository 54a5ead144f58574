"""The check of a device, without one: what is compared, run, ended and reported, never how long it took."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import count

import pytest
import torch

from benchmarks import gpu_check, gpu_speed
from benchmarks.gpu_check import Step

SIZES = ((1, 2, 1, 4), (2, 2, 3, 4))
PARTS = ("forward", "forward + backward")
TIMES = ("single ms", "warm ms", "graph ms", "loop, single ms", "loop, warm ms")


class Event:
    """Stands in for CUDA's: each is recorded 2 ms after the one before."""

    recorded = count()

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = 2.0 * next(self.recorded)

    def synchronize(self) -> None:
        """Nothing is waited for."""

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


class Graph:
    """Stands in for CUDA's: its results stay those of the capture."""

    def replay(self) -> None:
        """Nothing is computed."""


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> gpu_speed.Device:
    """The CPU in the place of a device; the host's clock is 8 ms further each time it is read."""
    reads = count()
    for name, stand_in in {
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": lambda graph: nullcontext(),
        "Stream": lambda: None,
        "stream": lambda stream: nullcontext(),
        "synchronize": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return replace(gpu_speed.cuda(), name="cpu", now=lambda: 8e-3 * next(reads))


def test_every_size_is_timed_in_every_way(device):
    rows = list(gpu_speed.speed(device, SIZES))
    assert [(row["B, H, L, D"], row["what"]) for row in rows] == [
        (list(size), what) for size in SIZES for what in PARTS
    ]
    for row in rows:
        assert row.keys() == {"B, H, L, D", "what", *TIMES, "calls"}
        assert row["calls"] == 20
        assert [row[time] for time in TIMES] == pytest.approx([8, 8 / 20, 2 / 20, 8, 8 / 13])


def test_a_step_of_an_agent_is_among_the_sizes():
    assert gpu_speed.SIZES[0] == (1, 8, 1, 16)


def test_a_call_is_timed_from_an_idle_device_to_the_end_of_the_last_one(device):
    order: list[str] = []

    def now() -> float:
        order.append("clock")
        return 4.0 * order.count("clock")

    watched = replace(device, synchronize=lambda: order.append("wait"), now=now)
    assert gpu_speed.seconds_a_call(watched, lambda: order.append("call"), 2) == 2.0
    assert order == ["wait", "clock", "call", "call", "wait", "clock"]


@pytest.mark.parametrize(
    ("a_call", "least", "calls"), [(1e-5, 20, 10_000), (5e-3, 20, 20), (0.03, 2, 4), (0.3, 2, 2)]
)
def test_a_warm_loop_is_long_enough(a_call, least, calls):
    assert gpu_speed.calls_of_a_loop(a_call, least) == calls


def never() -> float:
    raise AssertionError("it was timed before it was compared")


@pytest.mark.parametrize("wrong", [1.001, float("nan")])
@pytest.mark.parametrize("place", range(3))
def test_a_wrong_result_is_not_timed(device, place, wrong):
    right = gpu_speed.calls_of(gpu_speed.eager_y, SIZES[1], "cpu")["forward + backward"]

    def ours() -> tuple[torch.Tensor, ...]:
        return tuple(wrong * t if i == place else t for i, t in enumerate(right()))

    with pytest.raises(RuntimeError, match=r"^gpu_speed: backward at .*\(2, 2, 3, 4\): expected .* got"):
        gpu_speed.row_of(replace(device, now=never), SIZES[1], "backward", ours, right)


def test_a_graph_with_wrong_results_is_not_timed(device):
    right = gpu_speed.calls_of(gpu_speed.eager_y, SIZES[1], "cpu")["forward"]

    def captured(call: gpu_speed.Call, times: int) -> gpu_speed.Call:
        assert times == gpu_speed.IN_GRAPH
        return lambda: tuple(2 * t for t in call())

    with pytest.raises(RuntimeError, match=r"^gpu_speed: forward in a graph at"):
        gpu_speed.row_of(replace(device, captured=captured, now=never), SIZES[1], "forward", right, right)


def test_a_graph_holds_as_many_calls_as_its_time_is_divided_by(device):
    calls: list[int] = []

    def call() -> tuple[int]:
        calls.append(len(calls))
        return (len(calls),)

    replay = gpu_speed.captured(call, 7)
    assert len(calls) == 1 + 7
    assert replay() == (8,)
    assert len(calls) == 8


def test_rows_that_came_are_left_by_a_step_that_was_cut_off(tmp_path):
    path = tmp_path / "speed.jsonl"

    def rows() -> Iterator[dict[str, int]]:
        yield {"row": 1}
        yield {"row": 2}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gpu_speed.write(rows(), path)
    assert gpu_check.left_by(path) == [{"row": 1}, {"row": 2}]
    path.write_text('{"row": 1}\n{"row"')
    assert gpu_check.left_by(path) == [{"row": 1}]
    assert gpu_check.left_by(tmp_path / "never.jsonl") == []


# ---- steps


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_a_step_says_its_exit_status_and_its_last_lines():
    program = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    result = gpu_check.ran(Step("a step", python(program), 600), 600)
    assert (result["name"], result["status"]) == ("a step", 3)
    assert set(result["tail"].splitlines()) == {"out", "err"}


@pytest.mark.skipif(
    sys.platform == "win32", reason="a step's processes are ended as a group, which is POSIX"
)
def test_a_step_that_hangs_is_ended_with_what_it_started():
    hangs = ["sh", "-c", "sleep 600 & echo began; wait"]  # its child holds the output open
    result = gpu_check.ran(Step("a step", hangs, 2), 2)
    assert result["status"] == gpu_check.TIMED_OUT
    assert result["tail"].splitlines() == ["began", "ended at its limit of 2 seconds"]
    assert gpu_check.has_failed([result])


def test_a_tool_that_is_not_installed_is_no_failure():
    result = gpu_check.ran(Step("a step", ["no-such-tool"], 1), 1)
    assert result["tail"] == "no-such-tool is not installed"
    assert not gpu_check.has_failed([result])


def test_a_step_that_a_signal_ended_has_failed():
    assert gpu_check.has_failed([{"status": 0}, {"status": -11}])


def test_every_step_runs_and_may_take_what_the_ones_before_left(capsys):
    clock, allowed = [100.0], []

    def run(step: Step, seconds: float) -> dict[str, object]:
        allowed.append(seconds)
        clock[0] += 4.0
        return {"name": step.name, "status": 1, "tail": ""}

    results = gpu_check.ran_all([Step(n, [], 10) for n in "abc"], run, lambda: clock[0])
    assert allowed == [10, 16, 22]
    assert [result["name"] for result in results] == ["a", "b", "c"]


def test_it_ends_within_ten_minutes(tmp_path):
    every = gpu_check.steps(tmp_path, speed_only=False)
    assert sum(step.seconds for step in every) <= 580
    assert every[:2] == gpu_check.steps(tmp_path, speed_only=True)


# ---- the report


def report(**parts: object) -> dict[str, object]:
    row = {"B, H, L, D": [1, 8, 1, 16], "what": "forward", "calls": 20}
    row |= dict(zip(TIMES, (0.04, 0.0125, 0.0034, 0.4, 0.3), strict=True))
    return {
        **{"device": "a device", "cupy": "14", "torch": "2.13", "python": "3.11"},
        "steps": [
            {"name": "parity", "command": "pytest", "status": 124, "tail": "began\nended at its limit"}
        ],
        "speed": [row],
        "cycles": [{"kernel": "srwm_forward", "D": 16, "cycles": 721.4}],
        **parts,
    }


def test_the_report_says_everything():
    lines = gpu_check.as_markdown(report()).splitlines()
    for said in (
        "# a device, CuPy 14, PyTorch 2.13",
        "| parity | 124 | ended at its limit |",
        "| B, H, L, D | | srwm | PyTorch loop | times faster |",
        "| 1, 8, 1, 16 | forward | 0.040 | 0.400 | 10.0 |",
        "| B, H, L, D | | srwm | in a graph | PyTorch loop | times faster |",
        "| 1, 8, 1, 16 | forward | 0.0125 | 0.0034 | 0.300 | 24.0 |",
        "| srwm_forward | 16 | 721 |",
    ):
        assert said in lines, said


def test_a_report_of_nothing_measured_has_its_tables():
    text = gpu_check.as_markdown(report(speed=[], cycles=[]))
    assert text.count("| B, H, L, D |") == 2


def test_the_script_leaves_both_reports_and_fails_where_a_step_did(monkeypatch, tmp_path):
    cupy = pytest.importorskip("cupy")
    folder = tmp_path / "gpu-check"
    monkeypatch.setattr(gpu_check, "FOLDER", folder)
    monkeypatch.setattr(gpu_check._dispatch, "states", lambda: {"cuda": "usable"})
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda index: {"name": b"a device"})
    monkeypatch.setattr(cupy.cuda, "Device", lambda: type("Device", (), {"id": 0}))
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    folder.mkdir()
    (folder / "cycles.jsonl").write_text('{"of": "a run before"}\n')

    def ran_all(steps: list[Step]) -> list[dict[str, object]]:
        assert len(steps) > 2
        gpu_speed.write(report()["speed"], folder / "speed.jsonl")
        return [{"name": "speed", "command": "", "status": 1, "tail": "a fault"}]

    monkeypatch.setattr(gpu_check, "ran_all", ran_all)
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    assert ended.value.code == 1
    written = json.loads((folder / "report.json").read_text())
    assert written["speed"] == report()["speed"]
    assert written["cycles"] == []
    assert (folder / "report.md").read_text() == gpu_check.as_markdown(written)
