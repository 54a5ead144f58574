"""The comparisons: which runs they plan, and what they make of the runs' numbers."""

import dataclasses
import itertools
import shlex
from pathlib import Path

import pytest
import tyro
from PIL import Image
from torch.nn import Linear

from examples.rl import studies
from examples.rl.evaluate import Evaluation
from examples.rl.studies import STUDIES
from examples.training.experiments import Comparison, ExperimentOptions, planned_runs
from tests.examples.runs import cells_of, write_run

SPLITS = {"cue": ("new episodes",), "starpilot": ("train", "1000", "1200", "1400", "test")}


@pytest.fixture
def options(tmp_path: Path) -> ExperimentOptions:
    return ExperimentOptions(("cue",), seeds=(3, 5), runs=tmp_path / "runs", output=tmp_path / "results")


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


def compared(options: ExperimentOptions, name: str) -> Comparison:
    """A study whose runs are finished: a mean of 0.8 with seed 3, of 0.9 with seed 5."""
    for run in planned_runs(STUDIES[name], options):
        mean = {3: 0.8, 5: 0.9}[run.seed]
        shares = {"acting_share": 0.2, "learning_share": 0.3}
        reports = [
            {"frames": 1000 * n, "seconds": 60.0 * n, "environment_share": 0.1 * n, **shares}
            for n in (1, 2)
        ]
        reports[1]["episode_return"] = mean  # at first no episode has ended yet
        evaluation = {
            "runs": [{"games": {name: of_game(name, mean)}}],
            "random": {"games": {name: of_game(name, mean - 0.6, ("sampled",))}},
        }
        write_run(run.settings, reports, evaluation)
    return Comparison(name, STUDIES[name], options)


@pytest.mark.parametrize("name", STUDIES)
def test_planned_runs_differ_in_core_truncation_and_what_the_lstm_needs_alone(options, name):
    planned = [run.settings for run in planned_runs(STUDIES[name], options)]
    assert len(planned) == 2 * len(STUDIES[name].rows)
    assert len({settings.folder for settings in planned}) == len(planned)
    for settings in planned:
        settings.check()
        assert settings.environment_threads == settings.threads == options.threads
    assert [settings.seed for settings in planned[:2]] == [3, 5]
    of_layers = {"residual", "input_softmax", "input_gain"}
    for one, other in itertools.combinations(STUDIES[name].rows.values(), 2):
        differing = {key for key, value in one.record().items() if value != other.record()[key]}
        of_lstm = {"learning_rate", "frames"} if "lstm" in (one.core, other.core) else set()
        assert differing <= {"preset", "name", "core", "bptt"} | of_layers | of_lstm
        # Layers that are wired alike.
        if {one.core, other.core} <= {"srwm", "srwm_no_carry", "fake_sr", "sr_delta"}:
            assert not differing & of_layers


@pytest.mark.parametrize("name", ["cue", "starpilot"])
def test_a_run_is_trained_then_evaluated_on_episodes_of_its_own(options, name):
    study = STUDIES[name]
    settings = planned_runs(study, options)[1].settings
    training, evaluation = study.programs(settings)
    assert training.startswith(f"python -m examples.rl.train --preset {name}-srwm")
    program, arguments = evaluation.split("examples.rl.evaluate ")
    assert program == "python -m "
    assert tyro.cli(Evaluation, args=shlex.split(arguments)) == Evaluation(
        runs=(settings.folder,),
        random=True,
        seed=1 + settings.seed,
        episodes=study.episodes,
        threads=1,
        environment_threads=1,
        output=settings.folder / "evaluation.json",
    )


def test_numbers_table_and_picture_of_finished_runs(options, capsys):
    comparison = compared(options, "cue")
    assert comparison.missing == []
    results = comparison.results()
    assert (results["episodes"], list(results["splits"])) == (1000, ["new episodes"])
    entry = results["compared"]["cue-lstm"]
    assert entry["parameters"] > 100_000
    sampled = entry["summary"]["new episodes"]["sampled"]
    assert sampled["mean"] == pytest.approx(0.85)
    assert sampled["interval_95"] == pytest.approx(12.706 * 0.05, rel=1e-3)
    [first, second] = entry["runs"]
    assert (first["minutes"], first["frames_per_second"]) == (2, pytest.approx(2000 / 120))
    assert first["shares"] == pytest.approx({"environment": 0.15, "acting": 0.2, "learning": 0.3})
    assert second["curve"] == [
        {"frames": 1000, "seconds": 60, "episode_return": None},
        {"frames": 2000, "seconds": 120, "episode_return": 0.9},
    ]
    chance = results["random"]["new episodes"]["sampled"]
    assert (chance["mean"], chance["count"]) == (pytest.approx(0.25), 2), "of all seeds"

    comparison.report()
    with Image.open(options.output / "cue.png") as image:
        assert image.size[0] > 500
    head, *table = cells_of(capsys.readouterr().out)
    assert head == ["", "new episodes, sampled", "new episodes, greedy", "minutes", "frames/s"]
    assert ["LSTM", "85.0 ± 63.5 %", "95.0 ± 63.5 %", "2.0", "17"] in table
    assert table[-1] == ["acting at random", "25.0 ± 63.5 %", "", "", ""]


def test_one_seed_has_intervals_over_episodes(options, monkeypatch, capsys):
    monkeypatch.setattr(studies, "fresh_agent", lambda row: Linear(1, 1))  # Procgen may be missing
    options = dataclasses.replace(options, studies=("starpilot",), seeds=(5,))
    options.check(STUDIES)
    comparison = compared(options, "starpilot")
    test = comparison.results()["compared"]["starpilot-srwm"]["summary"]["test"]["greedy"]
    assert test == {"mean": pytest.approx(1.04), "interval_95": 0.04}
    comparison.report()
    assert (options.output / "starpilot.png").exists()
    head, srwm, *_ = cells_of(capsys.readouterr().out)
    assert head[-4:] == ["test, sampled", "test, greedy", "minutes", "frames/s"]
    assert srwm[-4:-2] == ["0.94 ± 0.04", "1.04 ± 0.04"]
