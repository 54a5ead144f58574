"""The comparisons: which runs they plan, and what they make of the runs' numbers."""

import dataclasses
import itertools
import shlex
from pathlib import Path

import numpy as np
import pytest
import tyro

from examples.fewshot.evaluate import Evaluation
from examples.fewshot.presets import PRESETS
from examples.fewshot.studies import STUDIES
from examples.training.experiments import Comparison, ExperimentOptions, planned_runs
from tests.examples.runs import cells_of, write_run


@pytest.fixture
def options(tmp_path: Path) -> ExperimentOptions:
    return ExperimentOptions(("glyphs",), seeds=(3, 5), runs=tmp_path / "runs", output=tmp_path / "results")


def result_of(name: str, k_shot: int, accuracy: float) -> dict:
    """Of one run of a study; of two tasks the second, and the first after it, have half."""
    whole, half = ({"mean": share * accuracy, "interval_95": 0.01} for share in (1, 0.5))
    along = {"mean": [accuracy] * 4, "interval_95": [0.01] * 4}
    nearest = {"mean": 0.9, "interval_95": 0.01}
    orders = (("glyphs", "textures"), ("textures", "glyphs"))
    if name.startswith("sequential"):
        counted = {"counting_labels": {"positions": along}}
        shared = {"switch": 2, "positions": along, "total": whole, **counted}
        of_orders = {
            f"{a} first": {**shared, "tasks": {a: {"total": whole}, b: {"total": half}}} for a, b in orders
        }
        return {"orders": of_orders, "chance": 0.2}
    if name == "continual-three":
        later = {task: [whole, half, half] for task in ("glyphs", "textures", "digits")}
        matrices = {", ".join(order): {} for order in itertools.permutations(later)}
        return {"matrices": matrices, "later": later, "chance": 0.2}
    if name == "continual":
        matrices = {f"{a}, {b}": {a: {a: whole, b: half}, b: {b: half}} for a, b in orders}
        return {"matrices": matrices, "chance": 0.2}
    return {"k_shot": k_shot, "chance": 0.2, "learner": whole, "nearest_neighbour": nearest}


def compared(options: ExperimentOptions, name: str) -> Comparison:
    """A study whose runs are finished: 80 % right with seed 3, 90 % with seed 5."""
    study = STUDIES[name]
    for run in planned_runs(study, options):
        accuracy = {3: 0.8, 5: 0.9}[run.seed]
        result = result_of(name, run.settings.k_shot, accuracy)
        if study.k_shots:
            result = {"k_shots": [result_of(name, k_shot, accuracy) for k_shot in study.k_shots]}
        reports = [
            {"split": split, "step": step, "seconds": 60.0 * step, "accuracy": accuracy * step / 2}
            for step in (0, 1, 2)
            for split in ("validation", "train")
        ]
        write_run(run.settings, reports, result, study.evaluation(run.settings))
    return Comparison(name, study, options)


@pytest.mark.parametrize("name", STUDIES)
def test_runs_share_an_encoder_and_those_of_as_many_shots_differ_in_core_or_protocol_alone(options, name):
    study = STUDIES[name]
    planned = planned_runs(study, options)
    assert len({run.settings.folder for run in planned}) == len(study.rows) * len(options.seeds)
    for run in planned:
        run.settings.check()
        assert (run.settings.seed, run.settings.threads) == (run.seed, options.threads)
        leader = f"{study.leader}-seed{run.seed}"
        of_leader = None if run.settings.name == leader else options.runs / leader
        assert run.settings.encoder_from == of_leader
    free = {"preset", "name", "core", "n_layers", "d_model", "protocol", "future_shots", "backward_terms"}
    if name == "sequential-settings":
        return  # see test_one_setting_is_changed_at_a_time
    for one, other in itertools.combinations((row.record() for row in study.rows.values()), 2):
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
            ["85.00 ± 63.53 %", "42.50 ± 31.77 %"] * 2,
            [0.85] * 2,  # of the first task
        ),
        (
            "continual",
            [
                *("glyphs, first", "glyphs after textures", "textures, second"),
                *("textures, first", "textures after glyphs", "glyphs, second"),
            ],
            ["85.00 ± 63.53 %", "42.50 ± 31.77 %", "42.50 ± 31.77 %"] * 2,
            [0.85, 0.425],
        ),
        (
            "continual-three",
            [
                f"{task}, {when}"
                for task in ("glyphs", "textures", "digits")
                for when in ("just read", "one task later", "two tasks later")
            ],
            ["85.00 ± 63.53 %", "42.50 ± 31.77 %", "42.50 ± 31.77 %"] * 3,
            [0.85, 0.425, 0.425],
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
    assert (options.output / f"{name}.png").exists()
    found = {one.get_label(): one.get_ydata() for one in drawn[0].axes[0].lines}
    for label in STUDIES[name].rows:
        if "5-shot" not in label:  # which have axes of their own
            np.testing.assert_allclose(found[label.removesuffix(", 1-shot")], line)


def test_what_the_readme_tells(options):
    glyphs = STUDIES["glyphs"]
    assert glyphs.parameters(glyphs.rows["SRWM, 1-shot"]) == 300_485


def test_one_setting_is_changed_at_a_time(options, drawn):
    study = STUDIES["sequential-settings"]
    first, *others, deltanet = (row.record() for row in study.rows.values())
    presets = {row.preset: PRESETS[row.preset] for row in study.rows.values()}
    assert first == replace_of(presets["sequential-glyphs-textures-srwm"], first["name"])
    assert deltanet == replace_of(presets["sequential-glyphs-textures-deltanet"], deltanet["name"])
    for label, other in zip(list(study.rows)[1:-1], others, strict=True):
        [change] = {key for key in first if first[key] != other[key]} - {"name"}
        assert label == f"--{change.replace('_', '-')} {other[change]}"
    compared(options, "sequential-settings").report()
    panels = drawn[0].axes
    assert [axes.get_title() for axes in panels] == [
        *("glyphs, first", "textures, second", "textures, first", "glyphs, second")
    ]
    assert [tick.get_text() for tick in panels[0].get_yticklabels()] == list(study.rows)
    for axes, share in zip(panels, (1, 0.5, 1, 0.5), strict=True):
        np.testing.assert_allclose(axes.lines[-1].get_xdata(), 0.85 * share)
        of_seeds = [dots.get_offsets()[:, 0] for dots in axes.collections[1::2]]
        np.testing.assert_allclose(of_seeds, np.tile([0.8 * share, 0.9 * share], (12, 1)))


def replace_of(preset, name: str) -> dict:
    return dataclasses.replace(preset, name=name, steps=8000).record()
