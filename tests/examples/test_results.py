"""The comparisons in docs/results: their numbers, tables and pictures belong to the studies of today."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from examples.fewshot import studies as fewshot
from examples.rl import studies as rl
from examples.training.experiments import Comparison, ExperimentOptions
from examples.training.run_folder import read_json
from tests.examples.runs import cells_of

RESULTS = Path(__file__).parents[2] / "docs" / "results"
STUDIES = {
    name: study
    for name, study in {**fewshot.STUDIES, **rl.STUDIES}.items()
    if (RESULTS / f"{name}.json").exists()
}


def leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """What a JSON value holds, with its place."""
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, f"{where}.{key}")
    else:
        yield where, value


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
    again = read_json(tmp_path / f"{name}.json")
    assert dict(leaves(again)) == {where: pytest.approx(value) for where, value in leaves(recorded)}
    table = cells_of(capsys.readouterr().out)
    labels = [entry["label"] for entry in recorded["compared"].values()]
    assert [row[0] for row in table[1 : 1 + len(labels)]] == labels
    with Image.open(tmp_path / f"{name}.png") as image:
        assert image.size[0] > 500
