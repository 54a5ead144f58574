"""The comparisons: which runs they plan, and what they make of the runs' numbers."""

import dataclasses
import itertools
import json
import subprocess
from pathlib import Path

import pytest
import tyro
from PIL import Image

from examples.rl import experiments
from examples.rl.evaluate import Evaluation
from examples.rl.experiments import Experiments, planned_runs
from examples.rl.presets import PRESETS
from examples.rl.studies import STUDIES
from examples.training import run_pool
from examples.training.run_folder import RunFolder, write_json

SPLITS = {"cue": ("new episodes",), "starpilot": ("train", "1000", "1200", "1400", "test")}


@pytest.fixture
def options(tmp_path: Path) -> Experiments:
    return Experiments(studies=("cue",), seeds=(3, 5), runs=tmp_path / "runs", output=tmp_path / "results")


def of_game(study: str, mean: float, policies=("greedy", "sampled")) -> dict:
    """Greedy actions get a tenth more, and each split a hundredth more than the one before."""
    return {
        split: {
            policy: {
                "return": {"mean": mean + place / 100 + (policy == "greedy") / 10, "interval_95": 0.04},
                "length": {"mean": 7.0, "interval_95": 0.1},
            }
            for policy in policies
        }
        for place, split in enumerate(SPLITS[study])
    }


def write_run(folder: RunFolder, study: str, mean: float) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "frames": 1000 * n,
            "seconds": 60.0 * n,
            "episode_return": mean * n / 2,
            "environment_share": 0.1 * n,
            "acting_share": 0.2,
            "learning_share": 0.3,
        }
        for n in (1, 2)
    ]
    del lines[0]["episode_return"]  # no episode has ended yet
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(
        folder.evaluation,
        {
            "splits": {name: {} for name in SPLITS[study]},
            "runs": [{"games": {study: of_game(study, mean)}}],
            "random": {"games": {study: of_game(study, 0.25, ("sampled",))}},
        },
    )


@pytest.mark.parametrize("name", STUDIES)
def test_planned_runs(options, name):
    planned = list(planned_runs(options, STUDIES[name]))
    assert len(planned) == 2 * len(STUDIES[name].runs)
    assert len({settings.folder for settings in planned}) == len(planned)
    for settings in planned:
        settings.check()
        assert settings.environment_threads == settings.threads == options.threads
    assert [settings.seed for settings in planned[:2]] == [3, 5]


@pytest.mark.parametrize("name", STUDIES)
def test_what_is_compared_differs_in_core_truncation_and_what_the_lstm_needs_alone(name):
    free = {"preset", "name", "core", "bptt"}
    of_layers = {"residual", "input_softmax", "input_gain"}
    for one, other in itertools.combinations(STUDIES[name].runs.values(), 2):
        differing = {key for key, value in one.record().items() if value != other.record()[key]}
        of_lstm = {"learning_rate", "frames"} if "lstm" in (one.core, other.core) else set()
        assert differing <= free | of_layers | of_lstm
        # Layers that are wired alike.
        if {one.core, other.core} <= {"srwm", "srwm_no_carry", "fake_sr", "sr_delta"}:
            assert not differing & of_layers


def test_truncation_is_compared_with_the_whole_unroll():
    truncated = STUDIES["cue"].runs["SRWM, --bptt 1"]
    assert truncated == dataclasses.replace(PRESETS["cue-srwm"], bptt=1, name="cue-srwm-bptt1")


def test_a_study_from_its_runs_to_its_picture(options, monkeypatch, capsys):
    started = []

    def run(command, **kwargs):
        module = command[command.index("-m") + 1]
        if module == "examples.rl.train":
            name = command[command.index("--name") + 1]
            started.append((module, name, "--resume" in command))
            mean = 0.8 if name.endswith("seed3") else 0.9
            write_run(RunFolder(options.runs / name), "cue", mean)
        else:
            asked = tyro.cli(Evaluation, args=command[command.index("-m") + 2 :])
            started.append((module, asked.runs[0].name, False))
            assert (asked.episodes, asked.random, asked.threads) == (1000, True, 1)
            assert asked.runs[0].name.endswith(f"seed{asked.seed - 1}"), "not on episodes of its own"
        return subprocess.CompletedProcess(command, 0)

    begun = next(planned_runs(options, STUDIES["cue"]))
    write_run(RunFolder(begun.folder), "cue", 0.1)
    RunFolder(begun.folder).evaluation.unlink()
    RunFolder(begun.folder).checkpoint.touch()
    write_json(RunFolder(begun.folder).config, begun.record())
    finished = list(planned_runs(options, STUDIES["cue"]))[-1]
    write_run(RunFolder(finished.folder), "cue", 0.3)
    write_json(RunFolder(finished.folder).config, finished.record())

    monkeypatch.setattr(run_pool.subprocess, "run", run)
    assert experiments.main(options) == 0
    assert len(started) == 2 * 15, "all but the finished one are trained and evaluated"
    assert finished.name not in {name for _, name, _ in started}
    assert [name for _, name, resumed in started if resumed] == [begun.name]
    for _, name, _ in started:
        modules = [module for module, other, _ in started if other == name]
        assert modules == ["examples.rl.train", "examples.rl.evaluate"]

    results = json.loads((options.output / "cue.json").read_text())
    entry = results["compared"]["cue-lstm"]
    sampled = entry["summary"]["new episodes"]["sampled"]
    assert sampled["mean"] == pytest.approx(0.85)
    assert sampled["interval_95"] == pytest.approx(12.706 * 0.05, rel=1e-3)
    [first, second] = entry["runs"]
    assert (first["minutes"], first["frames_per_second"]) == (2, pytest.approx(2000 / 120))
    assert first["shares"]["environment"] == pytest.approx(0.15)
    assert second["training"][0]["episode_return"] is None
    assert second["training"][1] == {"frames": 2000, "seconds": 120, "episode_return": 0.9}
    with Image.open(options.output / "cue.png") as image:
        assert image.size[0] > 500
    table = capsys.readouterr().out.splitlines()
    assert (
        "| | new episodes, sampled | new episodes, greedy | minutes | frames/s |".replace("| |", "|  |")
        in table
    )
    assert "| LSTM | 85.0 ± 63.5 % | 95.0 ± 63.5 % | 2.0 | 17 |" in table
    assert "| acting at random | 25.0 ± 4.0 % |  |  |  |" in table


def test_one_seed_has_intervals_over_episodes(options, tmp_path):
    options = dataclasses.replace(options, studies=("starpilot",), seeds=(4,))
    options.check(STUDIES)
    study = STUDIES["starpilot"]
    for settings in planned_runs(options, study):
        write_run(RunFolder(settings.folder), "starpilot", 9.0 if settings.core == "srwm" else 7.0)
    results = experiments.gather(options, "starpilot", study)
    test = results["compared"]["starpilot-srwm"]["summary"]["test"]["greedy"]
    assert test == {"mean": pytest.approx(9.14), "interval_95": 0.04}
    experiments.draw_comparison(results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").exists()
    head, _, srwm, *_, random = study.table(results).splitlines()
    assert head.count("|") == srwm.count("|") == random.count("|")
    assert head.endswith("| test, sampled | test, greedy | minutes | frames/s |")
    assert "| 9.04 ± 0.04 | 9.14 ± 0.04 |" in srwm


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"studies": ()}, "studies are cue, starpilot, coinrun, fruitbot, got none"),
        ({"studies": ("maze",)}, "got maze"),
        ({"seeds": ()}, "at least 1"),
        ({"seeds": (1, 1)}, "all different"),
        ({"threads": 0}, "--threads must be at least 1, got 0"),
    ],
)
def test_options_that_do_not_fit(options, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(options, **change).check(STUDIES)
