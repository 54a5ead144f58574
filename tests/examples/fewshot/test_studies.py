"""The comparisons: which runs they plan, and what they make of the runs' numbers."""

import dataclasses
import itertools
import shlex
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image

from examples.fewshot.evaluate import Evaluation
from examples.fewshot.experiments import Experiments
from examples.fewshot.studies import STUDIES
from examples.training.experiments import Comparison, planned_runs
from tests.examples.runs import cells_of, write_run


@pytest.fixture
def options(tmp_path: Path) -> Experiments:
    return Experiments(("glyphs",), seeds=(3, 5), runs=tmp_path / "runs", output=tmp_path / "results")


def episode_result(k_shot: int, accuracy: float) -> dict:
    return {
        "k_shot": k_shot,
        "chance": 0.2,
        "learner": {"mean": accuracy, "interval_95": 0.01},
        "nearest_neighbour": {"mean": 0.9, "interval_95": 0.01},
    }


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


def task_result(accuracy: float) -> dict:
    """The first task, asked again after the second, has half."""
    first, half = ({"mean": share * accuracy, "interval_95": 0.01} for share in (1, 0.5))
    orders = (("glyphs", "textures"), ("textures", "glyphs"))
    return {
        "matrices": {f"{a}, {b}": {a: {a: first, b: half}, b: {b: first}} for a, b in orders},
        "chance": 0.2,
    }


def compared(options: Experiments, name: str) -> Comparison:
    """A study whose runs are finished: 80 % right with seed 3, 90 % with seed 5."""
    study = STUDIES[name]
    for run in planned_runs(study, options):
        accuracy = {3: 0.8, 5: 0.9}[run.seed]
        if name == "sequential":
            result = sequence_result(accuracy)
        elif name == "continual":
            result = task_result(accuracy)
        elif study.k_shots:
            result = {"k_shots": [episode_result(k, accuracy) for k in study.k_shots]}
        else:
            result = episode_result(run.settings.k_shot, accuracy)
        reports = [
            {"split": split, "step": step, "seconds": 60.0 * step, "accuracy": accuracy * step / 2}
            for step in (0, 1, 2)
            for split in ("validation", "train")
        ]
        write_run(run.settings, reports, result, study.evaluation(run.settings))
    return Comparison(name, study, options)


@pytest.mark.parametrize("name", STUDIES)
def test_all_runs_of_a_seed_share_one_encoder(options, name):
    study = STUDIES[name]
    planned = planned_runs(study, options)
    assert len(planned) == len(study.rows) * len(options.seeds)
    assert len({run.settings.folder for run in planned}) == len(planned)
    for run in planned:
        run.settings.check()
        assert (run.settings.seed, run.settings.threads) == (run.seed, options.threads)
        if run.row.preset == study.leader:
            assert run.settings.encoder_from is None
        else:
            assert run.settings.encoder_from == run.leader.settings.folder
            assert (run.leader.row.preset, run.leader.seed) == (study.leader, run.seed)


@pytest.mark.parametrize("name", STUDIES)
def test_what_is_compared_with_as_many_shots_differs_in_core_or_protocol_alone(name):
    free = {"preset", "name", "core", "n_layers", "d_model", "protocol", "future_shots", "backward_terms"}
    compared = [row.record() for row in STUDIES[name].rows.values()]
    for one, other in itertools.combinations(compared, 2):
        if one["k_shot"] == other["k_shot"]:
            assert {key for key in one if one[key] != other[key]} <= free


def test_a_run_is_evaluated_with_the_shots_of_its_study(options):
    study = STUDIES["bootstrapping"]
    settings = planned_runs(study, options)[0].settings
    training, evaluation = study.programs(settings)
    assert training.startswith("python -m examples.fewshot.train --preset glyphs-2shot-srwm")
    program, arguments = evaluation.split("examples.fewshot.evaluate ")
    assert program == "python -m "
    asked = tyro.cli(Evaluation, args=shlex.split(arguments))
    assert asked == Evaluation(runs=(settings.folder,), k_shots=study.k_shots, threads=options.threads)
    assert study.evaluation(settings) == settings.folder / "evaluation-shots.json"
    assert study.facts() == {"k_shots": [1, 2, 3, 4, 5, 6, 7]}
    assert STUDIES["glyphs"].programs(settings) == [training], "which evaluates the run too"
    assert STUDIES["glyphs"].evaluation(settings) == settings.folder / "evaluation.json"


@pytest.mark.parametrize(
    ("name", "columns", "cells", "line"),
    [
        (
            "glyphs",
            ["learner", "nearest neighbour, same encoder"],
            ["85.00 ± 63.53 %", "90.00 ± 0.00 %"],
            [0.02, 0.425, 0.85],  # accuracies of 0 are drawn at the axis
        ),
        (
            "sequential",
            ["glyphs, first", "textures, second", "textures, first", "glyphs, second"],
            ["85.00 ± 63.53 %"] * 4,
            [0.85] * 2,  # of the first task
        ),
        (
            "continual",
            [
                *("glyphs, first", "glyphs after textures", "textures, second"),
                *("textures, first", "textures after glyphs", "glyphs, second"),
            ],
            ["85.00 ± 63.53 %", "42.50 ± 31.77 %", "85.00 ± 63.53 %"] * 2,
            [0.85, 0.425],
        ),
        ("bootstrapping", [f"{k}-shot" for k in range(1, 8)], ["85.00 ± 63.53 %"] * 7, [0.85] * 7),
    ],
)
def test_numbers_table_and_picture_of_finished_runs(options, capsys, drawn, name, columns, cells, line):
    comparison = compared(options, name)
    assert comparison.missing == []
    results = comparison.results()
    entry = results["compared"][STUDIES[name].leader]
    assert [run["minutes"] for run in entry["runs"]] == [2, 2]
    assert entry["runs"][0]["curve"] == [
        {"step": step, "seconds": 60.0 * step, "accuracy": 0.4 * step} for step in (0, 1, 2)
    ]
    comparison.report()
    head, *table = cells_of(capsys.readouterr().out)
    assert head == ["", *columns, "minutes"]
    assert [row[0] for row in table] == list(STUDIES[name].rows)
    assert [row[1:] for row in table] == [[*cells, "2.0"]] * len(STUDIES[name].rows)
    with Image.open(options.output / f"{name}.png") as image:
        assert image.size[0] > 500
    found = {one.get_label(): one.get_ydata() for one in drawn[0].axes[0].lines}
    for label in STUDIES[name].rows:
        if "5-shot" not in label:  # which have axes of their own
            np.testing.assert_allclose(found[label.removesuffix(", 1-shot")], line)


def test_parameters_are_those_that_the_readme_tells():
    rows = STUDIES["glyphs"].rows
    assert STUDIES["glyphs"].parameters(rows["SRWM, 1-shot"]) == 300_485


def test_an_interval_over_seeds_needs_two(options):
    with pytest.raises(ValueError, match="--seeds must be at least 2"):
        dataclasses.replace(options, seeds=(1,)).check(STUDIES)
