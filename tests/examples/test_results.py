"""The comparisons in docs/results: their numbers, tables and pictures belong to the studies of today."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from examples.fewshot import studies as fewshot
from examples.rl import studies as rl
from examples.training.experiments import Comparison, ExperimentOptions
from examples.training.run_folder import read_json

RESULTS = Path(__file__).parents[2] / "docs" / "results"
STUDIES = {
    name: study
    for name, study in {**fewshot.STUDIES, **rl.STUDIES}.items()
    if (RESULTS / f"{name}.json").exists()
}


def test_there_are_some():
    assert {"glyphs", "sequential", "bootstrapping", "cue", "starpilot"} <= STUDIES.keys()


@pytest.mark.parametrize("name", STUDIES)
def test_a_comparison_that_has_only_the_repository_makes_table_and_picture_again(name, tmp_path, capsys):
    shutil.copy(RESULTS / f"{name}.json", tmp_path)
    recorded = read_json(tmp_path / f"{name}.json")
    options = ExperimentOptions(
        (name,), seeds=tuple(recorded["seeds"]), runs=tmp_path / "runs", output=tmp_path
    )
    comparison = Comparison(name, STUDIES[name], options)
    assert comparison.missing == []
    comparison.report()
    assert read_json(tmp_path / f"{name}.json") == recorded
    table = capsys.readouterr().out.splitlines()
    assert len({row.count("|") for row in table}) == 1
    assert len(table) >= 2 + len(recorded["compared"])
    with Image.open(tmp_path / f"{name}.png") as image:
        assert image.size[0] > 500
