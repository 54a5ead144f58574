"""The comparisons in docs/results: their numbers, tables and pictures belong to the studies of today."""

import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from examples.fewshot import studies as fewshot
from examples.languages import studies as languages
from examples.languages.plots import learner_of
from examples.languages.presets import LEARNERS, PRESETS
from examples.rl import studies as rl
from examples.training.experiments import Comparison, ExperimentOptions
from examples.training.files import read_json
from tests.examples.runs import cells_of

RESULTS = Path(__file__).parents[2] / "docs" / "results"
STUDIES = {
    name: study
    for name, study in {**fewshot.STUDIES, **rl.STUDIES, **languages.STUDIES}.items()
    if (RESULTS / f"{name}.json").exists()
}


def leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """What a JSON value holds, with its place."""
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, f"{where}.{key}")
    else:
        yield where, value


def test_learners_of_languages_have_the_rates_with_which_they_did_best():
    recorded = read_json(RESULTS / "languages-rates.json")
    did: dict[str, dict[float, list[tuple[float, int]]]] = defaultdict(lambda: defaultdict(list))
    for entry in recorded["compared"].values():
        [run] = entry["runs"]
        best = max(run["curve"], key=lambda line: line["accuracy"])
        rate = entry["settings"]["learning_rate"]
        did[learner_of(entry)][rate].append((best["accuracy"], -best["step"]))
    assert did.keys() == LEARNERS.keys()
    for learner, by_rate in did.items():
        of_both = {
            rate: tuple(map(sum, zip(*best, strict=True)))
            for rate, best in by_rate.items()
            if len(best) == 2
        }
        rate = max(of_both, key=of_both.__getitem__)
        assert PRESETS[f"parity-{learner}"].learning_rate == rate, (learner, of_both)


def test_there_are_some():
    wanted = {"glyphs", "sequential", "bootstrapping", "cue", "starpilot", "languages-demo"}
    assert wanted <= STUDIES.keys()


@pytest.mark.parametrize("name", STUDIES)
def test_a_comparison_that_has_only_the_repository_makes_table_and_picture_again(name, tmp_path, capsys):
    shutil.copy(RESULTS / f"{name}.json", tmp_path)
    recorded = read_json(tmp_path / f"{name}.json")
    options = ExperimentOptions(
        (name,), seeds=tuple(recorded["seeds"]), runs=tmp_path / "runs", output=tmp_path
    )
    comparison = Comparison(name, STUDIES[name], options)
    done = {(row, run["seed"]) for row, entry in recorded["compared"].items() for run in entry["runs"]}
    done |= {(run["row"], run["seed"]) for run in recorded.get("diverged", [])}
    planned = {run.key for run in comparison.runs}
    assert done <= planned
    assert {run.key for run in comparison.missing} == planned - done  # a comparison may be under way
    comparison.report()
    again = read_json(tmp_path / f"{name}.json")
    found, expected = dict(leaves(again)), dict(leaves(recorded))
    assert {where: found[where] for where in expected} == pytest.approx(expected)
    assert all(".settings." in where for where in found.keys() - expected.keys())  # added since then
    table = cells_of(capsys.readouterr().out)
    labels = [entry["label"] for entry in recorded["compared"].values()]
    if name in languages.STUDIES:  # whose label is that of a row and that of a column
        heads = " ".join(cell for row in table for cell in row)
        assert all(part in heads for label in labels for part in label.split(", rate ")[0].split(", ", 1))
    else:
        assert [row[0] for row in table[1 : 1 + len(labels)]] == labels
    with Image.open(tmp_path / f"{name}.png") as image:
        assert image.size[0] > 500
