import dataclasses
from pathlib import Path

import pytest

from examples.training.settings import ADDED
from tests.examples.training.conftest import Settings

RANGES = {
    "may_be_zero": ("warmup",),
    "may_be_negative": ("shift",),
    "never_zero": ("learning_rate", "max_minutes"),
    "below_one": ("decay",),
    "at_most_one": ("share",),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "train: --steps must be at least 1, got 0"),
        ({"warmup": -1}, "--warmup must be at least 0, got -1"),
        ({"learning_rate": -0.1}, "--learning-rate must be at least 0, got -0.1"),
        ({"learning_rate": 0.0}, "--learning-rate must be above 0, got 0"),
        ({"decay": 1.0}, "--decay must be below 1, got 1.0"),
        ({"share": 1.5}, "--share must be at most 1, got 1.5"),
        ({"decay": float("nan")}, "--decay must be at least 0, got nan"),
        ({"max_minutes": 0.0}, "--max-minutes must be above 0"),
    ],
)
def test_a_number_out_of_its_range_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        Settings(**change).check_ranges(**RANGES)


def test_changes_are_those_of_settings_that_decide_numbers():
    recorded = Settings().record()
    assert Settings(name="other", resume=True, runs=Path("x"), max_minutes=3.0).changes(recorded) == []
    assert Settings(steps=7, augment=True).changes(recorded) == [
        "--augment: was False, now True",
        "--steps: was 6, now 7",
    ]
    del recorded["decay"]
    recorded["depth"] = 3
    assert Settings().changes(recorded) == ["--decay: was None, now 0.5", "--depth: was 3, now unknown"]


@dataclasses.dataclass(frozen=True)
class Later(Settings):
    """With a setting that came later."""

    depth: int = dataclasses.field(default=2, metadata=ADDED)


def test_runs_from_before_a_setting_had_its_default():
    recorded = Settings().record()
    assert Later.from_record(recorded) == Later()
    assert Later().changes(recorded) == []
    assert Later(depth=3).changes(recorded) == ["--depth: was 2, now 3"]
    assert Later(depth=3).changes(Later(depth=4).record()) == ["--depth: was 4, now 3"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/../../x", "/x", "a/..", "..\\x", "\\x", "C:x", "C:\\x", "\0"]
)
def test_a_name_that_leads_out_of_the_folder_of_all_runs_is_refused(name):
    with pytest.raises(ValueError, match="train: --name must be that of a folder below --runs, got"):
        Settings(name=name).check()


@pytest.mark.parametrize("name", ["x", "a b", "a/b", "...", "..x", "x.log", "ü"])
def test_other_names_pass(name):
    Settings(name=name).check()
