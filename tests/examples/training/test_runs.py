"""Whole runs of every program at tiny size: what they leave behind, and that stopping changes no number."""

import dataclasses
import functools
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

import srwm
from examples.training import loop as loop_module
from examples.training import program as program_module
from examples.training.checkpoint import load, save
from examples.training.divergence import DivergenceError
from examples.training.interrupt import INTERRUPTED
from examples.training.run_folder import RunFolder
from tests.examples.launching import in_a_terminal
from tests.examples.programs import PROGRAMS, Program
from tests.examples.runs import act_in_step, assert_same_run, numbers_of, press_ctrl_c


@pytest.fixture(autouse=True)
def _data_and_games_of_moments(program, monkeypatch) -> None:
    program.stand_in(monkeypatch.setattr)


@pytest.fixture
def settings(program, tmp_path):
    return dataclasses.replace(program.settings, runs=tmp_path)


def stopped(program: Program, settings, number: int = 2, act=press_ctrl_c) -> RunFolder:
    """The folder of a run that ended in a step."""
    with pytest.MonkeyPatch.context() as patch:
        program.without_pictures(patch.setattr)
        act_in_step(patch, program.module.Training, number, act)
        assert program.module.main(settings) == INTERRUPTED
    return RunFolder(settings.folder)


def in_order(line: dict) -> tuple:
    return tuple(line[name] for name in ("split", "phase", "step", "update") if name in line)


def test_a_run_leaves_its_files(program, settings, capsys):
    assert program.module.main(settings) == 0
    folder = RunFolder(settings.folder)
    assert {file.name for file in folder.path.iterdir()} == program.files
    lines = folder.metrics.read_text().splitlines()
    assert len(lines) == len(set(lines))
    reports = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [in_order(line) for line in reports] == program.lines
    for picture in folder.path.glob("*.png"):
        with Image.open(picture) as image:
            assert image.size[0] > 500
    if folder.best.exists():
        score = program.module.Training.score
        best = max(line[score] for line in reports if line["split"] == "validation")
        assert load(folder.best)["progress"]["best_accuracy"] == best
    shown = capsys.readouterr()
    assert str(folder.path) in shown.out
    assert not shown.err, "bars where there is no terminal"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Callable[[Program, str], RunFolder]:
    """A whole run of a kind."""

    @functools.cache
    def run(name: str, kind: str) -> RunFolder:
        program = PROGRAMS[name]
        whole = program.of_kind(kind, runs=tmp_path_factory.mktemp(kind))
        with pytest.MonkeyPatch.context() as patch:
            program.stand_in(patch.setattr)
            program.without_pictures(patch.setattr)
            assert program.module.main(whole) == 0
        return RunFolder(whole.folder)

    return lambda program, kind: run(program.name, kind)


@pytest.mark.parametrize(
    ("program", "kind", "number", "act"),
    [(program, *stop) for program in PROGRAMS.values() for stop in program.stops],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_stopped_run_continues_to_the_same_numbers(
    program, settings, uninterrupted, monkeypatch, capsys, kind, number, act
):
    """By the command that it shows, with the settings that its folder has."""
    whole = uninterrupted(program, kind)
    folder = stopped(program, program.of_kind(kind, runs=settings.runs), number, act)
    assert not folder.evaluation.exists()
    progress = load(folder.checkpoint)["progress"]
    if act is press_ctrl_c:
        assert progress["steps_before"] + progress["step"] == number + 1, "a whole step was lost"
    [command] = re.findall(r"python -m .* --resume.*", capsys.readouterr().out)
    program.without_pictures(monkeypatch.setattr)
    assert program.module.main(program.read(*shlex.split(command)[3:])) == 0
    assert_same_run(folder, whole)


def test_a_resumed_run_computes_with_as_many_threads_as_before(program, settings, monkeypatch):
    """Unless it is told otherwise: PyTorch's sums and srwm's depend on their number."""
    program.without_pictures(monkeypatch.setattr)
    monkeypatch.setenv("SRWM_NUM_THREADS", "5")  # has no part in it
    before, seen = torch.get_num_threads(), []

    def stop_noted() -> None:
        seen.append((torch.get_num_threads(), srwm.get_num_threads()))
        press_ctrl_c()

    try:
        torch.set_num_threads(3)  # PyTorch's own choice on some machine
        for change in ({}, {"resume": True}, {"resume": True, "threads": 2}):
            stopped(program, dataclasses.replace(settings, **change), 0, stop_noted)
            torch.set_num_threads(1)
        assert seen == [(3, 3), (3, 3), (2, 2)]
        assert load(RunFolder(settings.folder).checkpoint)["threads"] == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("program", "part"),
    [(program, part) for program in PROGRAMS.values() for part in program.damages],
    ids=str,
)
def test_a_run_with_damaged_numbers_is_not_continued(program, settings, part):
    folder = stopped(program, program.of_kind("plain", runs=settings.runs))
    state = load(folder.checkpoint)
    program.damages[part](state[part])
    save(state, folder.checkpoint)
    before = folder.checkpoint.read_bytes(), folder.metrics.read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint.pt.*; put back a copy of it, or train anew"):
        program.module.main(program.of_kind("plain", runs=settings.runs, resume=True))
    assert (folder.checkpoint.read_bytes(), folder.metrics.read_bytes()) == before


def test_a_finished_run_is_neither_changed_nor_overwritten_unasked(program, settings, monkeypatch):
    program.without_pictures(monkeypatch.setattr)
    assert program.module.main(settings) == 0
    folder = RunFolder(settings.folder)
    texts = [path for path in (folder.metrics, folder.evaluation) if path.exists()]
    before = [path.read_text() for path in texts], numbers_of(folder)
    assert program.module.main(dataclasses.replace(settings, resume=True)) == 0
    assert [path.read_text() for path in texts] == before[0]
    after = numbers_of(folder)
    assert all(torch.equal(value, after[name]) for name, value in before[1].items())
    bytes_ = folder.checkpoint.read_bytes()
    with pytest.raises(FileExistsError, match="--overwrite"):
        program.module.main(settings)
    assert folder.checkpoint.read_bytes() == bytes_


def test_what_cannot_be_shared_is_refused_before_an_earlier_run_is_deleted(program, settings, monkeypatch):
    """Also where it is that of the last phase."""
    settings = program.of_kind("unshared", runs=settings.runs)
    folder = stopped(program, settings)
    before = folder.checkpoint.read_bytes()

    class Three(Accelerator):
        num_processes = 3

    monkeypatch.setattr(program_module, "make_accelerator", lambda settings: Three(cpu=True))
    with pytest.raises(ValueError, match=r"train: --.* must be a multiple of .*3"):
        program.module.main(dataclasses.replace(settings, overwrite=True))
    assert folder.checkpoint.read_bytes() == before


def test_the_time_limit_ends_training(program, settings, monkeypatch):
    class Clock(loop_module.Clock):
        """By which every step takes 50 ms, however busy the machine is."""

        def lap(self) -> float:
            return 0.05

    monkeypatch.setattr(loop_module, "Clock", Clock)
    program.without_pictures(monkeypatch.setattr)
    limited = program.of_kind("endless", runs=settings.runs, max_minutes=0.02, report_every=10**6)
    assert program.module.main(limited) == 0
    [*_, before, last] = [None, *RunFolder(limited.folder).reports()]
    assert last["split"] == "train"
    assert before is None or in_order(before)[1:] == in_order(last)[1:], "validated at the end"
    assert last["seconds"] == pytest.approx(1.2, abs=0.11), "a step and a validation may be more"
    assert last["learning_rate"] < 0.1 * limited.learning_rate, "the schedule was cut off"


def test_a_run_that_diverges_stops_before_anything_is_lost(program, settings, monkeypatch):
    training = program.module.Training
    step = training.step

    def diverging(self, number, share_done):
        values = step(self, number, share_done)
        if number == 3:
            next(iter(self.trained())).data.view(-1)[0] = torch.nan
        return values

    monkeypatch.setattr(training, "step", diverging)
    settings = program.of_kind("plain", runs=settings.runs)
    with pytest.raises(DivergenceError, match=r"train: \w+: the weights must be finite, .* step 4: "):
        program.module.main(settings)
    folder = RunFolder(settings.folder)
    state = load(folder.checkpoint)
    assert state["progress"]["step"] in (2, 3), "validation saves, too"
    assert all(value.isfinite().all() for value in state[program.weights].values())
    assert [line["split"] for line in folder.reports()].count("train") == 1


def test_errors_reach_the_user_without_a_traceback(program, tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", program.module.__name__, "--report-every", "0", "--runs", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert process.stderr.strip() == "train: --report-every must be at least 1, got 0"
    assert not list(tmp_path.iterdir())


def test_ctrl_c_in_another_process(program, tmp_path):
    where = ["--name", "tiny", "--threads", "1", "--runs", str(tmp_path)]
    command = [sys.executable, "-m", program.module.__name__, *program.hours(tmp_path), *where]
    with in_a_terminal(command) as (process, read):
        shown = ""
        while not re.search(program.bar, shown):
            shown += read()
        folder = RunFolder(tmp_path / "tiny")
        running = type(program.settings).from_record(load(folder.checkpoint)["settings"])
        metrics = folder.metrics.read_bytes()
        for change in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(BlockingIOError, match=r"tiny is in use: another program trains this run"):
                folder.open(dataclasses.replace(running, **change))
        with pytest.raises(BlockingIOError, match=r"tiny is in use: another program trains this run"):
            program.evaluate(folder.path)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=600)
    assert process.returncode == INTERRUPTED, shown
    assert "--resume" in out
    assert folder.metrics.read_bytes().startswith(metrics)
    assert load(folder.checkpoint)["progress"]["step"] > 0
