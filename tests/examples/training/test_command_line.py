import dataclasses
import shlex
import sys

import pytest
import tyro

from examples.training.command_line import choose, command_for, list_presets, preset_of, run_program
from tests.examples.training.conftest import Settings

PRESETS = {"few": Settings(preset="few", name="few", steps=2), "many": Settings(preset="many", steps=99)}
DESCRIPTIONS = {"few": "only two", "many": "ninety-nine"}


@pytest.mark.parametrize(
    ("arguments", "preset"),
    [([], None), (["--preset", "x", "--steps", "1"], "x"), (["--name", "y", "--preset=x"], "x")],
)
def test_the_preset_of_a_command_line(arguments, preset):
    assert preset_of(arguments) == preset


def test_an_unknown_preset_is_answered_with_all_of_them():
    assert choose(PRESETS, "many", Settings()) is PRESETS["many"]
    assert choose(PRESETS, None, Settings()) == Settings()
    with pytest.raises(ValueError, match=r"train: --preset must be one of few, many; got 'nil'"):
        choose(PRESETS, "nil", Settings())


def test_presets_are_listed_a_line_each():
    assert list_presets(DESCRIPTIONS) == "- few   only two\n- many  ninety-nine"


def test_the_command_names_the_preset_and_what_differs_from_it():
    changed = dataclasses.replace(PRESETS["few"], name="a b", augment=True, betas=(0.5,), resume=True)
    words = shlex.split(command_for("a.train", changed, PRESETS["few"]))
    assert words == [
        *("python", "-m", "a.train", "--preset", "few", "--name", "a b", "--resume"),
        *("--augment", "--betas", "0.5"),
    ]
    assert tyro.cli(Settings, default=PRESETS["few"], args=words[3:]) == changed
    plain = Settings(augment=False, steps=3)
    [*_, steps, count, no] = shlex.split(command_for("a.train", plain, Settings(augment=True)))
    assert (steps, count, no) == ("--steps", "3", "--no-augment")


def run(monkeypatch, main, *arguments):
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    with pytest.raises(SystemExit) as left:
        run_program(main, "a.train", PRESETS, DESCRIPTIONS, Settings())
    return left.value.code


def test_a_program_starts_from_the_preset_and_ends_with_its_status(monkeypatch):
    seen = []

    def main(settings):
        seen.append(settings)
        return 7

    assert run(monkeypatch, main, "--preset", "few", "--decay", "0.25") == 7
    assert seen == [dataclasses.replace(PRESETS["few"], decay=0.25)]


def test_errors_reach_the_user_without_a_traceback(monkeypatch):
    def main(settings):
        raise ValueError("train: --steps must be odd")

    assert run(monkeypatch, main) == "train: --steps must be odd"
    assert "--preset must be one of few, many" in run(monkeypatch, main, "--preset", "nil")


def test_help_explains_settings_and_lists_presets(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, print, "--preset", "many", "--help") == 0
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("python -m a.train", "Do nothing.", "few", "ninety-nine"))
    assert "How often. (default: 99)" in shown
    assert "Folder of all runs." in shown
