"""The comparison's tables and pictures, from numbers made up here."""

import dataclasses

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from examples.languages import plots
from examples.languages.presets import LEARNERS, PRESETS
from examples.languages.studies import GROUPS, HARD, LANGUAGES, STUDIES, by_length
from examples.training.statistics import over_runs


def run(seed: int, short: float, long: float, best: float = 0.5, prefix: int = 20) -> dict[str, object]:
    scores = {"positions": {"mean": 1.0}, "prefix_90": {"mean": prefix}, "prefix_99": {"mean": 10}}
    return {
        "seed": seed,
        "minutes": 2.0 + seed,
        "result": {
            "2-50": {"words": {"mean": short}, **scores, "prefix_90": {"mean": 40}},
            "51-100": {"words": {"mean": long}, **scores},
        },
        "by_length": {"10": [20, 1, 4], "75": [240, 3, 4]},
        "curve": [{"step": 250, "accuracy": best}, {"step": 500, "accuracy": best / 2}],
    }


def results_of(study: str, runs: dict[str, list[dict[str, object]]], seeds: int) -> dict[str, object]:
    rows = {row.name: (label, row) for label, row in STUDIES[study].rows.items()}
    return {
        "study": study,
        "title": STUDIES[study].title,
        "seeds": list(range(seeds)),
        "compared": {
            name: {
                "label": rows[name][0],
                "settings": rows[name][1].record(),
                "parameters": 1000,
                "runs": of_row,
                "summary": over_runs([of_run["result"] for of_run in of_row]),
            }
            for name, of_row in runs.items()
        },
    }


LANGUAGES_FOUND = results_of(
    "languages",
    {
        "parity-srwm": [run(0, 1.0, 0.9), run(1, 1.0, 0.8)],
        "parity-lstm": [run(0, 0.5, 0.0), run(1, 0.25, 0.0)],
        "aa-srwm": [run(1, 0.75, 0.5)],
        "s3-srwm": [run(0, 0.5, 0.0), run(1, 0.5, 0.0, prefix=30)],
    },
    seeds=2,
)


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line]


def test_the_table_has_a_part_for_each_bin_and_says_where_seeds_lack():
    lines = cells(STUDIES["languages"].table(LANGUAGES_FOUND))
    half = 12.706 * 10 * np.sqrt(0.5) / np.sqrt(2)  # of 90 and 80
    assert lines[0] == ["lengths 2-50", "SRWM", "LSTM"]
    assert lines[2][:2] == ["parity", "100.0"]
    assert lines[3] == ["aa", "75.0 (1 of 2)", ""]
    assert lines[5][0] == "lengths 51-100"
    assert lines[7][1] == f"85.0 ± {half:.1f}"
    assert lines[10:16:3] == [[f"prefix right in {share} %", "SRWM", "LSTM"] for share in (90, 99)]
    assert lines[12:18:3] == [["s3", "25", ""], ["s3", "10", ""]]
    assert lines[-3:] == [["parity", "2.5", "2.5"], ["aa", "3.0", ""], ["s3", "2.5", ""]]


def test_the_table_of_rates_has_the_best_validation_of_each():
    found = results_of(
        "languages-rates",
        {"rates-parity-srwm-0.001": [run(0, 1, 1, 0.75)], "rates-parity-srwm-0.003": [run(0, 1, 1, 1.0)]},
        1,
    )
    found["diverged"] = [{"row": "rates-parity-linear-0.003", "seed": 0, "said": "so"}]
    lines = cells(STUDIES["languages-rates"].table(found))
    assert lines[0] == ["", "0.001", "0.003"]
    assert lines[2] == ["parity, SRWM", "75.0 % at 250", "100.0 % at 250"]
    assert lines[3:] == [["parity, linear attention", "", "diverged"]]


def test_the_demonstration_says_what_its_numbers_mean():
    runs = {"demo-parity-srwm": [run(0, 1.0, 1.0)], "demo-parity-deltanet": [run(0, 0.25, 0.0)]}
    text = STUDIES["languages-demo"].table(results_of("languages-demo", runs, 1))
    assert "Words of 51 to 100 bits" in text
    assert "the SRWM has 100.0 % of them right, the DeltaNet has 0.0 % of them right" in text


def test_words_of_about_the_same_length_are_counted_together():
    short, long = [[4, 1, 2], [10, 0, 2], [11, 1, 1]], [[900, 3, 4]]
    bins = {"2-50": {"by_length": short}, "51-900": {"by_length": long}}
    found = by_length({"bins": bins})
    assert found == {"10": [28, 1, 4], "20": [11, 1, 1], "900": [3600, 3, 4]}


def test_they_are_one_point_over_all_runs():
    lengths, shares = plots._points([run(0, 1, 1), run(1, 1, 1)])
    np.testing.assert_allclose(lengths, [5, 60])
    np.testing.assert_allclose(shares, [1 / 4, 3 / 4])


@pytest.mark.parametrize("study", ["languages", "languages-rates"])
def test_pictures(study, tmp_path, monkeypatch):
    found = LANGUAGES_FOUND
    if study == "languages-rates":
        found = results_of(
            "languages-rates", {f"rates-dyck-1-{name}-0.001": [run(0, 1, 1)] for name in LEARNERS}, 1
        )
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **named: (drawn.append(self), save(self, *a, **named))
    )
    STUDIES[study].draw(found, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        assert min(image.size) > 500
    [figure] = drawn
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert titles == (["parity", "aa", "s3"] if study == "languages" else ["dyck-1"])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == (
        ["SRWM", "LSTM"] if study == "languages" else [label for label, _ in LEARNERS.values()]
    )


def test_the_studies_compare_what_they_say():
    rows = STUDIES["languages"].rows.values()
    assert len(rows) == len({row.name for row in rows}) == (len(LANGUAGES) + len(GROUPS)) * len(LEARNERS)
    assert {row.task for row in STUDIES["languages-hard"].rows.values()} == set(HARD)
    for study in STUDIES.values():
        for row in study.rows.values():
            dataclasses.replace(row).check()


def test_learners_are_of_comparable_size():
    sizes = {name: STUDIES["languages"].parameters(PRESETS[f"parity-{name}"]) for name in LEARNERS}
    assert max(sizes.values()) < 1.5 * min(sizes.values()), sizes
