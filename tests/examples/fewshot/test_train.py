"""Whole runs at tiny size: what they leave behind, and that stopping changes no number."""

import dataclasses
import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

import srwm
from examples.fewshot import evaluate, train
from examples.fewshot.bootstrapping import Bootstrapping
from examples.fewshot.data.classes import Splits
from examples.fewshot.evaluate import load_run
from examples.fewshot.objectives import EncoderWarmup, EpisodeTraining
from examples.fewshot.sequential import SequentialTraining
from examples.fewshot.settings import Settings, build_learner
from examples.training import loop as loop_module
from examples.training import program
from examples.training.interrupt import INTERRUPTED
from examples.training.run_folder import RunFolder, load, save
from tests.examples.fewshot.conftest import patterns
from tests.examples.launching import in_a_terminal
from tests.examples.runs import assert_same_run, numbers_of

FILES = {
    ".lock",
    "config.json",
    "metrics.json",
    "checkpoint.pt",
    "best.pt",
    "evaluation.json",
    "evaluation.md",
    "curves.png",
    "episodes.png",
}


# What the protocols need to fit the tiny settings' pool of three images a class.
PROTOCOLS = {
    "sync": {},
    "sequential": {"protocol": "sequential", "second_data": "textures", "k_shot": 2, "max_trim": 3},
    "bootstrapping": {"protocol": "bootstrapping", "future_shots": 1, "queries": 3},
}


@pytest.fixture(autouse=True, scope="module")
def data(splits):
    second = Splits(train=patterns(12, 6, 3), validation=patterns(8, 6, 4), test=patterns(8, 6, 5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train,
            "load_domains",
            lambda settings: [splits] if settings.second_data is None else [splits, second],
        )
        yield


def act_at_step(monkeypatch, objective: type, step: int, act) -> None:
    """Do something in the middle of a training step, once."""
    forward = objective.forward
    calls = []

    def acting(self, batch):
        result = forward(self, batch)
        calls.append(batch)
        if len(calls) == step + 1:
            act()
        return result

    monkeypatch.setattr(objective, "forward", acting)


def interrupt() -> None:
    raise KeyboardInterrupt


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def without_pictures(patch: pytest.MonkeyPatch) -> None:
    """Pictures take most of a tiny run's time."""
    patch.setattr(train, "draw_curves", lambda *args: None)
    for name in ("draw_gallery", "draw_positions"):
        patch.setattr(evaluate, name, lambda *args, **named: None)


def test_a_run_leaves_its_files(settings, capsys):
    assert train.main(settings) == 0
    folder = RunFolder(settings.folder)
    assert {file.name for file in folder.path.iterdir()} == FILES

    reports = folder.reports()
    steps = [(r["split"], r["phase"], r["step"]) for r in reports]
    assert steps == [
        ("train", "encoder", 2),
        ("train", "encoder", 4),
        ("validation", "episodes", 0),
        ("train", "episodes", 2),
        ("validation", "episodes", 3),
        ("train", "episodes", 4),
        ("train", "episodes", 6),
        ("validation", "episodes", 6),
    ]
    assert all(np.isfinite(r["loss"]) for r in reports if r["split"] == "train")
    for picture in (folder.curves, folder.episodes):
        with Image.open(picture) as image:
            assert image.size[0] > 500
    best = max(r["accuracy"] for r in reports if r["split"] == "validation")
    assert load(folder.best)["progress"]["best_accuracy"] == best
    assert "nearest neighbour" in capsys.readouterr().out


def test_the_loss_falls_in_both_phases(settings):
    longer = dataclasses.replace(
        settings,
        dropout=0.0,
        n_way=2,
        n_layers=2,
        n_heads=4,
        d_model=32,
        encoder_warmup_steps=40,
        encoder_warmup_learning_rate=1e-2,
        steps=120,
        batch_size=16,
        learning_rate=5e-3,
        lr_final=1.0,
        report_every=20,
        validate_every=120,
    )
    assert train.main(longer) == 0
    reports = RunFolder(longer.folder).reports()
    first, last = (
        {r["phase"]: r for r in order if r["split"] == "train"} for order in (reports[::-1], reports)
    )
    assert last["encoder"]["loss"] < 0.7 * first["encoder"]["loss"]
    # Below log(2): it has found out what the labels beside the support are for.
    assert last["episodes"]["loss"] < 0.8 * math.log(2) < first["episodes"]["loss"]
    assert last["episodes"]["accuracy"] > 0.65


@pytest.fixture(scope="module")
def uninterrupted(tiny_settings, tmp_path_factory) -> Callable[[str], RunFolder]:
    """A whole run by its protocol."""

    @functools.cache
    def run(protocol: str) -> RunFolder:
        runs = tmp_path_factory.mktemp(protocol)
        whole = dataclasses.replace(tiny_settings, runs=runs, **PROTOCOLS[protocol])
        with pytest.MonkeyPatch.context() as patch:
            without_pictures(patch)
            assert train.main(whole) == 0
        return RunFolder(whole.folder)

    return run


# Just before and just after a report (every 2 steps), a validation (every 3), and the phases' ends.
@pytest.mark.parametrize(
    ("protocol", "objective", "step", "act"),
    [
        ("sync", EncoderWarmup, 0, interrupt),
        ("sync", EncoderWarmup, 2, press_ctrl_c),
        ("sync", EncoderWarmup, 3, press_ctrl_c),
        ("sync", EpisodeTraining, 0, press_ctrl_c),
        ("sync", EpisodeTraining, 2, press_ctrl_c),
        ("sync", EpisodeTraining, 3, interrupt),
        ("sync", EpisodeTraining, 5, interrupt),
        ("sync", EpisodeTraining, 5, press_ctrl_c),
        ("sequential", EncoderWarmup, 2, press_ctrl_c),
        ("sequential", SequentialTraining, 2, press_ctrl_c),
        ("sequential", SequentialTraining, 3, interrupt),
        ("bootstrapping", Bootstrapping, 2, press_ctrl_c),
        ("bootstrapping", Bootstrapping, 3, interrupt),
    ],
)
def test_a_stopped_run_continues_to_the_same_numbers(
    settings, uninterrupted, monkeypatch, capsys, protocol, objective, step, act
):
    settings = dataclasses.replace(settings, **PROTOCOLS[protocol])
    without_pictures(monkeypatch)
    with monkeypatch.context() as patch:
        act_at_step(patch, objective, step, act)
        assert train.main(settings) == INTERRUPTED
    folder = RunFolder(settings.folder)
    assert "--resume" in capsys.readouterr().out
    assert not folder.evaluation.exists()
    load_run(folder)  # usable
    progress = load(folder.checkpoint)["progress"]
    if act is press_ctrl_c:
        warmup = objective is EncoderWarmup
        main_phase = "sequences" if protocol == "sequential" else "episodes"
        at = ("encoder" if warmup else main_phase, step + 1)
        if at == ("encoder", settings.encoder_warmup_steps):
            at = (main_phase, 0)
        assert (progress["phase"], progress["step"]) == at, "a whole step was lost"

    assert train.main(dataclasses.replace(settings, resume=True)) == 0
    assert_same_run(folder, uninterrupted(protocol))


def threads_of_steps(monkeypatch) -> list[int]:
    """With how many threads PyTorch computes, at each step on episodes."""
    seen: list[int] = []
    forward = EpisodeTraining.forward

    def noting(self, batch):
        seen.append((torch.get_num_threads(), srwm.get_num_threads()))
        return forward(self, batch)

    monkeypatch.setattr(EpisodeTraining, "forward", noting)
    return seen


def test_a_resumed_run_computes_with_as_many_threads_as_before(settings, monkeypatch):
    """Unless it is told otherwise: PyTorch's sums and srwm's depend on their number."""
    without_pictures(monkeypatch)
    monkeypatch.setenv("SRWM_NUM_THREADS", "5")  # has no part in it
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)  # PyTorch's own choice on some machine
        with monkeypatch.context() as patch:
            act_at_step(patch, EpisodeTraining, 1, press_ctrl_c)
            assert train.main(settings) == INTERRUPTED
        seen = threads_of_steps(monkeypatch)
        torch.set_num_threads(1)
        with monkeypatch.context() as patch:
            act_at_step(patch, EpisodeTraining, 1, press_ctrl_c)
            assert train.main(dataclasses.replace(settings, resume=True)) == INTERRUPTED
        assert seen == [(3, 3)] * 2
        assert train.main(dataclasses.replace(settings, resume=True, threads=2)) == 0
        assert seen == [(3, 3)] * 2 + [(2, 2)] * 2
        assert load(RunFolder(settings.folder).checkpoint)["threads"] == 2
    finally:
        torch.set_num_threads(before)


def test_a_run_whose_data_have_moved_is_continued(settings, uninterrupted, monkeypatch):
    without_pictures(monkeypatch)
    with monkeypatch.context() as patch:
        act_at_step(patch, EpisodeTraining, 2, press_ctrl_c)
        assert train.main(dataclasses.replace(settings, root=Path("here"))) == INTERRUPTED
    moved = dataclasses.replace(settings, root=Path("there"), second_root=None, resume=True)
    assert train.main(moved) == 0
    assert_same_run(RunFolder(settings.folder), uninterrupted("sync"))
    assert load(RunFolder(settings.folder).checkpoint)["settings"]["root"] == "there"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (patterns(12, 5, 0), "28 classes with 168 images; found 28 classes with 156 images"),
        (
            dataclasses.replace(patterns(12, 6, 0), names=tuple(map(str, range(12)))),
            "28 classes with 168 images; found 28 classes with 168 images, or others of their names; give",
        ),
    ],
)
def test_a_run_is_not_continued_on_other_data(settings, splits, monkeypatch, other, message):
    with monkeypatch.context() as patch:
        act_at_step(patch, EpisodeTraining, 2, press_ctrl_c)
        assert train.main(settings) == INTERRUPTED
    folder = RunFolder(settings.folder)
    before = folder.checkpoint.read_bytes()
    monkeypatch.setattr(train, "load_domains", lambda settings: [dataclasses.replace(splits, train=other)])
    with pytest.raises(ValueError, match="was trained on other data, " + message):
        train.main(dataclasses.replace(settings, resume=True))
    assert folder.checkpoint.read_bytes() == before


@pytest.mark.parametrize("part", ["learner", "head", "optimizer"])
def test_a_run_with_damaged_numbers_is_not_continued(settings, monkeypatch, part):
    with monkeypatch.context() as patch:
        act_at_step(patch, EpisodeTraining, 2, press_ctrl_c)
        assert train.main(settings) == INTERRUPTED
    folder = RunFolder(settings.folder)
    state = load(folder.checkpoint)
    if part == "learner":
        state[part][min(state[part])].view(-1)[0] = torch.nan
    else:
        state[part] = {"other": torch.ones(3)}
    save(state, folder.checkpoint)
    before = folder.checkpoint.read_bytes(), folder.metrics.read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint.pt.*; put back a copy of it, or train anew"):
        train.main(dataclasses.replace(settings, resume=True))
    assert (folder.checkpoint.read_bytes(), folder.metrics.read_bytes()) == before


def test_resuming_a_finished_run_changes_nothing(settings):
    assert train.main(settings) == 0
    folder = RunFolder(settings.folder)
    before = folder.metrics.read_text(), numbers_of(folder), folder.evaluation.read_text()
    assert train.main(dataclasses.replace(settings, resume=True)) == 0
    after = folder.metrics.read_text(), numbers_of(folder), folder.evaluation.read_text()
    assert before[0] == after[0]
    assert all(torch.equal(before[1][name], after[1][name]) for name in before[1])
    assert before[2] == after[2]


def test_a_finished_run_is_not_overwritten_unasked(settings):
    assert train.main(settings) == 0
    folder = RunFolder(settings.folder)
    before = folder.checkpoint.read_bytes()
    with pytest.raises(FileExistsError, match="--overwrite"):
        train.main(settings)
    assert folder.checkpoint.read_bytes() == before


def test_ctrl_c_in_another_process(tmp_path):
    for alphabet in "abc":
        for character in "xyz":
            for image in range(4):
                path = tmp_path / "images" / alphabet / character / f"{image}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.effect_noise((28, 28), 50).save(path)
    arguments = "--name tiny --data folder --n-way 3 --n-layers 1 --n-heads 2 --d-model 16 "
    arguments += "--encoder-channels 8 --encoder-warmup-steps 3 --encoder-warmup-classes 3 "
    arguments += "--pool-classes 3 --pool-images 2 --queries 2 --batch-size 4 --threads 1 "
    arguments += "--report-every 100000 --validate-every 100000 --validation-episodes 4"
    command = [sys.executable, "-m", "examples.fewshot.train", *arguments.split()]
    command += ["--root", str(tmp_path / "images"), "--runs", str(tmp_path), "--steps", "1000000"]
    with in_a_terminal(command) as (process, read):
        shown = ""
        while not re.search(r"episodes: .*loss", shown):  # the bar of the second phase
            shown += read()
        folder = RunFolder(tmp_path / "tiny")
        running = Settings.from_record(load(folder.checkpoint)["settings"])
        metrics = folder.metrics.read_bytes()
        for change in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(BlockingIOError, match=r"tiny is in use: another program trains this run"):
                folder.open(dataclasses.replace(running, **change))
        with pytest.raises(BlockingIOError, match=r"tiny is in use: another program trains this run"):
            evaluate.evaluate(evaluate.Evaluation(runs=(folder.path,)))
        assert folder.metrics.read_bytes() == metrics
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED, shown
    assert "--resume" in out
    progress = load(folder.checkpoint)["progress"]
    assert progress["phase"] == "episodes"
    assert progress["step"] > 0
    loaded = load_run(folder)
    learner, settings = loaded.model, loaded.settings
    assert settings.n_way == learner.n_way == 3


def test_the_time_limit_ends_training(settings, monkeypatch):
    class Clock(loop_module.Clock):
        """By which every step takes 50 ms, however busy the machine is."""

        def lap(self) -> float:
            return 0.05

    monkeypatch.setattr(loop_module, "Clock", Clock)
    limited = dataclasses.replace(settings, steps=10**9, max_minutes=0.02, report_every=10**6)
    assert train.main(limited) == 0
    reports = RunFolder(limited.folder).reports()
    assert reports[-1]["split"] == "train"
    assert reports[-2]["split"] == "validation"
    assert reports[-1]["step"] == reports[-2]["step"]
    assert reports[-1]["seconds"] == pytest.approx(1.2, abs=0.11), "a step and a validation may be more"
    assert reports[-1]["learning_rate"] < 0.1 * limited.learning_rate, "the schedule was cut off"


def test_without_warmup_and_with_a_frozen_encoder_only_the_rest_learns(settings, monkeypatch):
    frozen = dataclasses.replace(settings, encoder_warmup_steps=0, train_encoder=False)
    assert train.main(frozen) == 0
    folder = RunFolder(frozen.folder)
    trained = load(folder.checkpoint)["learner"]
    torch.manual_seed(frozen.seed)
    fresh = build_learner(frozen).state_dict()
    for name in fresh:
        same = torch.equal(fresh[name], trained[name])
        assert same == name.startswith("encoder."), name


def test_training_never_looks_at_the_pictures_of_the_test_classes(settings, splits, monkeypatch):
    class Forbidden:
        dtype, shape = splits.test.images.dtype, splits.test.images.shape

        def __getitem__(self, rows):
            raise AssertionError("training read pictures of the test classes")

    hidden = dataclasses.replace(splits, test=dataclasses.replace(splits.test, images=Forbidden()))
    monkeypatch.setattr(train, "load_domains", lambda settings: [hidden])
    evaluated = []
    monkeypatch.setattr(train, "evaluate", lambda *args: evaluated.append(args))
    assert train.main(settings) == 0
    assert len(evaluated) == 1


def test_errors_reach_the_user_without_a_traceback(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "examples.fewshot.train", "--steps", "0", "--runs", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert process.stderr.strip() == "train: --steps must be at least 1, got 0"
    assert not list(Path(tmp_path).iterdir())


def test_metrics_hold_one_json_value_a_line(settings):
    assert train.main(settings) == 0
    lines = RunFolder(settings.folder).metrics.read_text().splitlines()
    for line in lines:
        json.loads(line, parse_constant=pytest.fail)
    assert len(lines) == len(set(lines))


def test_a_batch_that_cannot_be_shared_is_refused_before_an_earlier_run_is_deleted(settings, monkeypatch):
    """Also where it is that of the second phase."""
    assert train.main(settings) == 0
    folder = RunFolder(settings.folder)
    before = folder.checkpoint.read_bytes()

    class Three(Accelerator):
        num_processes = 3

    monkeypatch.setattr(program, "make_accelerator", lambda settings: Three(cpu=True))
    with pytest.raises(ValueError, match=r"--batch-size must be a multiple of .* = 3 . 1, got 8"):
        train.main(dataclasses.replace(settings, overwrite=True, encoder_warmup_classes=6))
    assert folder.checkpoint.read_bytes() == before
