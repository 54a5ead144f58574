"""Whole runs at tiny size: what they leave behind, and that stopping changes no number."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import srwm
from examples.rl import train
from examples.rl.division import Block, session_seed
from examples.rl.evaluate import Evaluation, evaluate
from examples.rl.settings import Settings
from examples.rl.trainer import Training
from examples.training.interrupt import INTERRUPTED
from examples.training.run_folder import RunFolder, load, save
from tests.examples.launching import in_a_terminal
from tests.examples.rl.fakes import FakeEnvironment, ForgetfulEnvironment, fake_agent
from tests.examples.runs import assert_same_run

FILES = {".lock", "config.json", "metrics.json", "checkpoint.pt", "curves.png"}


@pytest.fixture
def made(monkeypatch) -> list[tuple[Block, int]]:
    """Which blocks of games were asked for, with which seed: fake ones are played, by a fake agent."""
    asked = []

    def make_games(settings, block, seed):
        asked.append((block, seed))
        forgets = settings.mode == "hard"
        return ForgetfulEnvironment(block.count, 0, seed) if forgets else FakeEnvironment(block.count)

    monkeypatch.setattr(train, "make_games", make_games)
    monkeypatch.setattr(train, "make_agent", lambda settings, environment: fake_agent(settings.seed))
    return asked


def act_in_update(monkeypatch, update: int, act) -> None:
    learn = Training._learn

    def acting(self, unroll, step, share_done):
        values = learn(self, unroll, step, share_done)
        if step == update:
            act()
        return values

    monkeypatch.setattr(Training, "_learn", acting)


def interrupt() -> None:
    raise KeyboardInterrupt


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_run_leaves_its_files(settings, made, capsys):
    assert train.main(settings) == 0
    folder = RunFolder(settings.folder)
    assert {file.name for file in folder.path.iterdir()} == FILES
    for line in folder.metrics.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    with Image.open(folder.curves) as image:
        assert image.size[0] > 500
    assert str(folder.path) in capsys.readouterr().out
    assert made == [(Block(0, 4), session_seed(0, 0))]


def test_curves_of_several_games_and_of_no_ended_episode(settings, made):
    several = dataclasses.replace(settings, games=("a", "b"), unroll=1, frames=8, report_every=1)
    assert train.main(several) == 0
    [first, _] = RunFolder(several.folder).reports()
    assert first["episodes"] == 0
    assert "episode_return" not in first


@pytest.mark.parametrize(
    ("update", "act"),
    [(0, press_ctrl_c), (1, press_ctrl_c), (2, interrupt), (4, press_ctrl_c), (5, press_ctrl_c)],
)
@pytest.mark.parametrize("overlap", [True, False])
def test_a_stopped_run_continues_to_the_same_numbers(
    settings, made, monkeypatch, capsys, update, act, overlap
):
    monkeypatch.setattr(train, "draw_curves", lambda *args: None)
    settings = dataclasses.replace(settings, overlap=overlap)
    whole = dataclasses.replace(settings, name="whole")
    assert train.main(whole) == 0
    with monkeypatch.context() as patch:
        act_in_update(patch, update, act)
        assert train.main(settings) == INTERRUPTED
    folder = RunFolder(settings.folder)
    assert "--resume" in capsys.readouterr().out
    if act is press_ctrl_c:
        assert load(folder.checkpoint)["progress"]["step"] == update + 1, "a whole update was lost"
    assert train.main(dataclasses.replace(settings, resume=True)) == 0
    assert_same_run(folder, RunFolder(whole.folder))


def test_a_resumed_run_computes_with_as_many_threads_as_before(settings, made, monkeypatch):
    """Unless it is told otherwise: PyTorch's sums depend on their number."""
    before, seen = torch.get_num_threads(), []
    learn = Training._learn

    def noting(*given):
        seen.append((torch.get_num_threads(), srwm.get_num_threads()))
        return learn(*given)

    monkeypatch.setattr(Training, "_learn", noting)
    try:
        torch.set_num_threads(3)  # PyTorch's own choice on some machine
        for update, change in enumerate(({}, {"resume": True}, {"resume": True, "threads": 2})):
            with monkeypatch.context() as patch:
                act_in_update(patch, update, press_ctrl_c)
                assert train.main(dataclasses.replace(settings, **change)) == INTERRUPTED
            torch.set_num_threads(1)
        assert seen == [(3, 3), (3, 3), (2, 2)]
        assert load(RunFolder(settings.folder).checkpoint)["threads"] == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("part", ["agent", "optimizer", "actor"])
def test_a_run_with_damaged_numbers_is_not_continued(settings, made, monkeypatch, part):
    with monkeypatch.context() as patch:
        act_in_update(patch, 2, press_ctrl_c)
        assert train.main(settings) == INTERRUPTED
    folder = RunFolder(settings.folder)
    state = load(folder.checkpoint)
    if part == "agent":
        state[part].popitem()
    elif part == "optimizer":
        next(iter(state[part]["state"].values()))["square_avg"].view(-1)[0] = torch.nan
    else:
        next(iter(state[part]["weights"].values())).view(-1)[0] = torch.inf
    save(state, folder.checkpoint)
    before = folder.checkpoint.read_bytes(), folder.metrics.read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint.pt.*; put back a copy of it, or train anew"):
        train.main(dataclasses.replace(settings, resume=True))
    assert (folder.checkpoint.read_bytes(), folder.metrics.read_bytes()) == before


def test_resuming_a_finished_run_changes_nothing(settings, made):
    assert train.main(settings) == 0
    folder = RunFolder(settings.folder)
    before = folder.metrics.read_text(), load(folder.checkpoint)["agent"]
    assert load(folder.checkpoint)["actor"] is None, "there is nothing left to collect"
    assert train.main(dataclasses.replace(settings, resume=True)) == 0
    assert folder.metrics.read_text() == before[0]
    after = load(folder.checkpoint)["agent"]
    assert all(torch.equal(value, after[name]) for name, value in before[1].items())


def test_games_that_cannot_be_saved_begin_anew_with_seeds_of_the_update(settings, made, monkeypatch):
    settings = dataclasses.replace(settings, mode="hard")
    with monkeypatch.context() as patch:
        act_in_update(patch, 2, press_ctrl_c)
        assert train.main(settings) == INTERRUPTED
    folder = RunFolder(settings.folder)
    stopped = load(folder.checkpoint)
    learn, firsts = Training._learn, []

    def noted(self, unroll, step, share_done):
        firsts.append((step, unroll.dones[:, 0].all().item()))
        return learn(self, unroll, step, share_done)

    monkeypatch.setattr(Training, "_learn", noted)
    for _ in range(2):  # twice the same
        folder.checkpoint.unlink()
        save(stopped, folder.checkpoint)
        firsts.clear()
        assert train.main(dataclasses.replace(settings, resume=True)) == 0
        assert firsts[0] == (3, True)
        assert [update for update, _ in firsts] == [3, 4, 5]
    assert [seed for _, seed in made] == [session_seed(0, update) for update in (0, 3, 3)]
    assert [line["update"] for line in folder.reports()] == [2, 4, 6]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"games": ("pong",)}, "name must be one of .*; got 'pong'"),
        ({"games": ("maze",), "mode": "exploration"}, r"levels must be \(0, 0\) .* got \(0, 200\)"),
    ],
)
def test_games_that_do_not_exist_are_named_with_what_to_change(settings, change, message):
    with pytest.raises(ValueError, match="train: --games, --mode, --start-level and --levels .*" + message):
        train.main(dataclasses.replace(settings, **change))
    assert not settings.folder.exists()


def test_a_finished_run_is_not_overwritten_unasked(settings, made):
    assert train.main(settings) == 0
    folder = RunFolder(settings.folder)
    before = folder.checkpoint.read_bytes()
    with pytest.raises(FileExistsError, match="--overwrite"):
        train.main(settings)
    assert folder.checkpoint.read_bytes() == before


def test_games_that_cannot_be_made_leave_an_earlier_run_alone(settings, made, monkeypatch):
    assert train.main(settings) == 0
    folder = RunFolder(settings.folder)
    before = folder.checkpoint.read_bytes()

    def make_games(*args):
        raise ImportError("no such games")

    monkeypatch.setattr(train, "make_games", make_games)
    with pytest.raises(ImportError, match="no such games"):
        train.main(dataclasses.replace(settings, overwrite=True))
    assert folder.checkpoint.read_bytes() == before


def test_ctrl_c_in_another_process(tmp_path):
    arguments = (
        "--name tiny --games cue --core lstm --lstm-size 16 --n-features 16 --batch-size 2 --unroll 4 "
    )
    arguments += f"--frames 1000000000 --threads 1 --runs {tmp_path}"
    command = [sys.executable, "-m", "examples.rl.train", *arguments.split()]
    with in_a_terminal(command) as (process, read):
        shown = ""
        while not re.search(r"return=", shown):
            shown += read()
        folder = RunFolder(tmp_path / "tiny")
        running = Settings.from_record(load(folder.checkpoint)["settings"])
        for change in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(BlockingIOError, match=r"tiny is in use: another program trains this run"):
                train.main(dataclasses.replace(running, **change))
        with pytest.raises(BlockingIOError, match=r"tiny is in use: another program trains this run"):
            evaluate(Evaluation(runs=(folder.path,)))
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=600)
    assert process.returncode == INTERRUPTED, shown
    assert "--resume" in out
    assert load(folder.checkpoint)["progress"]["step"] > 0
    assert {file.name for file in folder.path.iterdir()} <= FILES


def test_errors_reach_the_user_without_a_traceback(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "examples.rl.train", "--frames", "0", "--runs", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert process.stderr.strip() == "train: --frames must be at least 1, got 0"
    assert not list(Path(tmp_path).iterdir())
