"""The comparisons: which runs they plan, in what order, and what they make of the runs' numbers."""

import dataclasses
import itertools
import json
import shlex
import subprocess
import threading
import types
from pathlib import Path

import pytest
import tyro
from PIL import Image

from examples.fewshot import experiments
from examples.fewshot.evaluate import Evaluation
from examples.fewshot.experiments import Experiments, planned_runs, programs
from examples.fewshot.presets import PRESETS
from examples.fewshot.studies import STUDIES
from examples.training import run_pool
from examples.training.interrupt import INTERRUPTED
from examples.training.run_folder import RunFolder, write_json
from examples.training.run_pool import is_finished


@pytest.fixture
def options(tmp_path: Path) -> Experiments:
    return Experiments(
        studies=("glyphs",), seeds=(3, 5), runs=tmp_path / "runs", output=tmp_path / "results"
    )


def episode_result(k_shot: int, accuracy: float) -> dict:
    return {
        "k_shot": k_shot,
        "chance": 0.2,
        "learner": {"mean": accuracy, "interval_95": 0.01},
        "nearest_neighbour": {"mean": 0.9, "interval_95": 0.01},
    }


def write_run(folder: RunFolder, accuracy: float, k_shot: int = 1) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    lines = [
        {"split": "validation", "step": step, "seconds": 60.0 * step, "accuracy": accuracy * step / 2}
        for step in (0, 1, 2)
    ]
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(folder.evaluation, episode_result(k_shot, accuracy))


@pytest.mark.parametrize("name", STUDIES)
def test_all_runs_of_a_seed_share_one_encoder(options, name):
    study = STUDIES[name]
    planned = list(planned_runs(options, study))
    assert len(planned) == len(study.presets) * len(options.seeds)
    assert len({settings.folder for settings in planned}) == len(planned)
    folders = [settings.folder for settings in planned]
    for place, settings in enumerate(planned):
        settings.check()
        if settings.preset == study.leader:
            assert settings.encoder_from is None
        else:
            leader = planned[folders.index(settings.encoder_from)]
            assert (leader.preset, leader.seed) == (study.leader, settings.seed)
            assert folders.index(leader.folder) < place, "it must have been started before"


@pytest.mark.parametrize("name", STUDIES)
def test_what_is_compared_with_as_many_shots_differs_in_core_or_protocol_alone(name):
    free = {"preset", "name", "core", "n_layers", "d_model", "protocol", "future_shots"}
    compared = [PRESETS[preset].record() for preset in STUDIES[name].presets]
    for one, other in itertools.combinations(compared, 2):
        if one["k_shot"] == other["k_shot"]:
            assert {key for key in one if one[key] != other[key]} <= free


def test_a_study_from_its_runs_to_its_picture(options, monkeypatch, capsys):
    accuracies = {}
    order = []

    def train(command, **kwargs):
        name = command[command.index("--name") + 1]
        order.append(name)
        preset = command[command.index("--preset") + 1]
        accuracies[name] = 0.8 if name.endswith("seed3") else 0.9
        write_run(RunFolder(options.runs / name), accuracies[name], int(preset.split("-")[1][0]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(run_pool.subprocess, "run", train)
    assert experiments.main(options) == 0
    planned = [run.name for run in planned_runs(options, STUDIES["glyphs"])]
    assert planned[:2] == ["glyphs-1shot-srwm-seed3", "glyphs-1shot-srwm-seed5"]
    assert len(order) == 16
    assert sorted(order) == sorted(planned)  # two at a time: which of them notes its name first is chance

    results = json.loads((options.output / "glyphs.json").read_text())
    entry = results["compared"]["glyphs-5shot-lstm"]
    assert entry["summary"]["learner"]["mean"] == pytest.approx(0.85)
    assert entry["summary"]["learner"]["interval_95"] == pytest.approx(12.706 * 0.05, rel=1e-3)
    assert [run["minutes"] for run in entry["runs"]] == [2, 2]
    with Image.open(options.output / "glyphs.png") as image:
        assert image.size[0] > 500
    out = capsys.readouterr().out
    assert out.count("85.00 ± 63.53 %") == 8
    assert "| SRWM, 1-shot |" in out


def test_no_study_waits_for_the_last_run_of_another(options, monkeypatch):
    options = dataclasses.replace(options, studies=("sequential", "bootstrapping"))
    last = list(planned_runs(options, STUDIES["sequential"]))[-1]
    begun = threading.Event()
    shots = {"k_shots": [episode_result(k, 0.8) for k in STUDIES["bootstrapping"].k_shots]}

    def run(command, **kwargs):
        if "--name" in command:
            name = command[command.index("--name") + 1]
            folder = RunFolder(options.runs / name)
            write_run(folder, 0.8)
            if name == last.name:
                assert begun.wait(timeout=60), "no run of the other study was begun"
            if name.startswith("sequential"):
                write_json(folder.evaluation, sequence_result(0.8))
            else:
                begun.set()
                write_json(folder.path / "evaluation-shots.json", shots)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(run_pool.subprocess, "run", run)
    assert experiments.main(options) == 0
    left = {file.name for file in options.output.glob("*.json")}
    assert left == {"sequential.json", "bootstrapping.json"}


def test_a_run_that_failed_ends_the_study(options, monkeypatch):
    monkeypatch.setattr(run_pool.subprocess, "run", lambda *a, **k: types.SimpleNamespace(returncode=3))
    with pytest.raises(RuntimeError, match=r"failed with status 3; see .*\.log"):
        experiments.main(options)


def test_an_interrupted_study_says_how_to_go_on(options, monkeypatch, capsys):
    stopped = types.SimpleNamespace(returncode=INTERRUPTED)
    monkeypatch.setattr(run_pool.subprocess, "run", lambda *a, **k: stopped)
    assert experiments.main(options) == INTERRUPTED
    assert "the same command goes on" in capsys.readouterr().out


def test_finished_runs_are_not_trained_again_and_begun_ones_continue(options, monkeypatch):
    finished, begun, *_ = planned_runs(options, STUDIES["glyphs"])
    for settings in (finished, begun):
        folder = RunFolder(settings.folder)
        write_run(folder, 0.8)
        write_json(folder.config, settings.record())
    RunFolder(begun.folder).evaluation.unlink()
    RunFolder(begun.folder).checkpoint.touch()
    assert is_finished(finished, RunFolder(finished.folder).evaluation)
    assert not is_finished(begun, RunFolder(begun.folder).evaluation)

    started = {}

    def train(command, **kwargs):
        name = command[command.index("--name") + 1]
        started[name] = "--resume" in command
        write_run(RunFolder(options.runs / name), 0.8, int(command[command.index("--preset") + 1][7]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(run_pool.subprocess, "run", train)
    assert experiments.main(options) == 0
    assert finished.name not in started
    assert [name for name, resumes in started.items() if resumes] == [begun.name]


def test_a_run_is_evaluated_with_the_shots_of_its_study(options):
    study = STUDIES["bootstrapping"]
    settings = next(planned_runs(options, study))
    training, evaluation = programs(options, study, settings)
    program, arguments = evaluation.split("examples.fewshot.evaluate ")
    assert program == "python -m "
    assert tyro.cli(Evaluation, args=shlex.split(arguments)) == Evaluation(
        runs=(settings.folder,), k_shots=study.k_shots, threads=options.threads
    )
    assert programs(options, STUDIES["glyphs"], settings) == [training]


def test_a_run_that_lacks_the_shots_of_its_study_is_taken_up_again(options, monkeypatch):
    options = dataclasses.replace(options, studies=("bootstrapping",))
    study = STUDIES["bootstrapping"]
    planned = list(planned_runs(options, study))
    shots = {"k_shots": [episode_result(k, 0.8) for k in study.k_shots]}
    for settings in planned:
        folder = RunFolder(settings.folder)
        write_run(folder, 0.8)
        write_json(folder.config, settings.record())
        folder.checkpoint.touch()
        if settings is not planned[-1]:
            write_json(folder.path / "evaluation-shots.json", shots)
    started = []

    def run(command, **kwargs):
        started.append(command[1:3] + ["--resume"] * ("--resume" in command))
        if "--k-shots" in command:
            write_json(planned[-1].folder / "evaluation-shots.json", shots)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(run_pool.subprocess, "run", run)
    assert experiments.main(options) == 0
    assert started == [["-m", "examples.fewshot.train", "--resume"], ["-m", "examples.fewshot.evaluate"]]


def test_a_run_with_other_settings_is_not_taken_for_finished(options):
    settings = next(planned_runs(options, STUDIES["glyphs"]))
    folder = RunFolder(settings.folder)
    write_run(folder, 0.8)
    write_json(folder.config, dataclasses.replace(settings, clip=7.0).record())
    with pytest.raises(ValueError, match=r"--clip: was 7.0"):
        is_finished(settings, folder.evaluation)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"studies": ()}, "studies are glyphs, sequential, bootstrapping, got none"),
        ({"studies": ("letters",)}, "got letters"),
        ({"seeds": (1,)}, "at least 2"),
        ({"seeds": (1, 1)}, "all different"),
        ({"parallel": 0}, "--parallel must be at least 1, got 0"),
    ],
)
def test_options_that_do_not_fit(options, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(options, **change).check(STUDIES)


def sequence_result(accuracy: float) -> dict:
    orders = {}
    for first, second in (("glyphs", "textures"), ("textures", "glyphs")):
        values = {"mean": [accuracy] * 4, "interval_95": [0.01] * 4}
        total = {"mean": accuracy, "interval_95": 0.01}
        orders[f"{first} first"] = {
            "switch": 2,
            "positions": values,
            "counting_labels": {"positions": values},
            "tasks": {task: {"total": total, "shots": values} for task in (first, second)},
        }
    return {"orders": orders, "chance": 0.2}


@pytest.mark.parametrize("name", ["sequential", "bootstrapping"])
def test_the_pictures_and_tables_of_the_other_studies(options, name):
    study = STUDIES[name]
    for settings in planned_runs(options, study):
        folder = RunFolder(settings.folder)
        write_run(folder, 0.5)
        if name == "sequential":
            write_json(folder.evaluation, sequence_result(0.5 + settings.seed / 100))
        else:
            shots = {"k_shots": [episode_result(k, 0.1 * k) for k in study.k_shots]}
            write_json(folder.path / "evaluation-shots.json", shots)
    results = experiments.gather(options, name, study)
    experiments.draw_comparison(results, options.runs / "picture.png")
    assert (options.runs / "picture.png").exists()
    table = study.table(results).splitlines()
    assert len(table) == 2 + len(study.presets)
    assert len({line.count("|") for line in table}) == 1
    if name == "sequential":
        assert "| glyphs, first | textures, second | textures, first | glyphs, second |" in table[0]
        assert "54.00 ± 12.71 %" in table[2]
    else:
        assert "70.00 ± 0.00 %" in table[2]
